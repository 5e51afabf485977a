"""The failed attempts to handle one message."""

from __future__ import annotations

import attrs


@attrs.define(eq=False)
class Attempts:
    """The failed attempts to handle one message or batch.

    Attributes:
        failed: the number of attempts that have failed.
        first: the time of the first failure, in seconds since 1970.
        last: the time of the last failure.
        error: the error of the last failure.
        due: the time of the next attempt, on trio's clock.
        is_spent: there is no further attempt: the policy for failed messages applies.
    """

    first: float
    last: float
    error: Exception
    failed: int = 0
    due: float = 0.0
    is_spent: bool = False

    def add(self, error: Exception, now: float) -> None:
        """Add a failure at a time, in seconds since 1970."""
        self.failed += 1
        self.last = now
        self.error = error
