"""Signs of life in the broker's Redis: when each step last ran, so that silent workers and a dead beat are noticed."""

from collections.abc import Iterable
from typing import cast

import redis

from offchain.errors import TransientError
from offchain.runtime.clock import Clock

_PREFIX = "parallelix:pulse:"
_KEPT_SECONDS = 3_600


class Pulse:
    """When steps ran, by name. Raises TransientError when Redis cannot be reached."""

    def __init__(self, client: "redis.Redis", clock: Clock) -> None:
        self._redis = client
        self._clock = clock

    def beat(self, name: str) -> None:
        """Note that a step ran well, now."""
        try:
            self._redis.set(_PREFIX + name, self._clock.now_ms(), ex=_KEPT_SECONDS)
        except redis.RedisError as error:
            raise TransientError(f"the broker does not answer: {type(error).__name__}") from error

    def first(self, name: str, seconds: int) -> bool:
        """Whether nobody asked this within the last `seconds`."""
        try:
            return bool(self._redis.set(_PREFIX + name, 1, nx=True, ex=seconds))
        except redis.RedisError as error:
            raise TransientError(f"the broker does not answer: {type(error).__name__}") from error

    def ages_ms(self, names: Iterable[str]) -> dict[str, int | None]:
        """Milliseconds since each step ran; None for one that never did."""
        listed = list(names)
        try:
            values = cast("list[bytes | None]", self._redis.mget([_PREFIX + name for name in listed]))
        except redis.RedisError as error:
            raise TransientError(f"the broker does not answer: {type(error).__name__}") from error
        now = self._clock.now_ms()
        return {
            name: None if value is None else max(0, now - int(value))
            for name, value in zip(listed, values, strict=True)
        }
