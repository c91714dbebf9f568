"""What the endpoints work with."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from offchain.dispatch.dispatcher import Dispatcher
from offchain.gateway.batches.routes import BatchRoutes
from offchain.gateway.cluster import ClusterState
from offchain.gateway.metrics import GatewayMetrics
from offchain.gateway.records.execution_log import ExecutionLog
from offchain.gateway.records.request_log import RequestLog
from offchain.gateway.tenants.authenticator import Authenticator
from offchain.protocol.heartbeats import HeartbeatVerifier
from offchain.protocol.receipts import ReceiptVerifier
from offchain.scheduler.fleet import Fleet
from offchain.scheduler.quotas import Quotas
from offchain.workloads.inference.whole_answer import Proved, cannot_tell


@dataclass(slots=True)
class GatewayDependencies:
    """What the service works with.

    Attributes:
        new_id: a fresh 32-byte request id.
        ready: why the gateway cannot serve, or None when it can.
        shared: what is exchanged with other gateways; None when there is no Redis.
        batches: the routes of files and batches; None when there is no Redis.
        compiled: whether the hot path runs as native code.
        executions: the records of answered requests that the epochs' reports commit to.
        proved: whether an answer's proof is right, see `pair_mac`.
        seal: signs the record of a request; adds the gateway's address and signature.
    """

    engine: Dispatcher
    fleet: Fleet
    keys: Authenticator
    heartbeats: HeartbeatVerifier
    receipts: ReceiptVerifier
    book: RequestLog
    metrics: GatewayMetrics
    new_id: Callable[[], bytes]
    ready: Callable[[], str | None]
    quotas: Quotas
    seal: Callable[[dict[str, Any]], dict[str, Any]]
    executions: ExecutionLog
    shared: ClusterState | None = None
    batches: BatchRoutes | None = None
    compiled: bool = False
    proved: Proved = cannot_tell
    first_byte_seconds: float = 10.0
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    clock: Callable[[], float] = time.monotonic
