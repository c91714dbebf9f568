"""The three kinds of failure, and the one that is a user's to mend.

An error is fatal (a person must act), transient (the same call may succeed later) or a skip (this item can
never succeed; go on with the next). Each carries what a person needs in order to act.
"""


class ParallelixError(Exception):
    """Base of every error that this package raises on purpose."""


class UserError(ParallelixError):
    """A mistake in input or environment: one line that says what is wrong and what to do. The CLI exits with 2."""


class FatalError(ParallelixError):
    """Going on would be wrong (wrong chain id, foreign code hash): the process must stop and a person must look."""


class TransientError(ParallelixError):
    """The outside world failed for now (RPC, broker, node); the caller may try again."""


class SkipError(ParallelixError):
    """This item can never succeed and must not be tried again; others are unaffected."""
