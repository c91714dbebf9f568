"""The agent's metrics, as `/metrics` shows them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from offchain.node.engines.model_server import Engine, EngineState
from offchain.runtime.metrics import Histogram, Sample, family, labels

_PREFIX = "parallelix_node_"


@dataclass(slots=True)
class NodeMetrics:
    """Counts of one agent.

    Attributes:
        requests: by outcome.
        tokens: by direction.
        seconds: from a request's admission to its last byte.
        heartbeats: by receiver and outcome; `front` is the label's name since the first version.
    """

    requests: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    tokens: dict[str, int] = field(default_factory=lambda: {"prompt": 0, "completion": 0})
    seconds: Histogram = field(default_factory=Histogram)
    heartbeats: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def render(self, slots: int, slots_used: int, engines: Sequence[Engine]) -> bytes:
        """All families in Prometheus' text format."""
        counters: dict[str, list[Sample]] = {
            "requests_total": [(labels(outcome=o), n) for o, n in self.requests.items()],
            "tokens_total": [(labels(direction=d), n) for d, n in self.tokens.items()],
            "heartbeats_total": [
                (labels(front=url, outcome=o), n) for (url, o), n in self.heartbeats.items()
            ],
        }
        gauges: dict[str, list[Sample]] = {
            "slots": [("", slots)],
            "slots_used": [("", slots_used)],
            "engine_up": [(labels(model=e.name), int(e.state is EngineState.UP)) for e in engines],
            "engine_restarts": [(labels(model=e.name), e.restarts) for e in engines],
        }
        lines: list[str] = []
        for kind, families in (("counter", counters), ("gauge", gauges)):
            for name, samples in families.items():
                lines += family(_PREFIX + name, kind, samples)
        lines += self.seconds.lines(f"{_PREFIX}request_seconds")
        return ("\n".join(lines) + "\n").encode()
