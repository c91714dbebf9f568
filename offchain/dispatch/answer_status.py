"""What the status of a node's answer means: a good answer, the node's fault, or the caller's fault."""

from typing import NoReturn

from offchain.dispatch.upstream import Exchange
from offchain.scheduler.work import CallerError, FaultKind, NodeError

MAX_ERROR_BYTES = 256 * 1024


async def first_bytes(exchange: Exchange) -> bytes:
    """The first bytes of an answer with a good status; empty for any other."""
    await exchange.head()
    return b"" if exchange.status >= 400 else await exchange.read()


async def refuse(exchange: Exchange) -> NoReturn:
    """Read an answer with an error status to its end, and raise the NodeError or CallerError that it means."""
    raise classify(exchange.status, await _whole(exchange))


async def _whole(exchange: Exchange) -> bytes:
    parts: list[bytes] = []
    size = 0
    while data := await exchange.read():
        parts.append(data)
        size += len(data)
        if size > MAX_ERROR_BYTES:
            raise NodeError(FaultKind.BAD_ANSWER, "an error body without end")
    return b"".join(parts)


def classify(status: int, body: bytes) -> NodeError | CallerError:
    """The error for a node's status: NodeError when another node may do better, CallerError when all would refuse."""
    if status == 429:
        return NodeError(FaultKind.NO_SLOT, "the node has no free slot")
    if status in (401, 403, 407, 409):
        return NodeError(FaultKind.REFUSED, f"status {status}: {body[:200].decode('utf-8', 'replace')}")
    # 404 and its like say something about this node only, e.g. that it has unloaded the model
    if 400 <= status < 500 and status not in (404, 405, 408):
        return CallerError(status, body)
    return NodeError(FaultKind.SERVER_ERROR, f"status {status}")
