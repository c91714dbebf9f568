"""Everything that the endpoints use, handed in by `gateway.main`."""

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
    """What `GatewayService` and `Inference` use; tests hand in their own.

    Attributes:
        new_id: a fresh 32-byte request id.
        ready: why the gateway cannot serve now; None when it can.
        cluster: what gateways on one Redis share; None without Redis.
        batches: routes of OpenAI's files and batches; None without Redis.
        compiled: whether the hot path runs as native code (adr/0088).
        executions: execution records of answered requests, which epoch reports commit to.
        proved: says whether an answer's MAC is the node's, see `protocol.pair_mac`.
        sign_record: adds `gateway` (address) and `signature` to a request's record, see `RouteReceiptSigner`.
    """

    dispatcher: Dispatcher
    fleet: Fleet
    authenticator: Authenticator
    heartbeats: HeartbeatVerifier
    receipts: ReceiptVerifier
    request_log: RequestLog
    metrics: GatewayMetrics
    new_id: Callable[[], bytes]
    ready: Callable[[], str | None]
    quotas: Quotas
    sign_record: Callable[[dict[str, Any]], dict[str, Any]]
    executions: ExecutionLog
    cluster: ClusterState | None = None
    batches: BatchRoutes | None = None
    compiled: bool = False
    proved: Proved = cannot_tell
    first_byte_seconds: float = 10.0
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    clock: Callable[[], float] = time.monotonic
