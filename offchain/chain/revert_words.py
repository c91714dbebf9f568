"""How a revert is said in words: every custom error of our contracts and of OpenZeppelin's, and what to do about it.

The only body of these words. The outbox, the node's owner commands and the scripts decode with `RevertDecoder`; the
dashboard hands `table()` to the browser, whose wallet fills in the same sentences. tests/unit/chain/test_revert_words.py
fails when a compiled contract has an error that `_WORDS` lacks.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeAlias

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from offchain.chain.abi import AbiEntry, ContractAbi, json_value, signature, type_text
from offchain.domain.amounts import prlx
from offchain.domain.eip712 import keccak256

ShownAs: TypeAlias = str | list[str] | None
"""How an argument is shown: `prlx` (wei), `utc` (Unix seconds), `percent` (basis points), `seconds`, `text32` (letters in
a bytes32), the names of an enumeration's members, or None: as it is."""

_MEMBERS: Mapping[str, list[str]] = {
    "epoch_status": ["open", "pending", "final", "lapsed"],
    "node_state": ["unknown", "idle", "active", "cooling", "retired"],
    "request_status": ["unknown", "open", "fulfilled", "refunded"],
    "slash_state": ["unknown", "pending", "vetoed", "executed"],
}

# One error an entry: its declaration, a colon, its words. An argument is written `type name`, or `type name form` where
# a form of ShownAs or a name in _MEMBERS applies.
_WORDS = """
# --- deployment and parameters
InvalidParameter(bytes32 name text32, uint256 value, uint256 min, uint256 max):
    The parameter {name} is {value}; it must lie between {min} and {max}.
NotAContract(bytes32 name text32, address account):
    The address {account} given as {name} has no code; deploy that contract first, or name the right address.
ZeroAddress(): An address is zero; name a real one.
FeeSplitOutOfRange(uint256 totalBps percent, uint256 maxBps percent):
    The fee shares add up to {totalBps}; they may take at most {maxBps}.
InvalidAttestation(address attestation):
    {attestation} cannot become the attestation contract: one is wired already, it has no code, or its challenge
    windows last longer than the leave delay.
InvalidCollector(address collector): {collector} cannot become the collector: one is wired already, or it has no code.
InvalidMarket(address market): {market} cannot become the market: one is wired already, or it has no code.
EnforcedPause(): The contract is paused; try again once it is unpaused. Withdrawals and claims are never paused.
ExpectedPause(): The contract is not paused, so there is nothing to unpause.
ReentrancyGuardReentrantCall():
    A contract called back into the contract that was calling it; make the second call in a transaction of its
    own.
# --- nodes
StakeOutOfRange(uint256 stake prlx, uint256 min prlx, uint256 max prlx):
    A stake of {stake} is not allowed; stake at least {min} and at most {max}.
InvalidTier(uint8 tier): There is no tier {tier}; choose 1 to 4.
InvalidNodeKey(bytes32 nodeKeyHash):
    {nodeKeyHash} is no node key's hash, or belongs to the owner's own wallet; make a key on the node's machine.
NodeKeyInUse(bytes32 nodeKeyHash, uint32 nodeId):
    This node key already serves node {nodeId}; make another key on the node's machine.
NodeLimitReached(uint32 limit): The network is full: all {limit} node ids are given out.
UnknownNode(uint32 nodeId): There is no node {nodeId}; check the id.
NotNodeOwner(uint32 nodeId, address caller, address owner):
    Node {nodeId} belongs to {owner}, not to {caller}; use its owner's wallet.
WrongState(uint32 nodeId, uint8 state node_state):
    Node {nodeId} is {state}, and the call needs another state; read the node's state again.
StillCooling(uint32 nodeId, uint64 unlockAt utc, uint64 nowAt utc):
    Node {nodeId} still cools down; withdraw its stake from {unlockAt} on.
# --- keepers
BondOutOfRange(uint256 bond prlx, uint256 min prlx, uint256 max prlx):
    A bond of {bond} is not allowed; bond at least {min} and at most {max}.
InvalidSigner(address signer):
    {signer} cannot become a keeper's signer: it is zero or was a keeper's signer before; make another key.
KeeperSetFull(uint256 limit): The next epoch has {limit} keepers already; join again when one has left.
UnknownKeeper(uint32 keeperId): There is no keeper {keeperId}; check the id.
NotKeeperOperator(uint32 keeperId, address caller, address operator):
    Keeper {keeperId} belongs to {operator}, not to {caller}; use its operator's wallet.
AlreadyLeaving(uint32 keeperId): Keeper {keeperId} has already asked to leave.
NotLeaving(uint32 keeperId): Keeper {keeperId} has not asked to leave; ask first, then withdraw after the delay.
BondLocked(uint32 keeperId, uint64 unlockAt utc, uint64 nowAt utc):
    The bond of keeper {keeperId} is locked; withdraw it from {unlockAt} on.
NothingToWithdraw(uint32 keeperId): Nothing of keeper {keeperId}'s bond is left to withdraw.
InvalidGateway(address signer, uint32 keeperId):
    The gateway key {signer} cannot be listed or removed: it is zero, or keeper {keeperId} (0: no keeper) lists
    it.
NotAttestation(address caller): Only the attestation contract may do this, not {caller}.
WrongSlashState(uint256 slashId, uint8 state slash_state):
    Slash {slashId} is {state}; only a pending one can be executed or vetoed.
VetoWindowOpen(uint256 slashId, uint64 executableAt utc, uint64 nowAt utc):
    Slash {slashId} can still be vetoed; execute it from {executableAt} on.
VetoWindowClosed(uint256 slashId, uint64 executableAt utc, uint64 nowAt utc):
    Slash {slashId} could be vetoed until {executableAt}; the time is over.
# --- reports and appeals
EpochNotOver(uint32 epoch, uint64 endsAt utc, uint64 nowAt utc): Epoch {epoch} is not over; report it from {endsAt} on.
WrongStatus(uint32 epoch, uint8 status epoch_status):
    Epoch {epoch} is {status}: reports need an open epoch, appeals and rejections a pending one, slashing for an
    overruled report a final one.
WrongKeeperSet(bytes32 given, bytes32 expected):
    The report names the keeper set {given}, and the epoch's set is {expected}; sign it anew for that set.
EmptyRoot(uint32 epoch): The report of epoch {epoch} has no uptime root; build it anew from the evidence.
TooManyNodes(uint32 nodeCount, uint32 limit):
    The report covers {nodeCount} nodes, and only {limit} are registered; build it anew from final blocks.
ReportWasRejected(bytes32 reportDigest):
    A guardian rejected the report {reportDigest}; it does not count any more, so make another.
UnknownSigner(uint256 signerBitmap, uint256 setSize):
    The signer bitmap {signerBitmap} names a keeper outside the epoch's set of {setSize}.
QuorumNotReached(uint256 signers, uint256 quorum):
    Only {signers} keepers signed, and {quorum} are needed; wait for more signatures.
WrongSignaturesLength(uint256 length, uint256 expected):
    The signatures are {length} bytes long instead of {expected}: 65 bytes for each signer in the bitmap.
InvalidSignature(uint256 index, address expected, address recovered):
    The signature at index {index} is by {recovered} instead of {expected}.
InvalidProof(uint32 epoch, uint32 nodeId):
    The proof for node {nodeId} does not fit the report of epoch {epoch}; fetch the proof anew.
NodeNotCovered(uint32 epoch, uint32 nodeId, uint32 nodeCount):
    The report of epoch {epoch} covers nodes 1 to {nodeCount}, not node {nodeId}.
UptimeOutOfRange(uint32 epoch, uint32 nodeId, uint16 uptimeBps percent):
    The report of epoch {epoch} attests {uptimeBps} uptime to node {nodeId}, which is more than there is.
WrongSlotOrder(uint256 index, uint16 slot):
    Slot {slot} of the evidence (entry {index}) does not exist or does not come after the entry before; sort by
    slot and give each slot once.
InvalidNodeEvidence(uint16 slot, address recovered):
    The receipt of slot {slot} is signed by {recovered}, which is no key of this node.
InvalidKeeperEvidence(uint16 slot, address recovered):
    The receipt of slot {slot} is signed by {recovered}, which is not the keeper that it names.
WithinTolerance(uint16 attested percent, uint16 recounted percent):
    The receipts prove {recounted}, and {attested} are attested; an appeal must prove more than 1 % above that.
NotEquivocation(bytes32 digestA, bytes32 digestB):
    The two reports {digestA} and {digestB} are the same, or of different epochs; that is no equivocation.
AlreadyProven(uint32 epoch, uint256 signerIndex):
    That the keeper at index {signerIndex} signed two reports of epoch {epoch} was shown before.
# --- rewards
EpochNotFinal(uint32 epoch, uint8 status epoch_status):
    Epoch {epoch} is {status}; try again when it is final, after its challenge window.
EpochNotLapsed(uint32 epoch, uint8 status epoch_status):
    Epoch {epoch} is {status}; only the pool of a lapsed epoch is carried on.
AlreadyClaimed(uint32 nodeId, uint32 epoch): Node {nodeId} was already paid for epoch {epoch}.
ClaimExpired(uint32 epoch, uint64 deadline utc, uint64 nowAt utc):
    The rewards of epoch {epoch} could be claimed until {deadline}; the time is over.
ClaimStillOpen(uint32 epoch, uint64 deadline utc, uint64 nowAt utc):
    The rewards of epoch {epoch} can be claimed until {deadline}; sweep its pool after that.
NoWeight(uint32 nodeId, uint32 epoch): Node {nodeId} was not active in epoch {epoch}, so there is nothing to claim.
EpochSettled(uint32 epoch): The pool of epoch {epoch} was carried on or swept; nothing is left in it.
ScheduleOverlaps(uint32 startEpoch, uint32 earliest):
    A schedule cannot start at epoch {startEpoch}; the earliest free epoch is {earliest}.
# --- credits and vouchers
ZeroAmount(): The amount is zero; give a larger one.
AmountTooLarge(uint256 amount prlx, uint256 max prlx): {amount} are too much; at most {max} fit.
InsufficientBalance(address payer, uint256 balance prlx, uint256 needed prlx):
    {payer} has {balance} of credits, and {needed} are asked for; deposit the difference or ask for less.
NothingThawing(address payer): No withdrawal of {payer} is under way; request one first.
StillThawing(address payer, uint64 thawedAt utc, uint64 nowAt utc):
    The credits of {payer} still thaw; withdraw them from {thawedAt} on.
SignerAlreadyBound(address signer, address payer):
    The signer {signer} is zero, or already signs for {payer}; use another key.
InvalidProof(address signer, address recovered):
    The authorisation is signed by {recovered} instead of {signer}; sign it with the key that it names.
ProofExpired(uint64 deadline utc, uint64 nowAt utc): The authorisation was valid until {deadline}; make another.
NotPayersSigner(address signer, address payer): {signer} may not sign for {payer}; the payer has to authorise it first.
NotCollector(address caller): Only the collector contract may do this, not {caller}.
NothingToCollect(address payer, uint32 nodeId, uint256 collected prlx):
    Node {nodeId} has collected {collected} of {payer} already, and nothing more now: the voucher states no more,
    or the signer's cap or the payer's balance is used up.
# --- on-chain requests
PriceOutOfRange(uint256 price prlx, uint256 min, uint256 max prlx):
    A price ceiling of {price} is not allowed; it must be above zero and at most {max}.
PayloadOutOfRange(uint256 length, uint256 max): A payload of {length} bytes is not allowed; send 1 to {max} bytes.
DeadlineOutOfRange(uint64 deadline utc, uint64 earliest utc, uint64 latest utc):
    A deadline of {deadline} is not allowed; choose one from {earliest} to {latest}.
WrongStatus(bytes32 requestId, uint8 status request_status):
    The request {requestId} is {status}; only an open one can be fulfilled or refunded.
DeadlinePassed(bytes32 requestId, uint64 deadline utc, uint64 nowAt utc):
    The request {requestId} could be fulfilled until {deadline}; only a refund is possible now.
DeadlineNotPassed(bytes32 requestId, uint64 deadline utc, uint64 nowAt utc):
    The request {requestId} can still be fulfilled until {deadline}; ask for the refund after that.
RequestHashMismatch(bytes32 given, bytes32 expected):
    The receipt is for the request body {given}, and the request's is {expected}.
ResultHashMismatch(bytes32 given, bytes32 expected):
    The receipt is for the result {given}, and the result handed in is {expected}.
PoeMismatch(bytes32 given, bytes32 expected):
    The proof of execution {given} does not bind request, result and node; {expected} would.
PriceAboveCeiling(uint256 price prlx, uint256 ceiling prlx):
    The node asks {price}, and the request pays at most {ceiling}.
InvalidNodeSignature(uint32 nodeId, address recovered):
    The receipt of node {nodeId} is signed by {recovered}, which is not the node's key.
InsufficientCallbackGas(uint256 left, uint256 needed):
    {left} gas are left for the requester's callback, and {needed} are needed; send it with a higher gas limit.
# --- the token
UnexpectedTransferAmount(uint256 expected prlx, uint256 received prlx):
    The token moved {received} instead of {expected}; tokens that take a fee on transfers cannot be used.
SafeERC20FailedOperation(address token): The token {token} refused the transfer; check balance and allowance.
ERC20InsufficientAllowance(address spender, uint256 allowance prlx, uint256 needed prlx):
    {spender} may take {allowance} and needs {needed}; approve or sign the permit again.
ERC20InsufficientBalance(address sender, uint256 balance prlx, uint256 needed prlx):
    {sender} holds {balance} and needs {needed}; send it the difference first.
ERC20InvalidApprover(address approver): {approver} cannot approve transfers.
ERC20InvalidReceiver(address receiver): {receiver} cannot receive tokens; name another address.
ERC20InvalidSender(address sender): {sender} cannot send tokens.
ERC20InvalidSpender(address spender): {spender} cannot be approved; name another address.
ERC2612ExpiredSignature(uint256 deadline utc): The permit was valid until {deadline}; sign again.
ERC2612InvalidSigner(address signer, address owner):
    The permit is signed by {signer} instead of {owner}; sign again with the owner's wallet.
InvalidAccountNonce(address account, uint256 currentNonce):
    The signature of {account} uses another nonce than {currentNonce}; sign again.
ECDSAInvalidSignature(): The signature is malformed; sign again.
ECDSAInvalidSignatureLength(uint256 length): The signature is {length} bytes long instead of 65; sign again.
ECDSAInvalidSignatureS(bytes32 s): The signature's s value {s} is not the lower one; sign again.
InvalidShortString(): A text of the deployment is malformed; deploy with a name of at most 31 bytes.
StringTooLong(string str): The text {str} is too long; use at most 31 bytes.
CheckpointUnorderedInsertion():
    A value was to be recorded before an earlier one; this is a fault of the contract, report it.
SafeCastOverflowedUintDowncast(uint8 bits, uint256 value): The value {value} does not fit {bits} bits.
# --- who may do what
AccessManagedUnauthorized(address caller): {caller} lacks the role for this call; use the account that holds it.
AccessManagedRequiredDelay(address caller, uint32 delay seconds):
    {caller} must schedule this call {delay} ahead; schedule it, then execute it.
AccessManagedInvalidAuthority(address authority): {authority} cannot be the access manager: it has no code.
AccessManagerAlreadyScheduled(bytes32 operationId): The operation {operationId} is scheduled already.
AccessManagerBadConfirmation(): To renounce a role, name your own account.
AccessManagerExpired(bytes32 operationId): The operation {operationId} was not executed in time; schedule it again.
AccessManagerInvalidInitialAdmin(address initialAdmin): {initialAdmin} cannot be the first admin.
AccessManagerLockedFunction(bytes4 selector): The role of the function {selector} cannot be changed.
AccessManagerLockedRole(uint64 roleId): The role {roleId} cannot be changed.
AccessManagerNotReady(bytes32 operationId): The delay of the operation {operationId} is not over; execute it later.
AccessManagerNotScheduled(bytes32 operationId): The operation {operationId} is not scheduled; schedule it first.
AccessManagerUnauthorizedAccount(address msgsender, uint64 roleId):
    {msgsender} lacks the role {roleId}; use an account that holds it.
AccessManagerUnauthorizedCall(address caller, address target, bytes4 selector):
    {caller} may not call the function {selector} of {target}; use an account with the role for it.
AccessManagerUnauthorizedCancel(address msgsender, address caller, address target, bytes4 selector):
    {msgsender} may not cancel what {caller} scheduled for the function {selector} of {target}.
AccessManagerUnauthorizedConsume(address target): {target} does not take scheduled calls.
AccessControlBadConfirmation(): To renounce a role, name your own account.
AccessControlUnauthorizedAccount(address account, bytes32 neededRole):
    {account} lacks the role {neededRole}; use an account that holds it.
TimelockInsufficientDelay(uint256 delay seconds, uint256 minDelay seconds):
    A delay of {delay} is too short; schedule at least {minDelay} ahead.
TimelockInvalidOperationLength(uint256 targets, uint256 payloads, uint256 values):
    The operation has {targets} targets, {payloads} payloads and {values} values; give as many of each.
TimelockUnauthorizedCaller(address caller): Only the timelock itself may do this, not {caller}.
TimelockUnexecutedPredecessor(bytes32 predecessorId): The operation {predecessorId} has to be executed first.
TimelockUnexpectedOperationState(bytes32 operationId, bytes32 expectedStates):
    The operation {operationId} is not in the state that this call needs; check its schedule.
AddressEmptyCode(address target): {target} has no code, so it cannot be called.
FailedCall(): The called contract failed without saying why.
InsufficientBalance(uint256 balance, uint256 needed): The contract has {balance} wei of ether and needs {needed} wei.
"""

