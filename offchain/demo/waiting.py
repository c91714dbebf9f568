"""Waiting on conditions, always with a bound."""

import time
from collections.abc import Callable
from typing import TypeVar

from offchain.errors import UserError

T = TypeVar("T")


def until(what: str, condition: Callable[[], T | None], seconds: float, every_seconds: float = 0.2) -> T:
    """The first truthy value of `condition`.

    Raises:
        UserError: it stayed falsy for `seconds`; the line names `what`.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise UserError(f"waited {seconds:.0f} s for {what}; see the logs in the run folder")
        time.sleep(every_seconds)
