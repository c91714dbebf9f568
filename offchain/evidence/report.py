"""Reports as JSON, the signatures under them, and the bitmap that the contract expects."""

from collections.abc import Mapping
from typing import Any

from offchain.domain.eip712 import address_bytes
from offchain.domain.messages import EpochReport
from offchain.domain.types import Epoch
from offchain.evidence.epoch_context import EpochContext, KeeperInfo
from offchain.evidence.signature_pool import recovered


def report_json(report: EpochReport) -> dict[str, Any]:
    """The report with the contract's field names."""
    return {
        "epoch": int(report.epoch),
        "uptimeRoot": "0x" + report.uptime_root.hex(),
        "nodeCount": report.node_count,
        "executionRoot": "0x" + report.execution_root.hex(),
        "bundleHash": "0x" + report.bundle_hash.hex(),
        "keeperSetDigest": "0x" + report.keeper_set_digest.hex(),
    }


def report_from_json(data: Any) -> EpochReport:
    """Inverse of `report_json`. Raises ValueError when malformed."""
    if not isinstance(data, dict):
        raise ValueError("a report is an object")  # noqa: TRY004 - the caller catches one kind
    try:
        report = EpochReport(
            epoch=Epoch(int(data["epoch"])),
            uptime_root=_word(data["uptimeRoot"]),
            node_count=int(data["nodeCount"]),
            execution_root=_word(data["executionRoot"]),
            bundle_hash=_word(data["bundleHash"]),
            keeper_set_digest=_word(data["keeperSetDigest"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the report is malformed: {error}") from None
    if report.epoch < 0 or report.node_count < 0 or report_json(report) != data:
        raise ValueError("the report is malformed")
    return report


def differences(own: EpochReport, other: EpochReport) -> dict[str, dict[str, Any]]:
    """Fields in which two reports differ, with both values. A keeper publishes this when it does not sign."""
    ours, theirs = report_json(own), report_json(other)
    return {
        name: {"own": ours[name], "proposed": theirs[name]} for name in ours if ours[name] != theirs[name]
    }


def signer_of(context: EpochContext, report: EpochReport, signature: bytes) -> KeeperInfo | None:
    """The keeper of the epoch's set that signed this report, None when no keeper of the set did."""
    found = recovered(context.attestation.digest(report.struct_hash()), signature)
    return None if found is None else context.by_signer.get(found)


def pack_signatures(context: EpochContext, signatures: Mapping[str, bytes]) -> tuple[int, bytes]:
    """Bitmap and signatures in the contract's form.

    Args:
        signatures: by signer address, all valid.
    """
    by_address = {address_bytes(signer): signature for signer, signature in signatures.items()}
    bitmap, packed = 0, b""
    for keeper in context.keepers:
        signature = by_address.get(address_bytes(keeper.signer))
        if signature is not None:
            bitmap |= 1 << keeper.index
            packed += signature
    return bitmap, packed


def signature_bytes(text: Any) -> bytes:
    """65 bytes of 0x-hex. Raises ValueError."""
    if not isinstance(text, str) or not text.startswith("0x"):
        raise ValueError("a signature is 0x-hex")
    raw = bytes.fromhex(text[2:])
    if len(raw) != 65:
        raise ValueError("a signature has 65 bytes")
    return raw


def _word(text: Any) -> bytes:
    raw = bytes.fromhex(text.removeprefix("0x"))
    if len(raw) != 32:
        raise ValueError(f"{text!r} is not 32 bytes")
    return raw
