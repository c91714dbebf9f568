"""What the state machines share: each example starts from a snapshot and goes back to it, and errors are expected by name.

PARALLELIX_PROFILE=long runs many more and longer examples, PARALLELIX_PROFILE=mutant a single one.
"""

import os
from typing import Any, ClassVar

from ape import chain
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, run_state_machine_as_test

from tests.support.contracts.factory import EPOCH, World, error_of, now, warp

PROFILE = os.environ.get("PARALLELIX_PROFILE", "quick")
LONG = PROFILE == "long"
# A step may take a few seconds of chain time; checks this close to a deadline are left to the boundary table.
MARGIN = 12


class ContractMachine(RuleBasedStateMachine):
    """Rules are calls; the model of a subclass says what each must do.

    Attributes:
        world: the network, prepared by the test.
    """

    world: ClassVar[World]

    @initialize()
    def start(self) -> None:
        self.snapshot = chain.snapshot()
        self.begin()

    def begin(self) -> None:
        """Set the model up."""
        raise NotImplementedError

    def end(self) -> None:
        """What must hold when the sequence is over."""

    def teardown(self) -> None:
        if hasattr(self, "snapshot"):
            try:
                self.end()
            finally:
                chain.restore(self.snapshot)

    def epoch_now(self) -> int:
        return max(0, now() - self.world.genesis) // EPOCH

    def close_to(self, *times: int) -> bool:
        here = now() - self.world.genesis
        return any(abs(now() - t) < MARGIN for t in times) or min(here % EPOCH, EPOCH - here % EPOCH) < MARGIN

    def go(self, seconds: int) -> None:
        """Let time pass, but not to the edge of an epoch."""
        target = now() + seconds
        into = (target - self.world.genesis) % EPOCH
        if into < 2 * MARGIN or EPOCH - into < 2 * MARGIN:
            target += 4 * MARGIN
        warp(target)

    def expect(self, expected: str, call: Any) -> Any:
        """Make a call that must succeed (expected is empty) or revert with this custom error; its receipt."""
        error, receipt = error_of(self.world, call)
        assert error == expected, f"expected {expected or 'success'}, got {error or 'success'}"
        return receipt


def run(machine: type[ContractMachine], world: World, *, examples: int, steps: int) -> None:
    """Run a machine over a prepared network: ten times the examples and three times the steps in the long profile."""
    bound = type(machine.__name__, (machine,), {"world": world})
    run_state_machine_as_test(
        bound,
        settings=settings(
            max_examples={"long": 10 * examples, "mutant": 1}.get(PROFILE, examples),
            stateful_step_count=3 * steps if LONG else steps,
            deadline=None,
            derandomize=not LONG,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
