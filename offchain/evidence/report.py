"""Reports as JSON, the signatures under them, and the bitmap that the contract expects."""

from collections.abc import Mapping
from typing import Any

from offchain.domain.eip712 import address_bytes, hex_bytes
from offchain.domain.messages import EpochReport
from offchain.domain.types import Epoch
from offchain.evidence.epoch_context import EpochContext, KeeperInfo
from offchain.evidence.signature_pool import account_of

_FIELDS = ("epoch", "uptimeRoot", "nodeCount", "executionRoot", "bundleHash", "keeperSetDigest")
"""The contract's names, in the order of `EpochReport`."""


def report_json(report: EpochReport) -> dict[str, Any]:
    """The report with the contract's field names."""
    named = zip(_FIELDS, report, strict=True)
    return {name: "0x" + value.hex() if isinstance(value, bytes) else value for name, value in named}


def report_from_json(data: Any) -> EpochReport:
    """Inverse of `report_json`. Raises ValueError when malformed."""
    if not isinstance(data, dict):
        raise ValueError("a report is an object")  # noqa: TRY004 - the caller catches one kind
    try:
        epoch, root, count, *hashes = (data[name] for name in _FIELDS)
        words = (hex_bytes(value, 32) for value in hashes)
        report = EpochReport(Epoch(int(epoch)), hex_bytes(root, 32), int(count), *words)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the report is malformed: {error}") from None
    # Against its own rendering: no other fields, and no second spelling of a hash or number.
    if report.epoch < 0 or report.node_count < 0 or report_json(report) != data:
        raise ValueError("the report is malformed")
    return report


def differences(own: EpochReport, other: EpochReport) -> dict[str, dict[str, Any]]:
    """Fields in which two reports differ, with both values. A keeper publishes this when it does not sign."""
    ours, theirs = report_json(own), report_json(other)
    differing = [name for name in ours if ours[name] != theirs[name]]
    return {name: {"own": ours[name], "proposed": theirs[name]} for name in differing}


def signer_of(context: EpochContext, report: EpochReport, signature: bytes) -> KeeperInfo | None:
    """The keeper of the epoch's set that signed this report, None when no keeper of the set did."""
    found = account_of(context.attestation.digest(report.struct_hash()), signature)
    return None if found is None else context.by_signer.get(found)


def pack_signatures(context: EpochContext, signatures: Mapping[str, bytes]) -> tuple[int, bytes]:
    """Bitmap and signatures in the contract's form.

    Args:
        signatures: by signer address, all valid.
    """
    by_address = {address_bytes(signer): signature for signer, signature in signatures.items()}
    bitmap, packed = 0, b""
    # The contract walks the bitmap upwards and takes the next 65 bytes for each set bit.
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
    return hex_bytes(text, 65)
