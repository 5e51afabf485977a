"""Simulations: run your app through crashes, rebalances and faults, on a broker in the process.

    def billing(broker):                       # one process of your app
        app = App("billing", broker=broker)

        @app.handler(app.topic("orders"))
        async def bill(order): ...

        return app

    simulate(billing, topics={"orders": 3}, seed=7).check()

Members of the app start, stop and crash as a history says. Then one more member does the remaining
work. The report says how often each record was done, and its `check` fails if a record was lost.

A record is done when its handlers have finished it. An app without handlers reports its work
itself, with the function `done`:

    async def billing(broker, done):           # it runs until it is cancelled
        async with App("billing", broker=broker) as app:
            async for order in app.topic("orders").noack():
                async with order:
                    await bill(order.value)
                    done(order)                # the work is done, and its effect is permanent
"""

from __future__ import annotations

import inspect
import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeAlias, cast

import attrs
import trio

from transport.app import App
from transport.arguments import function, instance, or_none, seconds
from transport.drivers.base import Driver
from transport.drivers.memory import MemoryBroker, MemoryDriver
from transport.errors import TransportError
from transport.message import AnyMessage
from transport.testing.faults import Fault, FaultyDriver
from transport.testing.handler_events import HandlerEvents, MemberObserver
from transport.testing.history import History, Write, numbers_of_partitions
from transport.testing.invariants import Books, InvariantViolated
from transport.testing.payloads import Payload, Records, payload
from transport.testing.replacement import without_servers
from transport.testing.report import Report
from transport.testing.schedule import PATIENCE, run_while
from transport.testing.timeline import Timeline
from transport.types import TP


class Done(Protocol):
    """A function that reports messages whose work is done and whose effect is permanent."""

    def __call__(self, *messages: AnyMessage) -> None: ...


AppFactory: TypeAlias = (
    Callable[[Driver], App | Awaitable[object]] | Callable[[Driver, Done], App | Awaitable[object]]
)
"""A function that is one process of an app; see `simulate`."""


def simulate(
    app_factory: AppFactory,
    *,
    topics: Mapping[str, int],
    outputs: Mapping[str, int] | None = None,
    seed: int = 0,
    history: History | None = None,
    records: Records | None = None,
    patience: float = 600.0,
    may_fail: type[Exception] | tuple[type[Exception], ...] = TransportError,
) -> Report:
    """Run an app on a broker in the process, through a history, and then to the end of its work.

    The clock jumps, so a run takes only the time of its computations.

    Args:
        app_factory: a function that is one process of the app. Several may run at once. It receives
            a broker, and returns an `App` of this broker, which runs until it is stopped or
            crashes. Or it is an async function that opens such an app itself, and runs until it is
            cancelled. If it has a second argument, that is a function to call with the messages
            whose work is done. If it has none, a message is done when its handlers have finished
            it. In both cases, a message is done when a handler has filtered or skipped it, or has
            sent its dead letter.
        topics: the topics that the app reads, with their numbers of partitions. The history writes
            to them.
        outputs: the topics that the app writes to, for `Report.outputs`, in the same form.
        seed: decides the history and every order: of ready tasks, of the partitions in a poll, and
            of the reports on sent messages.
        history: the events. None: a history that is drawn from the seed.
        records: a function of a partition and of a number, counted from 0 in each partition. It
            returns the payload of that record: a tuple of key, value and headers, or of key and
            value. Records that an event has payloads for do not count. None: a record has no key,
            and its offset as value.
        patience: seconds for the remaining work after the history. A handler's delay before a retry
            does not count.
        may_fail: errors that may end a member, such as those of an unreachable broker or of a
            fenced member. They are not in `Report.errors`.
    """
    function("app_factory", app_factory, "a function of a broker that returns an App")
    numbers_of_partitions("topics", topics)
    if outputs is not None:
        numbers_of_partitions("outputs", outputs)
    or_none(instance, "history", history, kind=History, expected="a History or None")
    or_none(function, "records", records, expected="a function of a partition and a number")
    seconds("patience", patience)
    history = history or History.drawn(seed, dict(topics))
    order = random.Random(seed)
    simulation = _Simulation(
        app_factory, history, dict(outputs or {}), records, patience, may_fail, order
    )
    run_while(simulation.play, lambda: simulation.most, seed=seed)
    return Report(
        seed=seed,
        history=history,
        books=simulation.books,
        handlers=simulation.handlers.outcomes,
        broker=simulation.broker,
        outputs=simulation.read_outputs(),
        violation=simulation.violation,
        errors=simulation.errors,
        timeline=simulation.timeline,
        is_default=records is None and not any(_has_payloads(event) for event in history.events),
    )


def _has_payloads(event: object) -> bool:
    return isinstance(event, Write) and event.records is not None


def _takes_done(app_factory: AppFactory) -> bool:
    """Return whether an app factory has a second argument, for `done`."""
    try:
        inspect.signature(app_factory).bind(None, None)
    except TypeError:
        return False
    return True


