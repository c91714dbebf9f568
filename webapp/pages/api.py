"""Data for the wallet's script: addresses and ABIs, claims and appeals with their proofs, refusals in words."""

import re
from typing import Any

from flask import Blueprint, Response, jsonify, request

from webapp.settings import DashboardSettings
from webapp.sources.chain import ChainUnavailableError
from webapp.sources.sources import Sources
from webapp.sources.uptime_trees import Trees
from webapp.views.appeals import AppealBuilder, answers_of
from webapp.views.claims import ClaimBuilder
from webapp.views.transactions import revert_words
from webapp.web.errors import PageError, unknown_node
from webapp.web.json_view import jsonable
from webapp.web.url_params import address_of, epoch_of, node_id_of

_REVERT_DATA = re.compile(r"0x(?:[0-9a-f]{2}){0,1000}")
_CALLED = {
    "ParallelixToken": {"balanceOf", "allowance", "approve", "nonces", "eip712Domain"},
    "NodeRegistryLocker": {
        "registerNode",
        "registerNodeWithPermit",
        "requestUnstake",
        "cancelUnstake",
        "withdrawStake",
        "setBeneficiary",
        "setNodeKey",
        "setCapabilities",
    },
    "RewardDistributor": {"claim", "claimMany"},
    "UptimeAttestation": {"appeal"},
    "CreditVault": {"deposit", "depositWithPermit", "requestWithdrawal", "cancelWithdrawal", "withdraw"},
}


def blueprint(sources: Sources, settings: DashboardSettings) -> Blueprint:
    """`/api/v1/...`."""
    routes = Blueprint("api", __name__, url_prefix="/api/v1")
    trees = Trees()
    claims = ClaimBuilder(sources, trees)
    appeals = AppealBuilder(sources, trees)
    wallet = _wallet(sources, settings)

    @routes.get("/wallet")
    def contracts() -> Response:
        return jsonify(wallet)

    @routes.get("/operators/<text>/claims")
    def operator_claims(text: str) -> Response:
        return jsonify(jsonable(claims.of_operator(address_of(text), _epoch())))

    @routes.get("/nodes/<text>/claims")
    def node_claims(text: str) -> Response:
        node_id = node_id_of(text)
        view = claims.of_node(node_id, _epoch())
        if view is None:
            raise unknown_node(node_id)
        return jsonify(jsonable(view))

    @routes.route("/nodes/<text>/epochs/<number>/appeal", methods=["GET", "POST"])
    def appeal(text: str, number: str) -> Response:
        node_id = node_id_of(text)
        try:
            brought = answers_of(request.get_json(silent=True)) if request.method == "POST" else []
            view = appeals.view(node_id, epoch_of(number), brought)
        except ValueError as error:
            raise PageError(400, "The receipts are malformed", f"{error}.") from None
        except ChainUnavailableError as error:
            raise PageError(503, "The chain cannot be read just now", f"{error}.") from None
        if view is None:
            raise unknown_node(node_id)
        return jsonify(jsonable(view))

    @routes.get("/reverts/<data>")
    def revert(data: str) -> Response:
        if not _REVERT_DATA.fullmatch(data):
            raise PageError(
                400, "That is not revert data", "Give 0x and at most 1,000 bytes of lower-case hex."
            )
        return jsonify({"words": revert_words(sources.chain, bytes.fromhex(data[2:]))})

    def _epoch() -> int | None:
        text = request.args.get("epoch")
        return epoch_of(text) if text else None

    return routes


def _wallet(sources: Sources, settings: DashboardSettings) -> dict[str, Any]:
    deployment = sources.deployment
    contracts = {}
    for name, functions in _CALLED.items():
        if name in deployment.contracts:
            ref = deployment.contracts[name]
            abi = [
                dict(entry) for entry in ref.abi if entry["type"] == "function" and entry["name"] in functions
            ]
            contracts[name] = {"address": ref.address, "abi": abi}
    return {
        "chain_id": deployment.chain_id,
        "chain_name": settings.chain_name or f"ParalleliX {deployment.network}",
        "rpc_url": settings.public_rpc_url,
        "currency": settings.currency_symbol,
        "explorer": settings.explorer_url,
        "contracts": contracts,
    }
