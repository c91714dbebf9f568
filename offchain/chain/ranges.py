"""How many blocks to ask for at once."""

from dataclasses import dataclass

_FORGET_AFTER = 64
"""Successes after which a refused size is tried again: a refusal may have been about dense blocks, not about length."""


@dataclass(slots=True)
class AdaptiveRange:
    """Doubles while answers are quick and small, halves when they are slow, large or refused.

    Attributes:
        size: blocks of the next question.
        target_seconds: an answer slower than this halves, one quicker than a quarter of it doubles.
        target_logs: the same for the number of logs.
    """

    size: int = 100
    smallest: int = 1
    largest: int = 100_000
    target_seconds: float = 2.0
    target_logs: int = 20_000
    _ceiling: int | None = None
    _successes: int = 0

    def succeeded(self, seconds: float, logs: int) -> None:
        """Learn from an answer to a question of `size` blocks."""
        self._successes += 1
        if self._ceiling is not None and self._successes >= _FORGET_AFTER:
            self._ceiling, self._successes = self._ceiling * 2, 0
        if seconds > self.target_seconds or logs > self.target_logs:
            self._set(self.size // 2)
        elif seconds < self.target_seconds / 4 and logs < self.target_logs / 2:
            # Below a refused size, half-way to it: that finds an endpoint's limit in a few questions.
            self._set(
                self.size * 2
                if self._ceiling is None
                else min(self.size * 2, (self.size + self._ceiling + 1) // 2)
            )

    def failed(self) -> None:
        """Learn from an error."""
        self._set(self.size // 2)

    def refused(self, blocks: int) -> None:
        """Learn that an endpoint does not give so many blocks, or so many logs, at once."""
        self._ceiling, self._successes = max(self.smallest, blocks - 1), 0
        self._set(min(self.size, blocks) // 2)

    def _set(self, size: int) -> None:
        most = self.largest if self._ceiling is None else min(self.largest, self._ceiling)
        self.size = max(self.smallest, min(most, size))