@attrs.define(eq=False)
class _Member:
    """A running member."""

    name: str
    driver: FaultyDriver
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)
    has_crashed: bool = False


class _Simulation:
    """The broker and the members that a history changes, and the checks on them.

    Attributes:
        most: the most seconds of the whole run. Each delay of a retry may raise it.
    """

    def __init__(
        self,
        app_factory: AppFactory,
        history: History,
        outputs: Mapping[str, int],
        records: Records | None,
        patience: float,
        may_fail: type[Exception] | tuple[type[Exception], ...],
        order: random.Random,
    ) -> None:
        self.books = Books()
        self.timeline = Timeline()
        self.violation: InvariantViolated | None = None
        self.errors: list[BaseException] = []
        self._takes_done = _takes_done(app_factory)
        self.handlers = HandlerEvents(
            self.books, self.timeline, not self._takes_done, self._on_delay
        )
        self.most = PATIENCE + patience + sum(event.after for event in history.events)
        self._app_factory = app_factory
        self._history = history
        self._outputs = outputs
        self._records = records
        self._numbers: Counter[TP] = Counter()  # of records with payloads of `records`
        self._patience = patience
        self._may_fail = may_fail
        self._order = order
        self.broker = MemoryBroker(on_commit=self._on_commit)
        self._members: list[_Member] = []
        self._names = 0
        self._broken: dict[str, list[Fault]] = {}
        self._changed = trio.Event()
        self._rest = trio.CancelScope()  # of the remaining work
        for topic, partitions in [*history.topics.items(), *outputs.items()]:
            self.broker.create_topic(topic, partitions)

    async def play(self) -> None:
        failure: Exception | None = None
        async with trio.open_nursery() as self._nursery:
            try:
                await self._play_events()
            except Exception as error:  # noqa: BLE001 - raised below, without a group around it
                failure = error
            else:
                await self._do_the_rest()
            self._nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if self.violation is None:
            self._check(lambda: self.books.check_end(self._ends()))

    async def _play_events(self) -> None:
        for event in self._history.events:
            await trio.sleep(event.after)
            await event.happen(self)
        self._broken.clear()
        for member in list(self._members):
            await self._end(member, "is stopped")

    async def _do_the_rest(self) -> None:
        self._rest.deadline = trio.current_time() + self._patience
        with self._rest:
            while not self.books.is_at_rest(self._ends()):
                if not self._members:
                    await trio.sleep(1)  # a supervisor restarts a process after a while
                    await self.start()
                self._changed = trio.Event()
                await self._changed.wait()
            # Readers of committed records wait for transactions that a crash has left open.
            transactions = self.broker.transactions
            while (deadline := transactions.next_deadline()) < math.inf:
                await trio.sleep_until(deadline)
                transactions.expire(trio.current_time())

    def _ends(self) -> dict[TP, int]:
        return {
            tp: self.broker.log(tp).end
            for topic in sorted(self.broker.topics)
            if self._is_read(topic)
            for tp in self.broker.partitions(topic)
        }

    def _is_read(self, topic: str) -> bool:
        return topic in self._history.topics or self.handlers.has_reader(topic)

    # Events

    async def start(self) -> None:
        self._names += 1
        name = f"member {self._names}"
        driver = FaultyDriver(MemoryDriver(broker=self.broker), self, order=self._order)
        member = _Member(name, driver)
        driver.observer = MemberObserver(self.handlers, name, lambda: member.has_crashed)
        self._members.append(member)
        self.timeline.add(name, "starts")
        self._nursery.start_soon(self._live, member)

    async def stop(self, member: int) -> None:
        if self._members:
            await self._end(self._members[member % len(self._members)], "is stopped")

    async def crash(self, member: int) -> None:
        if self._members:
            victim = self._members[member % len(self._members)]
            victim.has_crashed = True
            await victim.driver.crash()
            await self._end(victim, "crashes")

    def write(self, tp: TP, count: int, records: Sequence[Payload] | None = None) -> None:
        log = self.broker.log(tp)
        offsets = []
        for number in range(count):
            key, value, headers = self._payload(tp) if records is None else records[number]
            offsets.append(log.append(key, value, headers, self.broker.clock()))
        self.timeline.add("", f"{tp}: {count} records from {offsets[0]} on")
        self.books.on_written(tp, offsets)
        log.changed.notify()

    def _payload(self, tp: TP) -> Payload:
        if self._records is None:
            return None, b"%d" % self.broker.log(tp).end, ()
        number = self._numbers[tp]
        self._numbers[tp] += 1
        return payload("the result of records", tp.topic, self._records(tp, number))

    def write_aborted(self, tp: TP, count: int) -> None:
        log = self.broker.log(tp)
        transaction = object()
        for _ in range(count):
            log.append(None, b"aborted", (), self.broker.clock(), transaction)
        log.end_transaction(transaction, committed=False)
        self.timeline.add("", f"{tp}: {count} records that are aborted")
        log.changed.notify()

    def leave_gap(self, tp: TP, count: int) -> None:
        self.timeline.add("", f"{tp}: a gap of {count}")
        self.broker.gap(tp, count)

    def add_partitions(self, topic: str, count: int) -> None:
        self.timeline.add("", f"{topic}: {count} more partitions")
        self.broker.add_partitions(topic, count)

    def cut_off(self, tp: TP, count: int) -> None:
        end = max(0, self.broker.log(tp).end - count)
        self.timeline.add("", f"{tp}: its records from {end} on are lost")
        self.books.on_cut_off(tp, end)
        self.broker.cut_off(tp, end)

    def break_next(self, call: str, fault: Fault) -> None:
        self.timeline.add("", f"the next {call} has a fault: {fault}")
        self._broken.setdefault(call, []).append(fault)

    # Members

    def of(self, call: str) -> Fault | None:
        """Return the fault of a call: this object is the `Faults` of every member."""
        faults = self._broken.get(call)
        return faults.pop(0) if faults else None

    async def _live(self, member: _Member) -> None:
        try:
            with member.scope:
                await self._run_app(member)
        except BaseExceptionGroup as group:
            self._on_failure(member, group)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
            self._on_failure(member, error)
        finally:
            self.timeline.add(member.name, "has ended")
            if member in self._members:
                self._members.remove(member)
            member.ended.set()
            self._changed.set()

    async def _run_app(self, member: _Member) -> None:
        def done(*messages: AnyMessage) -> None:
            self._on_done(member, messages)

        factory = cast(Callable[..., App | Awaitable[object]], self._app_factory)
        made = factory(member.driver, done) if self._takes_done else factory(member.driver)
        if not isinstance(made, App):
            await made
            return
        if made.driver is not member.driver:
            raise TypeError(
                f"the app factory returned an app with another broker, {made!r}: pass the argument"
                " of the app factory on, as in App(..., broker=broker)"
            )
        made.settings = without_servers(made.settings)
        async with made:
            await made.wait_stopped()

    def _on_failure(self, member: _Member, error: BaseException) -> None:
        if isinstance(error, BaseExceptionGroup):
            _, rest = error.split(trio.Cancelled)
            if rest is None:
                raise error
            error = rest
        self.timeline.add(member.name, f"fails: {error!r}")
        if not member.has_crashed and not _is_all(error, self._may_fail):
            self.errors.append(error)

    async def _end(self, member: _Member, how: str) -> None:
        self.timeline.add(member.name, how)
        member.scope.cancel()
        await member.ended.wait()

    # Observation

    def _on_done(self, member: _Member, messages: tuple[AnyMessage, ...]) -> None:
        if member.has_crashed:
            return  # a crashed process does no work
        for message in messages:
            self.timeline.add(member.name, f"is done with {message.tp} offset {message.offset}")
            self.books.on_done(message.tp, message.offset)

    def _on_commit(self, group: str, offsets: Mapping[TP, int]) -> None:
        mine = {tp: offset for tp, offset in offsets.items() if self._is_read(tp.topic)}
        places = ", ".join(f"{tp}: {offset}" for tp, offset in sorted(mine.items()))
        self.timeline.add("", f"{group} has committed {places}")
        self._check(lambda: self.books.on_committed(mine))
        self._changed.set()

    def _on_delay(self, delay: float) -> None:
        """Give the run more time, because a handler waits for this long before a retry."""
        due = trio.current_time() + delay
        self.most = max(self.most, due + self._patience + PATIENCE)
        self._rest.deadline = max(self._rest.deadline, due + self._patience)

    def _check(self, check: Callable[[], None]) -> None:
        """Check the books. The first violation ends the simulation."""
        try:
            check()
        except InvariantViolated as violation:
            self.timeline.add("", str(violation))
            if self.violation is None:
                self.violation = InvariantViolated(f"{violation}{self._hint}")
            self._nursery.cancel_scope.cancel()

    @property
    def _hint(self) -> str:
        """An addition to the text of a violation, if nothing can say that a record is done."""
        if self.books.done:
            return ""
        outcomes = self.handlers.outcomes
        if not self._takes_done and not outcomes:
            return (
                ". The app has no handlers, so nothing tells which records are done: give the app"
                " factory a second argument, done, and call it"
            )
        if self._takes_done and any(each.handled for each in outcomes.values()):
            return (
                ". A handler has returned and has not called done: call it in the handler, or give"
                " the app factory no argument done, so that handled records are done"
            )
        return ""

    def read_outputs(self) -> Counter[bytes | None]:
        """Return how often each value is in the outputs, for a reader of committed records."""
        return Counter(
            record.value
            for topic in self._outputs
            for tp in self.broker.partitions(topic)
            for record in self.broker.log(tp).read(0, 1 << 40, committed=True).records
        )


def _is_all(error: BaseException, kinds: type[Exception] | tuple[type[Exception], ...]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_all(part, kinds) for part in error.exceptions)
    return isinstance(error, kinds)