_PANICS: Mapping[int, str] = {
    0x00: "failed inside the compiler's own code",
    0x01: "assertion failed",
    0x11: "arithmetic overflow",
    0x12: "division by zero",
    0x21: "no such member of an enumeration",
    0x22: "malformed bytes in storage",
    0x31: "pop of an empty array",
    0x32: "index out of range",
    0x41: "out of memory",
    0x51: "call of an unset function",
}
_ERROR_STRING = keccak256(b"Error(string)")[:4]
_PANIC = keccak256(b"Panic(uint256)")[:4]
_MALFORMED = (DecodingError, ValueError, OverflowError)


@dataclass(frozen=True, slots=True)
class Revert:
    """A decoded revert.

    Attributes:
        code: what rules match, e.g. `WrongStatus(42, 1)`; without a custom error a phrase, e.g. `reverted: text`.
        words: what is wrong and what to do, as sentences; empty when `code` says all that is known.
    """

    code: str
    words: str = ""

    def __str__(self) -> str:
        return f"{self.code}: {self.words}" if self.words else self.code


@dataclass(frozen=True, slots=True)
class _Error:
    name: str
    inputs: tuple[AbiEntry, ...]
    forms: tuple[ShownAs, ...]
    words: str

    def revert(self, body: bytes) -> Revert:
        """Raises one of _MALFORMED when the bytes are no arguments of this error."""
        values = decode([type_text(item) for item in self.inputs], body)
        shown = [json_value(item, value) for item, value in zip(self.inputs, values, strict=True)]
        arguments = {
            item["name"]: _shown(value, form)
            for item, value, form in zip(self.inputs, shown, self.forms, strict=True)
        }
        words = re.sub(r"\{(\w+)\}", lambda found: arguments[found[1]], self.words)
        return Revert(f"{self.name}({', '.join(map(str, shown))})", words)


