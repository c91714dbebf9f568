"""When a second attempt is worth its cost."""

from dataclasses import dataclass


@dataclass(slots=True)
class HedgePolicy:
    """When a second attempt may be started: at the 95th percentile of the time to the first byte.

    Attributes:
        share: of all work (in units of cost) that may be spent on second attempts; 0 turns hedging off.
        budget: what is left to spend now.
        max_budget: what may be saved up.
    """

    share: float = 0.0
    budget: float = 0.0
    max_budget: float = 100_000.0

    def earn(self, cost: int) -> None:
        """A unit came: its share may be spent."""
        self.budget = min(self.max_budget, self.budget + self.share * cost)

    def spend(self, cost: int) -> bool:
        """Pay for a second attempt; False when the budget does not hold it."""
        if self.share <= 0 or self.budget < cost:
            return False
        self.budget -= cost
        return True
