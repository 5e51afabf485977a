"""A history: what happens to a group and its broker, event by event; a value that can be printed,
shrunk and played again.

Each event comes `after` so many seconds, and then happens at once. Members are named by their place
among those that are running; a number beyond them wraps around, and with none running nothing
happens. So every history can be played, whatever was taken out of it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import attrs

from transport.arguments import (
    instance,
    seconds,
    setting,
    topic_name,
    topic_partition,
    whole,
    wrong_type,
)
from transport.testing.faults import Chance, Fault, check_call
from transport.types import TP


def numbers_of_partitions(name: str, topics: Any) -> None:
    """Check topics that are given with their numbers of partitions."""
    instance(name, topics, Mapping, 'a mapping such as {"orders": 3}')
    for topic, count in topics.items():
        topic_name(f"each key of {name}", topic)
        whole(f"the number of partitions of {topic!r} in {name}", count, least=1)


class World(Protocol):
    """What events happen to."""

    async def start(self) -> None:
        """One more member comes."""

    async def stop(self, member: int) -> None:
        """A member is asked to end, as by SIGTERM; it takes its time."""

    async def crash(self, member: int) -> None:
        """A member dies, as by SIGKILL."""

    def write(self, tp: TP, count: int) -> None:
        """Records come into a log."""

    def write_aborted(self, tp: TP, count: int) -> None:
        """Records come that no reader is to see, in a transaction that is aborted."""

    def leave_gap(self, tp: TP, count: int) -> None:
        """Offsets without a record, as compaction leaves them."""

    def add_partitions(self, topic: str, count: int) -> None:
        """A topic gets more partitions."""

    def cut_off(self, tp: TP, count: int) -> None:
        """A log loses its last offsets."""

    def break_next(self, call: str, fault: Fault) -> None:
        """The next such call of any member has this fault."""


class Event(Protocol):
    """Something that happens, some seconds after what was before it."""

    @property
    def after(self) -> float: ...

    async def happen(self, world: World) -> None: ...


_seconds = attrs.field(default=0.0, validator=setting(seconds, least=0.0), kw_only=True)
_member = attrs.field(validator=setting(whole))
_tp: Any = attrs.field(converter=lambda tp: topic_partition("tp", tp))
_topic = attrs.field(validator=setting(topic_name))
_count = attrs.field(default=1, validator=setting(whole, least=1))
_fault = attrs.field(validator=setting(instance, kind=Fault, expected="a Fault"))


@attrs.frozen
class Start:
    """A member comes."""

    after: float = _seconds

    async def happen(self, world: World) -> None:
        await world.start()


@attrs.frozen
class Stop:
    """A member ends in order."""

    member: int = _member
    after: float = _seconds

    async def happen(self, world: World) -> None:
        await world.stop(self.member)


@attrs.frozen
class Crash:
    """A member dies."""

    member: int = _member
    after: float = _seconds

    async def happen(self, world: World) -> None:
        await world.crash(self.member)


@attrs.frozen
class Write:
    """Records are written, by somebody else."""

    tp: TP = _tp
    count: int = _count
    after: float = _seconds

    async def happen(self, world: World) -> None:
        world.write(self.tp, self.count)


@attrs.frozen
class WriteAborted:
    """Records are written in a transaction that is aborted."""

    tp: TP = _tp
    count: int = _count
    after: float = _seconds

    async def happen(self, world: World) -> None:
        world.write_aborted(self.tp, self.count)


@attrs.frozen
class Gap:
    """Offsets are left out."""

    tp: TP = _tp
    count: int = _count
    after: float = _seconds

    async def happen(self, world: World) -> None:
        world.leave_gap(self.tp, self.count)


@attrs.frozen
class AddPartitions:
    """A topic grows."""

    topic: str = _topic
    count: int = _count
    after: float = _seconds

    async def happen(self, world: World) -> None:
        world.add_partitions(self.topic, self.count)


@attrs.frozen
class CutOff:
    """A log loses its last offsets, as with a broker that comes back from an old copy. Not among
    what is drawn: records are lost by that, and nobody can help it."""

    tp: TP = _tp
    count: int = _count
    after: float = _seconds

    async def happen(self, world: World) -> None:
        world.cut_off(self.tp, self.count)


@attrs.frozen
class Break:
    """A call goes wrong."""

    call: str = attrs.field(validator=setting(check_call))
    fault: Fault = _fault
    after: float = _seconds

    async def happen(self, world: World) -> None:
        world.break_next(self.call, self.fault)


_CALLS = ("poll", "commit", "commit", "committed", "producer.send", "producer.commit")


@attrs.frozen
class History:
    """The events of a run, in their order.

    Attributes:
        topics: how many partitions each topic has in the beginning.
    """

    topics: dict[str, int] = attrs.field(validator=setting(numbers_of_partitions))
    events: Sequence[Event] = attrs.field()

    @events.validator
    def _check_events(self, _: object, events: Sequence[Event]) -> None:
        instance("events", events, Sequence, "a sequence of events")
        for event in events:
            if not hasattr(event, "happen"):
                raise wrong_type("each of events", "an event such as Start()", event)

    @classmethod
    def drawn(cls, seed: int, topics: dict[str, int], *, length: int = 60) -> History:
        """One by chance, always the same for a seed."""
        numbers_of_partitions("topics", topics)
        whole("length", length)
        draw = random.Random(seed)
        tps = [TP(topic, number) for topic, count in topics.items() for number in range(count)]
        chance = Chance(draw, rate=1.0)

        def event() -> Event:
            after = draw.choice([0.0, draw.uniform(0, 1), draw.uniform(0, 5)])
            tp, count = draw.choice(tps), draw.randint(1, 5)
            match draw.randrange(20):
                case 0 | 1 | 2:
                    return Start(after=after)
                case 3:
                    return Stop(draw.randrange(8), after=after)
                case 4 | 5:
                    return Crash(draw.randrange(8), after=after)
                case 6 | 7:
                    return Gap(tp, count, after=after)
                case 8:
                    return WriteAborted(tp, count, after=after)
                case 9:
                    tps.append(TP(tp.topic, sum(other.topic == tp.topic for other in tps)))
                    return AddPartitions(tp.topic, 1, after=after)
                case 10 | 11 | 12:
                    call = draw.choice(_CALLS)
                    fault = chance.of(call)
                    assert fault is not None
                    return Break(call, fault, after=after)
                case _:
                    return Write(tp, count, after=after)

        return cls(topics, [Start(), *(event() for _ in range(length))])

    def __str__(self) -> str:
        return "\n".join(str(event) for event in self.events)
