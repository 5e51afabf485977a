"""Members whose handlers follow events: they take, ack, commit and seek when an event says so.

Two models check each run. `Reference` checks all calls between one member, its client and its
handlers. `Books` checks the committed offsets of the group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import attrs
import trio

from tests.model.reference import Reference, Tenure
from tests.model.spy import Spy
from transport import TP, App, CommitUnknown, Message, TransportError
from transport.drivers.memory import MemoryDriver
from transport.testing import Books, Fault, FaultyDriver, InvariantViolated, MemoryBroker, Timeline

TOPIC = "orders"
# How long a handler waits for a message, in seconds.
A_MOMENT = 0.01


class Event(Protocol):
    """An event on the stage, and the seconds that pass after it."""

    @property
    def then(self) -> float: ...

    async def happen(self, stage: Stage) -> None: ...


@attrs.define(eq=False)
class Held:
    """A message that a handler has received, and its tenure, which may have ended."""

    message: Message
    tenure: Tenure


class Puppet:
    """A running member, whose handlers follow the events."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.name = name
        self.hands: list[Held] = []
        self.reference = Reference(stage.settings.buffer_size, stage.books.on_sought)
        self.driver = FaultyDriver(
            Spy(MemoryDriver(broker=stage.broker), self.reference, stage.accuse), self
        )
        self.app = App(
            "group",
            broker=self.driver,
            session_timeout=6.0,
            drain_timeout=4.0,
            max_poll_interval=30.0,
            commit_timeout=5.0,
            **attrs.asdict(stage.settings),
        )
        self.topic = self.app.topic(TOPIC)
        self.to_end = trio.Event()
        self.scope = trio.CancelScope()
        self.has_crashed = False
        self._stage = stage

    def of(self, call: str) -> Fault | None:
        """Return the fault of a call. This object is the `Faults` of its driver."""
        if call == "commit":
            self.reference.on_commit_asked()
        return self._stage.next_fault(call)

    async def restart(self) -> None:
        """Restart the consumer as another member. The iterators go on."""
        await self.app.consumer.restart()

    async def live(self, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            with self.scope:
                async with self.app:
                    self.topic.listen()
                    task_status.started()
                    await self.to_end.wait()
        except* CommitUnknown as group:
            self._stage.log(self.name, f"ends with {group.exceptions!r}")  # a stop must report it
        except* TransportError as group:
            if not self.has_crashed:
                raise
            self._stage.log(self.name, f"crashed: {group.exceptions!r}")

    async def take(self, count: int) -> None:
        """Receive messages as a handler, until `count` of them or until none is left."""
        messages = self.topic.noack()
        with trio.move_on_after(A_MOMENT):
            for _ in range(count):
                self.hold(await anext(messages))

    def hold(self, message: Message) -> None:
        """Check and keep a message that a handler has received."""
        self._stage.log(self.name, f"takes {message.tp} offset {message.offset}")
        with self._stage.watched():
            tenure = self.reference.on_delivered(message.tp, message.offset)
            self.hands.append(Held(message, tenure))

    def ack(self, number: int) -> None:
        """Ack a message as its handler. The ack may be repeated, or late."""
        if not self.hands:
            return
        held = self.hands[number % len(self.hands)]
        tp, offset = held.message.tp, held.message.offset
        self._stage.books.on_done(tp, offset)
        counted = held.message.ack()
        self._stage.log(self.name, f"acks {tp} offset {offset}: {counted}")
        with self._stage.watched():
            self.reference.on_acked(held.tenure, offset, counted)

    async def seek(self, tp: TP, offset: int) -> None:
        self.reference.on_seek_asked(tp, offset)
        try:
            await self.app.consumer.seek(tp, offset)
        except TransportError as error:
            self._stage.log(self.name, f"cannot seek: {error!r}")
            self.reference.on_seek_refused(tp, offset)

    async def commit(self) -> None:
        try:
            await self.app.consumer.commit()
        except TransportError as error:
            self._stage.log(self.name, f"cannot commit: {error!r}")


@attrs.frozen
class Settings:
    """The settings of all members, with the names of the settings of an `App`."""

    assignment: str = "cooperative"
    buffer_size: int = 8
    commit_interval: float = 1.0


class Stage:
    """The broker, the members, and the models that check them."""

    def __init__(self, settings: Settings, *, partitions: int = 2) -> None:
        self.settings = settings
        self.books = Books()
        self.timeline = Timeline()
        self.broker = MemoryBroker(on_commit=self._on_commit)
        self.broker.create_topic(TOPIC, partitions)
        self.puppets: list[Puppet] = []
        self._names = 0
        self._broken: dict[str, list[Fault]] = {}
        self._violation: InvariantViolated | None = None
        self._committed = trio.Event()

    async def play(self, events: Sequence[Event]) -> None:
        """Play the events, then let one member do the remaining work (I3, I4)."""
        async with trio.open_nursery() as self.nursery:
            for event in events:
                self.log("", str(event))
                await event.happen(self)
                await trio.sleep(event.then)
                self._raise_violation()
            self._broken.clear()
            for puppet in list(self.puppets):
                self.end(puppet)
            await self._do_the_rest()
        with self.watched():
            self.books.check_end(self._ends())
        self._raise_violation()

    # For events

    async def start(self) -> Puppet:
        self._names += 1
        puppet = Puppet(self, f"member {self._names}")
        self.puppets.append(puppet)
        await self.nursery.start(puppet.live)
        return puppet

    def end(self, puppet: Puppet) -> None:
        """End a member in order: the block of its app ends."""
        self.puppets.remove(puppet)
        puppet.to_end.set()

    def cancel(self, puppet: Puppet) -> None:
        self.puppets.remove(puppet)
        puppet.scope.cancel()

    async def crash(self, puppet: Puppet) -> None:
        self.puppets.remove(puppet)
        puppet.has_crashed = True
        await puppet.driver.crash()
        puppet.scope.cancel()

    def puppet(self, number: int) -> Puppet | None:
        return self.puppets[number % len(self.puppets)] if self.puppets else None

    def tp(self, number: int) -> TP:
        partitions = self.broker.partitions(TOPIC)
        return partitions[number % len(partitions)]

    def write(self, tp: TP, count: int, kind: str) -> None:
        """Write records, leave a gap, or write records of an aborted transaction."""
        log = self.broker.log(tp)
        if kind == "gap":
            log.skip(count)
        else:
            transaction = None if kind == "records" else object()
            offsets = [log.append(None, b"v", (), 0, transaction) for _ in range(count)]
            if transaction is None:
                self.books.on_written(tp, offsets)
            else:
                log.end_transaction(transaction, committed=False)
        log.changed.notify()

    def break_next(self, call: str, fault: Fault) -> None:
        self._broken.setdefault(call, []).append(fault)

    def next_fault(self, call: str) -> Fault | None:
        """Return the fault of the next call of this name by any member."""
        faults = self._broken.get(call)
        return faults.pop(0) if faults else None

    # Checks

    def log(self, who: str, what: str) -> None:
        self.timeline.add(who, what)

    def accuse(self, violation: InvariantViolated) -> None:
        """Keep a violation. `play` raises the first one."""
        self.log("", str(violation))
        self._violation = self._violation or violation

    def watched(self) -> _Watched:
        return _Watched(self.accuse)

    def _raise_violation(self) -> None:
        if self._violation is not None:
            raise self._violation

    def _on_commit(self, group: str, offsets: Mapping[TP, int]) -> None:
        self.log("", f"committed: {', '.join(f'{tp}: {o}' for tp, o in sorted(offsets.items()))}")
        with self.watched():
            self.books.on_committed(offsets)
        self._committed.set()

    def _ends(self) -> dict[TP, int]:
        return {tp: self.broker.log(tp).end for tp in self.broker.partitions(TOPIC)}

    async def _do_the_rest(self) -> None:
        last = await self.start()
        with trio.move_on_after(600):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._take_and_ack, last)
                while not self.books.is_at_rest(self._ends()):
                    self._committed = trio.Event()
                    await self._committed.wait()
                nursery.cancel_scope.cancel()
        self.end(last)

    async def _take_and_ack(self, puppet: Puppet) -> None:
        async for message in puppet.topic.noack():
            puppet.hands.clear()
            puppet.hold(message)
            puppet.ack(0)


@attrs.frozen
class _Watched:
    """A block that reports an InvariantViolated, and does not raise it."""

    accuse: Callable[[InvariantViolated], None]

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        if isinstance(error, InvariantViolated):
            self.accuse(error)
            return True
        return False
