"""The credits page: a payer's prepaid balance for API traffic, as the credit vault keeps it."""

from dataclasses import dataclass

from offchain.chain.reader import Read
from webapp.sources.chain import ChainUnavailableError
from webapp.sources.sources import Sources
from webapp.sources.status import Status


@dataclass(frozen=True, slots=True)
class CreditsView:
    """The credits page.

    Attributes:
        present: whether the network has a vault.
        balance_wei: amount that vouchers can be redeemed against, with the thawing part; None while the chain cannot be read.
        thawing_wei: amount that the payer asked back.
        thawed_at: Unix second from which that amount can be withdrawn; 0 when nothing thaws.
        wallet_wei: tokens that the account itself holds.
        thaw_seconds: length of a thaw.
        signers: number of voucher signers that the payer ever authorised.
    """

    status: Status
    address: str
    present: bool
    balance_wei: int | None
    thawing_wei: int
    thawed_at: int
    wallet_wei: int | None
    thaw_seconds: int
    signers: int
    chain_error: str | None

    @property
    def withdrawable(self) -> bool:
        """Whether an amount was asked back and its thaw is over."""
        return bool(self.thawed_at) and self.thawed_at <= self.status.now

    @property
    def payable_wei(self) -> int:
        """Amount that a withdrawal pays, wei: at most the balance that redeemed vouchers left."""
        return min(self.thawing_wei, self.balance_wei or 0)


def credits_of(sources: Sources, address: str) -> CreditsView:
    """The page of a checksummed address, at the index's block. Raises IndexUnavailableError."""
    status = sources.present_status()
    if "CreditVault" not in sources.deployment.contracts:
        return CreditsView(status, address, False, None, 0, 0, None, 0, 0, None)
    reads = [
        Read("CreditVault", "accounts", (address,)),
        Read("ParallelixToken", "balanceOf", (address,)),
        Read("CreditVault", "THAW_PERIOD"),
        Read("CreditVault", "signerCount", (address,)),
    ]
    try:
        account, wallet, thaw, signers = sources.chain.read(reads, status.ref)
    except ChainUnavailableError as failure:
        return CreditsView(status, address, True, None, 0, 0, None, 0, 0, str(failure))
    if account is None:
        return CreditsView(status, address, True, None, 0, 0, wallet, 0, 0, "the vault was not there yet")
    balance, thawing, thawed_at = account["balance"], account["thawing"], account["thawedAt"]
    rest = wallet, thaw or 0, signers or 0, None
    return CreditsView(status, address, True, balance, thawing, thawed_at, *rest)
