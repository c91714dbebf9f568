"""One model and its servers: a request goes to the healthy server with the fewest running requests."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from offchain.node.engines.model_server import Engine, EngineState
from offchain.node.errors import ServeError
from offchain.node.machine.manifest import ServedModel


class Backend:
    """One model and the servers that serve it."""

    def __init__(self, model: ServedModel, engines: Sequence[Engine]) -> None:
        self.model = model
        self.engines = tuple(engines)
        self._running = [0] * len(self.engines)

    @property
    def up(self) -> bool:
        """Whether any of its servers is healthy."""
        return any(engine.state is EngineState.UP for engine in self.engines)

    @contextmanager
    def pick(self) -> Iterator[Engine]:
        """The healthy server with the fewest running requests. Raises ServeError when none is healthy."""
        healthy = [i for i, engine in enumerate(self.engines) if engine.state is EngineState.UP]
        if not healthy:
            reason = self.engines[0].reason
            raise ServeError(503, "model_down", f"the model server is down: {reason}; use another node")
        index = min(healthy, key=self._running.__getitem__)
        self._running[index] += 1
        try:
            yield self.engines[index]
        finally:
            self._running[index] -= 1
