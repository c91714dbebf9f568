"""The three kinds of failure, and the mistakes that a user can mend.

::

    ParallelixError
      |-- UserError        the user's input or environment is wrong; the CLI prints one line and exits with 2
      |-- FatalError       going on would be wrong; the process stops and a person must act
      |-- TransientError   the outside world failed for now; the same call may succeed later
      `-- SkipError        this item can never succeed; go on with the next

The message of each says what a person needs in order to act. Rooms derive their own from these, e.g.
`chain.rpc.BlockUnknownError` from TransientError.
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
