"""How much work may be spent on hedges: second attempts beside a slow first one."""

from dataclasses import dataclass


@dataclass(slots=True)
class HedgePolicy:
    """The budget of hedges. The dispatcher starts one at the 95th percentile of the time to the first byte.

    Attributes:
        share: share of all work that may be spent on hedges, 0 to 1; 0 turns hedging off.
        budget: cost that may be spent now, in the unit of `WorkUnit.cost` (tokens).
        max_budget: most that may be saved up.
    """

    share: float = 0.0
    budget: float = 0.0
    max_budget: float = 100_000.0

    def earn(self, cost: int) -> None:
        """A unit of this cost came in: add its share to the budget."""
        self.budget = min(self.max_budget, self.budget + self.share * cost)

    def spend(self, cost: int) -> bool:
        """Pay for a hedge of this cost. False when the budget is too small; then nothing is spent."""
        if self.share <= 0 or self.budget < cost:
            return False
        self.budget -= cost
        return True
