"""Counters of a gateway and their text form for Prometheus."""

from collections import defaultdict
from dataclasses import dataclass, field

from offchain.runtime.metrics import Histogram, Sample, family, labels

_PREFIX = "parallelix_gateway_"


@dataclass(slots=True)
class GatewayMetrics:
    """Counters of one gateway process. Label values are from fixed sets, never a caller's text."""

    requests: dict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))
    attempts: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    heartbeats: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    prompt_tokens: int = 0
    completion_tokens: int = 0
    internal_errors: int = 0
    seconds: Histogram = field(default_factory=Histogram)
    first_byte_seconds: Histogram = field(default_factory=Histogram)

    def render(self, gauges: dict[str, int]) -> bytes:
        """All metric families as text; `gauges` are name -> present value."""
        tokens = {"prompt": self.prompt_tokens, "completion": self.completion_tokens}
        counters: dict[str, list[Sample]] = {
            "requests_total": [(labels(route=r, status=s), n) for (r, s), n in self.requests.items()],
            "attempts_total": [(labels(outcome=o, reason=why), n) for (o, why), n in self.attempts.items()],
            "heartbeats_total": [(labels(result=r), n) for r, n in self.heartbeats.items()],
            "tokens_total": [(labels(direction=d), n) for d, n in tokens.items()],
            "internal_errors_total": [("", self.internal_errors)],
        }
        lines: list[str] = []
        for name, samples in counters.items():
            lines += family(_PREFIX + name, "counter", samples)
        for name, value in gauges.items():
            lines += family(_PREFIX + name, "gauge", [("", value)])
        lines += self.seconds.lines(f"{_PREFIX}request_seconds")
        lines += self.first_byte_seconds.lines(f"{_PREFIX}first_byte_seconds")
        return ("\n".join(lines) + "\n").encode()
