"""Whether a node is what its manifest says: settings, chain, agent and model server are compared."""

from collections.abc import Iterator

import httpx

from offchain.chain.reader import NodeView
from offchain.domain.tiers import Tier
from offchain.errors import UserError
from offchain.node.machine.findings import MachineFinding, failed, http_fault, passed, warned
from offchain.node.machine.manifest import Manifest, manifest_of
from offchain.node.machine.status import agent_state, engine_access, fetch
from offchain.node.settings import NodeSettings
from offchain.protocol.manifests import contradictions

_TIMEOUT_SECONDS = 5.0
_PUBLISH = "run `parallelix node update`, or `parallelix node register` again where the owner's key is"


def check_manifest(settings: NodeSettings, node: NodeView) -> Iterator[MachineFinding]:
    """Compare what a registered node declares with what it offers and with what its first model server has loaded."""
    try:
        manifest = manifest_of(settings)
    except UserError as error:
        yield failed("manifest", str(error))
        return
    short = f"0x{manifest.hash().hex()[:8]}..."
    if manifest.hash() != node.capability_hash:
        reason = f"these settings give {short}, on chain is 0x{node.capability_hash.hex()[:8]}..."
        yield failed("manifest", reason, _PUBLISH)
        return
    state = agent_state(settings)
    if state is None:
        yield passed("manifest", f"{short} as on chain; no agent runs here to compare")
        return
    try:
        shown = fetch(settings, f"{state['url']}/manifest").content
    except (httpx.HTTPError, OSError) as error:
        reason = f"the agent does not show it: {http_fault(error)}"
        yield failed("manifest", reason, "see `parallelix node logs`")
        return
    wrong = contradictions(shown, node.capability_hash, Tier(node.tier), state["offer"])
    if wrong:
        remedy = "restart the agent with these settings: `parallelix node update`"
        yield failed("manifest", ", ".join(wrong), remedy)
        return
    yield passed("manifest", f"{short} as on chain, and what the agent offers")
    yield from _check_server(settings, manifest)


def _check_server(settings: NodeSettings, manifest: Manifest) -> Iterator[MachineFinding]:
    """Compare the manifest with the first model server's own list of models."""
    access, declared = engine_access(settings), manifest.models[0]
    if access is None:
        return
    url, key = access
    try:
        headers = {"Authorization": f"Bearer {key}"}
        answer = httpx.get(f"{url}/v1/models", headers=headers, timeout=_TIMEOUT_SECONDS)
        served = {str(model["id"]): model.get("max_model_len") for model in answer.json()["data"]}
    except (ValueError, KeyError, TypeError, httpx.HTTPError) as error:
        yield warned("served model", f"the model server does not list its models ({type(error).__name__})")
        return
    if declared.name not in served:
        reason = f"the model server serves {', '.join(served)}, not {declared.name}"
        yield failed("served model", reason, _PUBLISH)
    elif (length := served[declared.name]) is not None and length != declared.context_length:
        yield failed(
            "served model",
            f"{declared.name} is loaded with {length} tokens of context, {declared.context_length} are declared",
            "set max_model_len to what is loaded",
        )
    else:
        length = declared.context_length
        yield passed("served model", f"{declared.name} with {length} tokens of context, as declared")
