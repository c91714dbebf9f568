"""When each step of the schedule last ran, in the broker's Redis: so a silent worker or a dead scheduler is noticed."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import redis

from offchain.errors import TransientError
from offchain.runtime.clock import Clock

_PREFIX = "parallelix:pulse:"
_KEPT_SECONDS = 3_600


@dataclass(eq=False)
class StepAges:
    """When steps ran, by task name. Every method raises TransientError when Redis cannot be reached."""

    client: "redis.Redis"
    clock: Clock

    def ran(self, name: str) -> None:
        """Note that a step ran well, now."""
        with _broker_errors():
            self.client.set(
                _PREFIX + name, self.clock.now_ms(), ex=_KEPT_SECONDS
            )  # of removed steps nothing stays

    def first(self, name: str, seconds: int) -> bool:
        """Whether this is the first call with this name within `seconds`, in all processes of this keeper."""
        with _broker_errors():
            return bool(self.client.set(_PREFIX + name, 1, nx=True, ex=seconds))

    def ages_ms(self, names: Iterable[str]) -> dict[str, int | None]:
        """Milliseconds since each step ran; None for a step that never ran."""
        listed = list(names)
        with _broker_errors():
            values = cast("list[bytes | None]", self.client.mget([_PREFIX + name for name in listed]))
        now = self.clock.now_ms()
        return {
            name: None if value is None else max(0, now - int(value))
            for name, value in zip(listed, values, strict=True)
        }


@contextmanager
def _broker_errors() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise TransientError(f"the broker does not answer: {type(error).__name__}") from error
