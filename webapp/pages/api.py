"""Data for the wallet's script: addresses and ABIs, claims and appeals with their proofs, refusals in words."""

import re
from typing import Any

from flask import Blueprint, Response, jsonify, request

from webapp.settings import DashboardSettings
from webapp.sources.chain import ChainUnavailableError
from webapp.sources.sources import Sources
from webapp.sources.uptime_trees import Trees
from webapp.views.appeals import AppealBuilder, answers_of
from webapp.views.claims import claims_of
from webapp.views.transactions import revert_words
from webapp.web.errors import PageError, known_node
from webapp.web.json_view import jsonable
from webapp.web.url_params import address_of, epoch_of, node_id_of

_REVERT_DATA = re.compile(r"0x(?:[0-9a-f]{2}){0,1000}")
_LOCKER_CALLS = (
    "registerNode registerNodeWithPermit requestUnstake cancelUnstake withdrawStake"
    " setBeneficiary setNodeKey setCapabilities"
)
_CALLED = {
    "ParallelixToken": {"balanceOf", "allowance", "approve", "nonces", "eip712Domain"},
    "NodeRegistryLocker": set(_LOCKER_CALLS.split()),
    "RewardDistributor": {"claim", "claimMany"},
    "UptimeAttestation": {"appeal"},
    "CreditVault": {"deposit", "depositWithPermit", "requestWithdrawal", "cancelWithdrawal", "withdraw"},
}


def blueprint(sources: Sources, settings: DashboardSettings) -> Blueprint:
    """`/api/v1/...`."""
    routes = Blueprint("api", __name__, url_prefix="/api/v1")
    trees = Trees()
    appeals = AppealBuilder(sources, trees)
    wallet = _wallet(sources, settings)

    @routes.get("/wallet")
    def contracts() -> Response:
        return jsonify(wallet)

    @routes.get("/operators/<text>/claims")
    def operator_claims(text: str) -> Response:
        address = address_of(text)
        return jsonify(jsonable(claims_of(sources, trees, lambda index: index.nodes_of(address), _epoch())))

    @routes.get("/nodes/<text>/claims")
    def node_claims(text: str) -> Response:
        node = node_id_of(text)
        return jsonify(jsonable(claims_of(sources, trees, lambda index: [known_node(index, node)], _epoch())))

    @routes.route("/nodes/<text>/epochs/<number>/appeal", methods=["GET", "POST"])
    def appeal(text: str, number: str) -> Response:
        node_id = node_id_of(text)
        try:
            brought = answers_of(request.get_json(silent=True)) if request.method == "POST" else []
            return jsonify(jsonable(appeals.view(node_id, epoch_of(number), brought)))
        except ValueError as error:
            raise PageError(400, "The receipts are malformed", f"{error}.") from None
        except ChainUnavailableError as error:
            raise PageError(503, "The chain cannot be read just now", f"{error}.") from None

    @routes.get("/reverts/<data>")
    def revert(data: str) -> Response:
        if not _REVERT_DATA.fullmatch(data):
            advice = "Give 0x and at most 1,000 bytes of lower-case hex."
            raise PageError(400, "That is not revert data", advice)
        return jsonify({"words": revert_words(sources.chain, bytes.fromhex(data[2:]))})

    def _epoch() -> int | None:
        text = request.args.get("epoch")
        return epoch_of(text) if text else None

    return routes


def _wallet(sources: Sources, settings: DashboardSettings) -> dict[str, Any]:
    deployment = sources.deployment
    contracts = {}
    for name, called in _CALLED.items():
        if (ref := deployment.contracts.get(name)) is not None:
            abi = [dict(one) for one in ref.abi if one["type"] == "function" and one["name"] in called]
            contracts[name] = {"address": ref.address, "abi": abi}
    return {
        "chain_id": deployment.chain_id,
        "chain_name": settings.chain_name or f"ParalleliX {deployment.network}",
        "rpc_url": settings.public_rpc_url,
        "currency": settings.currency_symbol,
        "explorer": settings.explorer_url,
        "contracts": contracts,
    }
