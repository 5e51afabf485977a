"""What a handler did with its messages: the counts in a report."""

from __future__ import annotations

from collections import Counter

import attrs

from transport.handling.attempts import Attempts
from transport.testing.invariants import Place
from transport.types import TP


@attrs.frozen
class Failure:
    """A failed attempt of a handler.

    Attributes:
        handler: the name of the handler.
        tp, offset: the place of the message.
        attempt: the number of the attempt, counted from 1.
        error: the error of the attempt.
        delay: the seconds until the next attempt. None: the handler made no further attempt.
    """

    handler: str
    tp: TP
    offset: int
    attempt: int
    error: Exception
    delay: float | None


@attrs.define
class Outcomes:
    """What one handler did with its messages: how often, for each place.

    Attributes:
        handled: the function has returned.
        filtered: the filter has refused the message.
        retried: an attempt has failed, and the handler makes another one.
        dead_letters: a dead letter was delivered.
        skipped: the message was skipped after its last attempt.
        failures: each failed attempt, in order.
    """

    handled: Counter[Place] = attrs.field(factory=Counter)
    filtered: Counter[Place] = attrs.field(factory=Counter)
    retried: Counter[Place] = attrs.field(factory=Counter)
    dead_letters: Counter[Place] = attrs.field(factory=Counter)
    skipped: Counter[Place] = attrs.field(factory=Counter)
    failures: list[Failure] = attrs.field(factory=list)

    def times_done(self, place: Place) -> int:
        """Return how often the handler has finished the message, in one way or another."""
        return sum(
            counts[place]
            for counts in (self.handled, self.filtered, self.dead_letters, self.skipped)
        )

    def add_failure(
        self, handler: str, place: Place, attempts: Attempts, delay: float | None
    ) -> None:
        """Add a failed attempt, the last one of `attempts`."""
        self.failures.append(Failure(handler, *place, attempts.failed, attempts.error, delay))
        if delay is not None:
            self.retried[place] += 1
