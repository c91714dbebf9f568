"""Requests through a gateway without a pause, and what became of them."""

import json
import threading
from collections import Counter
from types import TracebackType
from typing import Self

import httpx


class Load:
    """Use as a context manager: inside, `workers` clients ask one request after another.

    Attributes:
        nodes: answers by node.
        lost: what clients saw that was not a whole answer.
    """

    def __init__(self, url: str, key: str, text: str = "tokens=3 delay_ms=20", workers: int = 6) -> None:
        self._url, self._key = url, key
        self._text = text
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(bool(i % 2),)) for i in range(workers)]
        self._lock = threading.Lock()
        self.nodes: Counter[str] = Counter()
        self.lost: list[str] = []

    @property
    def answered(self) -> int:
        """Whole answers until now."""
        return sum(self.nodes.values())

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _work(self, stream: bool) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": self._text}], "stream": stream}
        headers = {"Authorization": f"Bearer {self._key}"}
        with httpx.Client(timeout=30) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(f"{self._url}/v1/chat/completions", json=body, headers=headers)
                    whole = answer.status_code == 200 and (
                        answer.text.endswith("data: [DONE]\n\n")
                        if stream
                        else "choices" in json.loads(answer.text)
                    )
                    said = f"{answer.status_code} {answer.text[-300:]}"
                except httpx.HTTPError as error:
                    whole, said = False, repr(error)
                    answer = None
                with self._lock:
                    if whole and answer is not None:
                        self.nodes[answer.headers.get("x-parallelix-node", "")] += 1
                    else:
                        self.lost.append(said)
