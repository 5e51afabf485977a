"""The events of the handlers of all members, for the books and the timeline of a simulation.

Look here for the moment from which a record that handlers read counts as done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from transport.excerpt import excerpt_of_error
from transport.handling.attempts import Attempts
from transport.handling.observer import Held, Observer
from transport.handling.plan import Plan
from transport.message import Batch
from transport.testing.invariants import Books, Place
from transport.testing.outcomes import Outcomes
from transport.testing.timeline import Timeline


@attrs.define(eq=False)
class HandlerEvents:
    """The events of handlers, over all members.

    Attributes:
        books: receive the records that are done.
        timeline: receives all events.
        is_automatic: whether a record is done when its handlers have finished it. Otherwise the app
            reports the records itself whose function has returned.
        on_delay: called with the seconds of each delay before a retry.
        outcomes: what each handler did, by its name.
    """

    books: Books
    timeline: Timeline
    is_automatic: bool
    on_delay: Callable[[float], None]
    outcomes: dict[str, Outcomes] = attrs.field(factory=dict)
    _plans: dict[str, Plan] = attrs.field(factory=dict)

    def add(self, plan: Plan) -> None:
        """Add a handler. Each member adds its own, under the same name."""
        self._plans[plan.name] = plan
        self.outcomes.setdefault(plan.name, Outcomes())

    def has_reader(self, topic: str) -> bool:
        """Return whether a handler reads the topic with this name."""
        return any(plan.topic.matches(topic) for plan in self._plans.values())

    def finish(self, place: Place, *, is_handled: bool) -> None:
        """Count a message that a handler has finished.

        A record is done when all handlers that read it have finished it.
        """
        if not self.is_automatic:
            if not is_handled:
                self.books.on_done(*place)
            return
        readers = [name for name, plan in self._plans.items() if plan.topic.matches(place[0].topic)]
        times = [self.outcomes[name].times_done(place) for name in readers]
        if all(times):
            for _ in range(max(times) - self.books.done[place]):
                self.books.on_done(*place)


@attrs.define(eq=False)
class MemberObserver(Observer):
    """The observer of the handlers of one member.

    Attributes:
        member: the name of the member.
        has_crashed: returns whether it has crashed. A crashed process does no work.
    """

    events: HandlerEvents
    member: str
    has_crashed: Callable[[], bool]

    def on_added(self, plan: Plan) -> None:
        self.events.add(plan)

    def on_handled(self, plan: Plan, held: Held) -> None:
        for place in self._places(plan, held, "has handled"):
            self.events.outcomes[plan.name].handled[place] += 1
            self.events.finish(place, is_handled=True)

    def on_filtered(self, plan: Plan, held: Held) -> None:
        for place in self._places(plan, held, "has filtered"):
            self.events.outcomes[plan.name].filtered[place] += 1
            self.events.finish(place, is_handled=False)

    def on_failed(self, plan: Plan, held: Held, attempts: Attempts, delay: float | None) -> None:
        then = "" if delay is None else f", and retries it in {delay:.3f} s"
        what = f"fails at attempt {attempts.failed} ({excerpt_of_error(attempts.error)}){then}, for"
        for place in self._places(plan, held, what):
            self.events.outcomes[plan.name].add_failure(plan.name, place, attempts, delay)
        if delay is not None and not self.has_crashed():
            self.events.on_delay(delay)

    def on_dead_letter(self, plan: Plan, held: Held, attempts: Attempts) -> None:
        for place in self._places(plan, held, "has sent the dead letter of"):
            self.events.outcomes[plan.name].dead_letters[place] += 1
            self.events.finish(place, is_handled=False)

    def on_skipped(self, plan: Plan, held: Held, attempts: Attempts) -> None:
        for place in self._places(plan, held, "has skipped"):
            self.events.outcomes[plan.name].skipped[place] += 1
            self.events.finish(place, is_handled=False)

    def _places(self, plan: Plan, held: Held, what: str) -> Iterator[Place]:
        """Yield the places of the messages, and add an entry to the timeline for each."""
        if self.has_crashed():
            return
        for message in held if isinstance(held, Batch) else (held,):
            self.events.timeline.add(
                self.member, f"{plan.name} {what} {message.tp} offset {message.offset}"
            )
            yield message.tp, message.offset
