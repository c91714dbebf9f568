"""Registration of a node: weight and reward that a stake in a tier would have, and whether a node key is free.

The chain is read at its newest block, where the transaction will run: the index may not know yet that a key was taken.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from offchain.chain.reader import Read
from offchain.crypto.addresses import checksum
from offchain.domain.amounts import parse_prlx
from offchain.domain.eip712 import keccak256
from offchain.domain.tiers import MULTIPLIER_BPS, Tier, weight
from offchain.domain.types import FULL_BPS, Wei
from offchain.errors import UserError
from webapp.sources.chain import ChainEpoch, ChainUnavailableError
from webapp.sources.sources import Constants, Sources
from webapp.sources.status import Status
from webapp.views.earnings import yearly_bps
from webapp.views.fleet import TIER_NAMES

MAX_STAKE_WEI = 2**128 - 1
TIER_HARDWARE = {
    Tier.CPU: "Servers without an accelerator",
    Tier.MID_GPU: "L4, A10, RTX 4090, MI210 and the like",
    Tier.HEAVY_GPU: "A100, H100, MI300 and the like",
    Tier.SPECIALISED: "TPU, FPGA, ASIC, HPC",
}
_KEY_HASH, _PUBLIC_KEY, _PREFIXED_KEY = 64, 128, 130


@dataclass(frozen=True, slots=True)
class TierChoice:
    """A tier as the first step offers it."""

    tier: int
    name: str
    hardware: str
    multiplier_bps: int


@dataclass(frozen=True, slots=True)
class Preview:
    """Weight and reward of a new node in the next epoch, if nothing else changed.

    Attributes:
        epoch: the next epoch.
        total_weight: of all nodes in that epoch, the new one included.
        reward_wei: for the epoch at full uptime.
        year_bps: that reward scaled to 365 days, over the stake, in basis points.
    """

    epoch: int
    weight: int
    total_weight: int
    pool_wei: int
    reward_wei: int
    year_bps: int


@dataclass(frozen=True, slots=True)
class RegisterView:
    """One step of the registration; a choice that was not made yet is None."""

    status: Status
    step: str
    tiers: Sequence[TierChoice]
    tier: int | None
    tier_name: str | None
    stake_wei: int | None
    key_hash: str | None
    key_address: str | None
    key_node: int | None
    constants: Constants | None
    preview: Preview | None
    problem: str | None
    chain_error: str | None


def register_step(
    sources: Sources,
    step: str,
    tier: int | None,
    stake_wei: int | None,
    key_hash: str | None,
    problem: str | None,
) -> RegisterView:
    """The step with the choices that its URL holds. Raises IndexUnavailableError."""
    status = sources.present_status()
    constants = sources.constants()
    stake = stake_wei if stake_wei is not None else (constants.min_stake_wei if constants else None)
    preview, chain_error, key_node = None, None, None
    # An account's address is the last 20 bytes of the hash of its public key.
    key_address = checksum("0x" + key_hash[-40:]) if key_hash else None
    try:
        if tier is not None and stake is not None and status.epoch is not None:
            preview = _preview(sources, status.epoch.number + 1, Tier(tier), Wei(stake))
        if key_address is not None:
            (key_node,) = sources.chain.read([Read("NodeRegistryLocker", "nodeOfKey", (key_address,))])
    except ChainUnavailableError as failure:
        chain_error = str(failure)
    if problem is None and constants and stake_wei is not None and stake_wei < constants.min_stake_wei:
        problem = "stake_low"
    if problem is None and key_node:
        problem = "key_used"
    return RegisterView(
        status=status,
        step=step,
        tiers=[TierChoice(t, TIER_NAMES[t], TIER_HARDWARE[t], MULTIPLIER_BPS[t]) for t in Tier],
        tier=tier,
        tier_name=TIER_NAMES[Tier(tier)] if tier else None,
        stake_wei=stake,
        key_hash=key_hash,
        key_address=key_address,
        key_node=key_node or None,
        constants=constants,
        preview=preview,
        problem=problem,
        chain_error=chain_error or (None if constants else "the RPC endpoint does not answer"),
    )


def _preview(sources: Sources, epoch: int, tier: Tier, stake: Wei) -> Preview | None:
    calls = (("RewardDistributor", "poolOf"), ("NodeRegistryLocker", "totalWeightAt"))
    pool, total = sources.chain.read([Read(*call, (epoch,)) for call in calls])
    if pool is None or total is None:
        return None
    own = weight(stake, tier)
    joined = ChainEpoch(pool, total + own)
    earns = joined.reward(own, FULL_BPS)
    year = yearly_bps(earns, stake, sources.clock.length_seconds) or 0
    return Preview(epoch, own, joined.total_weight, pool, earns, year)


def parse_stake(text: str) -> int | None:
    """Wei of an amount of PRLX as people type it, e.g. `50,000`, `50 000`, `50000.5`; None when it is no amount."""
    try:
        wei = parse_prlx(re.sub(r"\s", ",", text.strip()))
    except UserError:
        return None
    return wei if 0 < wei <= MAX_STAKE_WEI else None


def parse_key(text: str) -> str | None:
    """A node key's hash (0x-hex), given as the hash or as the 64-byte public key; None for any other text."""
    plain = text.strip().lower().removeprefix("0x")
    if not plain or any(letter not in "0123456789abcdef" for letter in plain):
        return None
    if len(plain) == _KEY_HASH:
        return "0x" + plain if int(plain, 16) else None
    if len(plain) == _PREFIXED_KEY and plain.startswith("04"):
        plain = plain[2:]
    if len(plain) == _PUBLIC_KEY:
        return "0x" + keccak256(bytes.fromhex(plain)).hex()
    return None
