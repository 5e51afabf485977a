"""The report of a simulation, and the checks on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import attrs

from transport.drivers.memory import MemoryBroker
from transport.excerpt import excerpt_of_error
from transport.testing.history import History
from transport.testing.invariants import Books, InvariantViolated, Place
from transport.testing.outcomes import Outcomes
from transport.testing.timeline import Timeline


@attrs.frozen(kw_only=True)
class Report:
    """The result of a simulation.

    Attributes:
        seed: the seed of the run. The same seed and history repeat the run.
        history: the history that was played.
        books: the records that were written and done, and the committed offsets.
        handlers: what each handler did, by its name.
        broker: the broker after the run, with all records.
        outputs: how often each value is in the output topics, for a reader of committed records.
        violation: the first violation of an invariant. None: there was none.
        errors: the errors that ended members, except of crashed members and except `may_fail`.
        timeline: all events of the run, in order.
        is_default: whether all records had the default payload: no key, and the offset as value.
    """

    seed: int
    history: History
    books: Books
    handlers: Mapping[str, Outcomes]
    broker: MemoryBroker
    outputs: Counter[bytes | None]
    violation: InvariantViolated | None
    errors: list[BaseException]
    timeline: Timeline
    is_default: bool

    @property
    def handled(self) -> Mapping[Place, int]:
        """How often the work on each record was done.

        The work is also done when a handler has filtered or skipped the record, or has sent its
        dead letter. If several handlers read a topic, all of them must have finished a record.
        """
        return self.books.done

    @property
    def lost(self) -> list[Place]:
        """The records whose work was never done."""
        return self.books.lost

    @property
    def doubled(self) -> dict[Place, int]:
        """The records whose work was done more than once, which at-least-once delivery allows."""
        return self.books.doubled

    @property
    def retried(self) -> Counter[Place]:
        """How often each record was retried, by any handler."""
        return _sum(outcomes.retried for outcomes in self.handlers.values())

    @property
    def dead_letters(self) -> Counter[Place]:
        """How often a dead letter of each record was delivered, by any handler."""
        return _sum(outcomes.dead_letters for outcomes in self.handlers.values())

    @property
    def skipped(self) -> Counter[Place]:
        """How often each record was skipped after its last attempt, by any handler."""
        return _sum(outcomes.skipped for outcomes in self.handlers.values())

    def check(self, *, all_may_fail: bool = False) -> None:
        """Raise AssertionError with the timeline if the run shows a fault.

        - An invariant was violated: a record was lost, or an offset was committed before the work
          on all records below it was done.
        - A member failed.
        - A handler failed for each record that it got: all of them went to the dead letters, or
          were skipped. Then the test has tried nothing else. As a rule, the records are wrong.

        Args:
            all_may_fail: leave out the last check.
        """
        if self.violation is not None:
            if not self.errors:
                raise self.told(self.violation) from self.violation
            first = self.errors[0]
            text = f"{self.violation}. A member failed, perhaps because of the same mistake: "
            violation = type(self.violation)(text + excerpt_of_error(first))
            raise self.told(violation) from first
        for error in self.errors:
            raise self.told(AssertionError(f"a member failed: {error!r}")) from error
        if not all_may_fail:
            for name, outcomes in self.handlers.items():
                self._check_that_some_are_handled(name, outcomes)

    def _check_that_some_are_handled(self, name: str, outcomes: Outcomes) -> None:
        topics = self.history.topics
        failed = {
            place
            for place in (*outcomes.dead_letters, *outcomes.skipped)
            if place[0].topic in topics
        }
        if not failed or outcomes.handled or outcomes.filtered:
            return
        (tp, offset), first = min(failed), outcomes.failures[0].error
        hint = (
            "the records have no key, and their offset as value: pass records= to simulate"
            if self.is_default
            else "check the records= of the simulation"
        )
        raise self.told(
            AssertionError(
                f"the handler {name} failed for each of its {len(failed)} records, such as {tp}"
                f" offset {offset}, and handled none: {excerpt_of_error(first)}. If it should have"
                f" handled some, {hint}. If not, call check(all_may_fail=True)"
            )
        )

    def told(self, error: AssertionError) -> AssertionError:
        """Return the error with the seed and the timeline, which show how to repeat it."""
        return type(error)(f"{error} (seed {self.seed})\n{self.timeline}")


def _sum(counts: Iterable[Counter[Place]]) -> Counter[Place]:
    return sum(counts, Counter())
