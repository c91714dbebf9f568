"""Counts the queries of the dashboard's index, for tests and the benchmark."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import event

from webapp.index import Index


@contextmanager
def counting(index: Index) -> Iterator[list[float]]:
    """The seconds that each query inside the `with` block took, in one thread."""
    engine = index._open().engine
    times: list[float] = []
    starts: list[float] = []

    def before(*_: object) -> None:
        starts.append(time.perf_counter())

    def after(*args: object) -> None:
        took = time.perf_counter() - starts.pop()
        if args[2] != "BEGIN":
            times.append(took)

    event.listen(engine, "before_cursor_execute", before)
    event.listen(engine, "after_cursor_execute", after)
    try:
        yield times
    finally:
        event.remove(engine, "before_cursor_execute", before)
        event.remove(engine, "after_cursor_execute", after)
