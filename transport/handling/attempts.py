"""The failed attempts to handle a message, and the memory of them across aborted transactions.

Nothing here knows trio or Kafka.
"""

from __future__ import annotations

import math

import attrs

from transport.types import TP


@attrs.define(eq=False)
class Attempts:
    """The failed attempts to handle one message or batch.

    Attributes:
        first: the time of the first failure, in seconds since 1970.
        last: the time of the last failure.
        error: the error of the last failure.
        failed: the number of attempts that have failed.
        due: the time of the next attempt, on trio's clock.
        is_spent: no attempt follows: the message is treated as `dead_letters` says.
    """

    first: float
    last: float
    error: Exception
    failed: int = 0
    due: float = 0.0
    is_spent: bool = False

    @classmethod
    def of(cls, error: Exception, now: float) -> Attempts:
        """Return one failed attempt, at a time in seconds since 1970."""
        return cls(first=now, last=now, error=error, failed=1)

    def add(self, error: Exception, now: float) -> None:
        """Add a failure at a time, in seconds since 1970."""
        self.failed += 1
        self.last = now
        self.error = error


class AttemptMemory:
    """What is known of messages whose transaction was aborted, until they are redelivered.

    Args:
        limit: the most messages of which the attempts are kept. Beyond it, the oldest is forgotten.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._attempts: dict[tuple[TP, int], Attempts] = {}
        self._cuts: dict[TP, set[int]] = {}

    def __len__(self) -> int:
        return len(self._attempts)

    def keep(self, tp: TP, offset: int, attempts: Attempts) -> None:
        """Keep the attempts of a message."""
        self._attempts[tp, offset] = attempts
        if len(self._attempts) > self._limit:
            del self._attempts[next(iter(self._attempts))]

    def find(self, tp: TP, offset: int) -> Attempts | None:
        """Return the attempts of a message, if there are any."""
        return self._attempts.get((tp, offset))

    def remove(self, tp: TP, offset: int) -> None:
        """Remove the attempts of a message."""
        self._attempts.pop((tp, offset), None)

    def cut(self, tp: TP, offset: int) -> None:
        """Note that a batch failed, and that a part of it begins at an offset."""
        self._cuts.setdefault(tp, set()).add(offset)

    def cuts(self, tp: TP) -> list[int]:
        """Return the offsets at which the parts of batches begin, in order."""
        return sorted(self._cuts.get(tp, ()))

    def forget(self, tp: TP, below: float = math.inf) -> None:
        """Forget the messages of a partition below an offset."""
        for place in [place for place in self._attempts if place[0] == tp and place[1] < below]:
            del self._attempts[place]
        if left := {offset for offset in self._cuts.pop(tp, ()) if offset >= below}:
            self._cuts[tp] = left
