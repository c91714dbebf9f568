"""The least that a tier must do. A probe that is slower than its node's floor is a miss: tiers are proven, not declared."""

from dataclasses import dataclass

from offchain.domain.tiers import Tier


@dataclass(frozen=True, slots=True)
class Floor:
    """Performance that a tier must at least have, as a keeper sees it through a gateway.

    Attributes:
        first_token_ms: time until the answer begins.
        tokens_per_second: rate after that.
    """

    first_token_ms: int
    tokens_per_second: int

    def allowed_ms(self, tokens: int) -> int:
        """Longest time, in ms, that an answer of this many tokens may take."""
        return self.first_token_ms + tokens * 1000 // self.tokens_per_second


FLOORS: dict[Tier, Floor] = {
    Tier.CPU: Floor(first_token_ms=6_000, tokens_per_second=1),
    Tier.MID_GPU: Floor(first_token_ms=2_000, tokens_per_second=20),
    Tier.HEAVY_GPU: Floor(first_token_ms=1_000, tokens_per_second=40),
    Tier.SPECIALISED: Floor(first_token_ms=1_000, tokens_per_second=40),
}