class RevertDecoder:
    """Reads revert data of any of our contracts, also of errors that a called contract passed on.

    Example: `str(RevertDecoder().decode(data))` gives `UnknownNode(77): There is no node 77; check the id.`
    """

    def __init__(self, abis: Iterable[ContractAbi] = ()) -> None:
        """Errors that only `abis` know are shown by name and arguments, without words."""
        self._errors = dict(_known())
        for abi in abis:
            for selector, entry in abi.errors.items():
                inputs = tuple(entry["inputs"])
                self._errors.setdefault(selector, _Error(entry["name"], inputs, (None,) * len(inputs), ""))

    def decode(self, data: bytes | None) -> Revert:
        """What a revert says."""
        if not data:
            return Revert("reverted without a reason")
        selector, body = data[:4], data[4:]
        try:
            if selector == _ERROR_STRING:
                return Revert(f"reverted: {decode(['string'], body)[0]}")
            if selector == _PANIC:
                code = decode(["uint256"], body)[0]
                return Revert(f"panic {code:#04x}: {_PANICS.get(code, 'see the Solidity manual')}")
            if selector in self._errors:
                return self._errors[selector].revert(body)
        except _MALFORMED:
            return Revert(f"reverted with malformed error 0x{selector.hex()}")
        return Revert(f"reverted with unknown error 0x{selector.hex()}")


