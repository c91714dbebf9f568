"""The chain that a node's settings name."""

from offchain.chain.deployment import Deployment
from offchain.chain.reader import ChainReader, PinnedReads
from offchain.chain.rpc import DEFAULT_TIMEOUT_SECONDS, Rpc
from offchain.errors import ParallelixError, TransientError
from offchain.node.settings import NodeSettings


def open_chain(settings: NodeSettings, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> ChainReader:
    """A reader of the chain, once each endpoint of `rpc_url` that answers is known to serve this deployment.

    Args:
        timeout_seconds: limit of one exchange with an endpoint.

    Raises:
        UserError: the deployment file or `rpc_url` cannot be used.
        FatalError: an endpoint serves another chain or other contracts.
        TransientError: no endpoint answers.
    """
    rpc = Rpc(settings.rpc_url, timeout_seconds=timeout_seconds)
    chain = ChainReader(rpc, Deployment.load(settings.deployment))
    try:
        chain.check()
    except ParallelixError as error:
        rpc.close()
        if isinstance(error, TransientError):
            raise TransientError(f"{error}; check rpc_url, or try again when the endpoint is back") from None
        raise
    return chain


def open_reads(settings: NodeSettings) -> PinnedReads:
    """Reads at the newest block, for one command. Raises as `open_chain`."""
    chain = open_chain(settings)
    return chain.at(chain.head_block())
