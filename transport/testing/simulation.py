"""Simulations: run your app through crashes, rebalances and faults, on a broker in the process.

    async def billing(broker, done):           # one process of your app; it runs until cancelled
        app = App("billing", broker=broker)
        async with app:
            async for order in app.topic("orders").noack():
                async with order:
                    await bill(order.value)
                    done(order)                # the work is done, and its effect is permanent

    simulate(billing, topics={"orders": 3}, seed=7).check()

Members of the app start, stop and crash as a history says. Then one more member does the remaining
work. The report says how often each record was done, and its `check` fails if a record was lost.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import attrs
import trio

from transport.arguments import function, instance, or_none, seconds
from transport.drivers.base import Driver
from transport.drivers.memory import MemoryBroker, MemoryDriver
from transport.errors import TransportError
from transport.message import Message
from transport.testing.faults import Fault, FaultyDriver
from transport.testing.history import History, numbers_of_partitions
from transport.testing.invariants import Books, InvariantViolated, Place
from transport.testing.schedule import run
from transport.testing.timeline import Timeline
from transport.types import TP


class Done(Protocol):
    """A function that reports messages whose work is done and whose effect is permanent."""

    def __call__(self, *messages: Message) -> None: ...


AppFactory = Callable[[Driver, Done], Awaitable[object]]


@attrs.frozen(kw_only=True)
class Report:
    """The result of a simulation.

    Attributes:
        seed: the seed of the run. The same seed and history repeat the run.
        history: the history that was played.
        books: the records that were written and done, and the committed offsets.
        outputs: how often each value is in the output topics, for a reader of committed records.
        violation: the first violation of an invariant. None: there was none.
        errors: the errors that ended members, except of crashed members and except `may_fail`.
        timeline: all events of the run, in order.
    """

    seed: int
    history: History
    books: Books
    outputs: Counter[bytes | None]
    violation: InvariantViolated | None
    errors: list[BaseException]
    timeline: Timeline

    @property
    def handled(self) -> Mapping[Place, int]:
        """How often the work on each record was done."""
        return self.books.done

    @property
    def lost(self) -> list[Place]:
        """The records whose work was never done."""
        return self.books.lost

    @property
    def doubled(self) -> dict[Place, int]:
        """The records whose work was done more than once, which at-least-once delivery allows."""
        return self.books.doubled

    def check(self) -> None:
        """Raise AssertionError with the timeline if an invariant was violated or a member failed.

        An invariant is violated if a record was lost, or if an offset was committed before the work
        on all records below it was done.
        """
        if self.violation is not None:
            raise self.told(self.violation) from self.violation
        for error in self.errors:
            raise self.told(AssertionError(f"a member failed: {error!r}")) from error

    def told(self, error: AssertionError) -> AssertionError:
        """Return the error with the seed and the timeline, which show how to repeat it."""
        return type(error)(f"{error} (seed {self.seed})\n{self.timeline}")


def simulate(
    app_factory: AppFactory,
    *,
    topics: Mapping[str, int],
    outputs: Mapping[str, int] | None = None,
    seed: int = 0,
    history: History | None = None,
    patience: float = 600.0,
    may_fail: type[Exception] | tuple[type[Exception], ...] = TransportError,
) -> Report:
    """Run an app on a broker in the process, through a history, and then to the end of its work.

    The clock jumps, so a run takes only the time of its computations.

    Args:
        app_factory: an async function that is one process of the app. It receives a broker for its
            `App`, and a function to call when the work on messages is done. It runs until it is
            cancelled. Several may run at once.
        topics: the topics that the app reads, with their numbers of partitions. The history writes
            to them.
        outputs: the topics that the app writes to, for `Report.outputs`, in the same form.
        seed: decides the history and every order: of ready tasks, of the partitions in a poll, and
            of the reports on sent messages.
        history: the events. None: a history that is drawn from the seed.
        patience: seconds for the remaining work after the history.
        may_fail: errors that may end a member, such as those of an unreachable broker or of a
            fenced member. They are not in `Report.errors`.
    """
    function("app_factory", app_factory, "an async function of a broker and a `done` function")
    numbers_of_partitions("topics", topics)
    if outputs is not None:
        numbers_of_partitions("outputs", outputs)
    or_none(instance, "history", history, kind=History, expected="a History or None")
    seconds("patience", patience)
    history = history or History.drawn(seed, dict(topics))
    order = random.Random(seed)
    simulation = _Simulation(app_factory, history, dict(outputs or {}), patience, may_fail, order)
    run(simulation.play, seed=seed)
    return Report(
        seed=seed,
        history=history,
        books=simulation.books,
        outputs=simulation.read_outputs(),
        violation=simulation.violation,
        errors=simulation.errors,
        timeline=simulation.timeline,
    )


@attrs.define(eq=False)
class _Member:
    """A running member."""

    name: str
    driver: FaultyDriver
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)
    has_crashed: bool = False


class _Simulation:
    """The broker and the members that a history changes, and the checks on them."""

    def __init__(
        self,
        app_factory: AppFactory,
        history: History,
        outputs: Mapping[str, int],
        patience: float,
        may_fail: type[Exception] | tuple[type[Exception], ...],
        order: random.Random,
    ) -> None:
        self.books = Books()
        self.timeline = Timeline()
        self.violation: InvariantViolated | None = None
        self.errors: list[BaseException] = []
        self._app_factory = app_factory
        self._history = history
        self._outputs = outputs
        self._patience = patience
        self._may_fail = may_fail
        self._order = order
        self._broker = MemoryBroker(on_commit=self._on_commit)
        self._members: list[_Member] = []
        self._names = 0
        self._broken: dict[str, list[Fault]] = {}
        self._changed = trio.Event()
        for topic, partitions in [*history.topics.items(), *outputs.items()]:
            self._broker.create_topic(topic, partitions)

    async def play(self) -> None:
        async with trio.open_nursery() as self._nursery:
            for event in self._history.events:
                await trio.sleep(event.after)
                await event.happen(self)
            self._broken.clear()
            for member in list(self._members):
                await self._end(member, "is stopped")
            await self._do_the_rest()
            self._nursery.cancel_scope.cancel()
        if self.violation is None:
            self._check(lambda: self.books.check_end(self._ends()))

    async def _do_the_rest(self) -> None:
        with trio.move_on_after(self._patience):
            while not self.books.is_at_rest(self._ends()):
                if not self._members:
                    await trio.sleep(1)  # a supervisor restarts a process after a while
                    await self.start()
                self._changed = trio.Event()
                await self._changed.wait()
            # Readers of committed records wait for transactions that a crash has left open.
            transactions = self._broker.transactions
            while (deadline := transactions.next_deadline()) < math.inf:
                await trio.sleep_until(deadline)
                transactions.expire(trio.current_time())

    def _ends(self) -> dict[TP, int]:
        return {tp: self._broker.log(tp).end for tp in self._read()}

    def _read(self) -> list[TP]:
        return [tp for topic in self._history.topics for tp in self._broker.partitions(topic)]

    # Events

    async def start(self) -> None:
        self._names += 1
        name = f"member {self._names}"
        driver = FaultyDriver(MemoryDriver(broker=self._broker), self, order=self._order)
        member = _Member(name, driver)
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

    def write(self, tp: TP, count: int) -> None:
        log = self._broker.log(tp)
        offsets = [
            log.append(None, b"%d" % log.end, (), self._broker.clock()) for _ in range(count)
        ]
        self.timeline.add("", f"{tp}: {count} records from {offsets[0]} on")
        self.books.on_written(tp, offsets)
        log.changed.notify()

    def write_aborted(self, tp: TP, count: int) -> None:
        log = self._broker.log(tp)
        transaction = object()
        for _ in range(count):
            log.append(None, b"aborted", (), self._broker.clock(), transaction)
        log.end_transaction(transaction, committed=False)
        self.timeline.add("", f"{tp}: {count} records that are aborted")
        log.changed.notify()

    def leave_gap(self, tp: TP, count: int) -> None:
        self.timeline.add("", f"{tp}: a gap of {count}")
        self._broker.gap(tp, count)

    def add_partitions(self, topic: str, count: int) -> None:
        self.timeline.add("", f"{topic}: {count} more partitions")
        self._broker.add_partitions(topic, count)

    def cut_off(self, tp: TP, count: int) -> None:
        end = max(0, self._broker.log(tp).end - count)
        self.timeline.add("", f"{tp}: its records from {end} on are lost")
        self.books.on_cut_off(tp, end)
        self._broker.cut_off(tp, end)

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
                await self._app_factory(
                    member.driver, lambda *messages: self._on_done(member, messages)
                )
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

    def _on_done(self, member: _Member, messages: tuple[Message, ...]) -> None:
        if member.has_crashed:
            return  # a crashed process does no work
        for message in messages:
            self.timeline.add(member.name, f"is done with {message.tp} offset {message.offset}")
            self.books.on_done(message.tp, message.offset)

    def _on_commit(self, group: str, offsets: Mapping[TP, int]) -> None:
        mine = {tp: offset for tp, offset in offsets.items() if tp.topic in self._history.topics}
        places = ", ".join(f"{tp}: {offset}" for tp, offset in sorted(mine.items()))
        self.timeline.add("", f"{group} has committed {places}")
        self._check(lambda: self.books.on_committed(mine))
        self._changed.set()

    def _check(self, check: Callable[[], None]) -> None:
        """Check the books. The first violation ends the simulation."""
        try:
            check()
        except InvariantViolated as violation:
            self.timeline.add("", str(violation))
            self.violation = self.violation or violation
            self._nursery.cancel_scope.cancel()

    def read_outputs(self) -> Counter[bytes | None]:
        """Return how often each value is in the outputs, for a reader of committed records."""
        return Counter(
            record.value
            for topic in self._outputs
            for tp in self._broker.partitions(topic)
            for record in self._broker.log(tp).read(0, 1 << 40, committed=True).records
        )


def _is_all(error: BaseException, kinds: type[Exception] | tuple[type[Exception], ...]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_all(part, kinds) for part in error.exceptions)
    return isinstance(error, kinds)
