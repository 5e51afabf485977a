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
        has_sent: with transactions, a failed attempt has sent messages, so that its transaction was
            aborted.
    """

    first: float
    last: float
    error: Exception
    failed: int = 0
    due: float = 0.0
    is_spent: bool = False
    has_sent: bool = False

    @classmethod
    def of(cls, error: Exception, now: float) -> Attempts:
        """Return one failed attempt, at a time in seconds since 1970."""
        return cls(first=now, last=now, error=error, failed=1)

    @classmethod
    def none(cls, error: Exception, now: float) -> Attempts:
        """Return no attempt, for a part of a batch that has failed as a whole."""
        return cls(first=now, last=now, error=error)

    def add(self, error: Exception, now: float) -> None:
        """Add a failure at a time, in seconds since 1970."""
        self.failed += 1
        self.last = now
        self.error = error


@attrs.frozen
class Remembered:
    """The attempts of a message, or of a part of a batch, and the offset after it."""

    attempts: Attempts
    end: int


class AttemptMemory:
    """The attempts of messages that may be redelivered, by the offset of each message.

    With transactions, an abort undoes a dead letter, and messages that have failed come again. So
    their attempts are kept until the offset of the message is committed.

    Args:
        limit: the most messages of which the attempts are kept. Beyond it, the oldest message
            without further attempts is forgotten.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._places: dict[TP, dict[int, Remembered]] = {}
        self._spent: dict[tuple[TP, int], None] = {}  # of messages without further attempts

    def __len__(self) -> int:
        return sum(map(len, self._places.values()))

    def __bool__(self) -> bool:
        return bool(self._places)

    def keep(self, tp: TP, offset: int, attempts: Attempts, end: int | None = None) -> None:
        """Keep the attempts of a message, or of the messages up to `end`, exclusive."""
        places = self._places.setdefault(tp, {})
        places[offset] = Remembered(attempts, offset + 1 if end is None else end)
        if attempts.is_spent:
            self._spent[tp, offset] = None
        if len(self._spent) > self._limit:
            self._remove(*next(iter(self._spent)))

    def find(self, tp: TP, offset: int) -> Attempts | None:
        """Return the attempts of the messages from an offset on, if there are any."""
        found = self._places.get(tp, {}).get(offset)
        return None if found is None else found.attempts

    def next(self, tp: TP) -> tuple[int, Remembered] | None:
        """Return the first place in a partition from which on messages will be tried again."""
        places = self._places.get(tp, {})
        return min(
            ((offset, each) for offset, each in places.items() if not each.attempts.is_spent),
            key=lambda place: place[0],
            default=None,
        )

    def partitions(self) -> list[TP]:
        """Return the partitions of which messages are kept."""
        return list(self._places)

    def forget(self, tp: TP, below: float = math.inf) -> None:
        """Forget the messages of a partition below an offset."""
        for offset in [offset for offset in self._places.get(tp, ()) if offset < below]:
            self._remove(tp, offset)

    def _remove(self, tp: TP, offset: int) -> None:
        self._spent.pop((tp, offset), None)
        places = self._places[tp]
        del places[offset]
        if not places:
            del self._places[tp]