def table() -> dict[str, dict[str, Any]]:
    """The words for a browser, by selector (0x-hex of four bytes).

    Each value holds `name`, `inputs` (`name`, `type` and `shown_as`, see `ShownAs`) and `words`, in which `{name}` stands
    for an argument. Example: `"0x…": {"name": "InvalidTier", "inputs": [{"name": "tier", "type": "uint8", "shown_as":
    None}], "words": "There is no tier {tier}; choose 1 to 4."}`.
    """
    return {
        "0x" + selector.hex(): {
            "name": error.name,
            "inputs": [
                {"name": item["name"], "type": item["type"], "shown_as": form}
                for item, form in zip(error.inputs, error.forms, strict=True)
            ],
            "words": error.words,
        }
        for selector, error in _known().items()
    }


@cache
def _known() -> Mapping[bytes, _Error]:
    found = {}
    # A line that begins with white space goes on with the one before; `#` begins a heading.
    entries = re.sub(r"\n\s+", " ", _WORDS).strip().split("\n")
    for name, listed, words in (
        re.split(r"[()]:? ?", entry, maxsplit=2) for entry in entries if entry[0] != "#"
    ):
        parts = [part.split() for part in listed.split(", ") if part]
        inputs = tuple({"type": kind, "name": argument} for kind, argument, *_ in parts)
        forms = tuple(_MEMBERS.get(form[0], form[0]) if form else None for _, _, *form in parts)
        selector = keccak256(signature({"name": name, "inputs": inputs}).encode())[:4]
        found[selector] = _Error(name, inputs, forms, words)
    return found


def _shown(value: str, form: ShownAs) -> str:
    if isinstance(form, list):
        return form[int(value)] if int(value) < len(form) else f"in state {value}"
    return str(value) if form is None else _FORMS[form](value)


def _utc(seconds: str) -> str:
    try:
        return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError, OSError):
        return f"Unix second {seconds}"


def _text32(value: str) -> str:
    return bytes.fromhex(value[2:]).rstrip(b"\0").decode(errors="replace")


_FORMS: Mapping[str, Callable[[str], str]] = {
    "prlx": lambda wei: prlx(int(wei)),
    "utc": _utc,
    "percent": lambda bps: f"{int(bps) / 100:g} %",
    "seconds": lambda seconds: f"{int(seconds):,} seconds",
    "text32": _text32,
}
