"""Histories of simulations: the events that happen to a group and its broker.

A history is a value that can be printed, shrunk and played again. Each event waits `after` seconds
and then happens at once. An event names a member by its index among the running members. A larger
index wraps around. If no member runs, the event does nothing. So a history can still be played
after events were removed from it.
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
from transport.testing.payloads import Payload, PayloadArg, payload
from transport.types import TP


def numbers_of_partitions(name: str, topics: Any) -> None:
    """Check a mapping of topics to their numbers of partitions."""
    instance(name, topics, Mapping, 'a mapping such as {"orders": 3}')
    for topic, count in topics.items():
        topic_name(f"each key of {name}", topic)
        whole(f"the number of partitions of {topic!r} in {name}", count, least=1)


class World(Protocol):
    """The members and the broker that events change."""

    async def start(self) -> None:
        """Start one more member."""

    async def stop(self, member: int) -> None:
        """Stop a member, as SIGTERM does, and wait for its end."""

    async def crash(self, member: int) -> None:
        """Kill a member, as SIGKILL does."""

    def write(self, tp: TP, count: int, records: Sequence[Payload] | None = None) -> None:
        """Write records to a partition, with these payloads if they are given."""

    def write_aborted(self, tp: TP, count: int) -> None:
        """Write records in a transaction that is aborted. No reader may see them."""

    def leave_gap(self, tp: TP, count: int) -> None:
        """Leave offsets without a record, as compaction does."""

    def add_partitions(self, topic: str, count: int) -> None:
        """Add partitions to a topic."""

    def cut_off(self, tp: TP, count: int) -> None:
        """Remove the last offsets of a partition."""

    def break_next(self, call: str, fault: Fault) -> None:
        """Give a fault to the next such call of any member."""


class Event(Protocol):
    """An event, which happens `after` seconds after the event before it."""

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
    """A member starts."""

    after: float = _seconds

    async def happen(self, world: World) -> None:
        await world.start()


@attrs.frozen
class Stop:
    """A member stops in order."""

    member: int = _member
    after: float = _seconds

    async def happen(self, world: World) -> None:
        await world.stop(self.member)


@attrs.frozen
class Crash:
    """A member crashes."""

    member: int = _member
    after: float = _seconds

    async def happen(self, world: World) -> None:
        await world.crash(self.member)


def _number_of_records(event: Write) -> int:
    return 1 if event.records is None else len(event.records)


@attrs.frozen
class Write:
    """A producer outside of the app writes records.

    Attributes:
        count: the number of records. With `records`, it is their number.
        records: the payload of each record: a tuple of key, value and headers, or of key and value.
            None: the simulation decides (see `simulate`).
    """

    tp: TP = _tp
    records: Sequence[PayloadArg] | None = attrs.field(default=None, kw_only=True)
    count: int = attrs.field(default=attrs.Factory(_number_of_records, takes_self=True))
    after: float = _seconds

    @records.validator
    def _check_records(self, _: object, records: Any) -> None:
        if records is not None:
            instance("records", records, Sequence, "a sequence of tuples of key, value and headers")
            self._payloads()

    @count.validator
    def _check_count(self, _: object, count: int) -> None:
        whole("count", count, least=1)
        if self.records is not None and count != len(self.records):
            raise ValueError(f"count is {count}, but there are {len(self.records)} records")

    async def happen(self, world: World) -> None:
        world.write(self.tp, self.count, self._payloads())

    def _payloads(self) -> list[Payload] | None:
        if self.records is None:
            return None
        return [payload("each of records", self.tp.topic, each) for each in self.records]


@attrs.frozen
class WriteAborted:
    """A producer outside of the app writes records in a transaction that is aborted."""

    tp: TP = _tp
    count: int = _count
    after: float = _seconds

    async def happen(self, world: World) -> None:
        world.write_aborted(self.tp, self.count)


@attrs.frozen
class Gap:
    """Some offsets have no record."""

    tp: TP = _tp
    count: int = _count
    after: float = _seconds

    async def happen(self, world: World) -> None:
        world.leave_gap(self.tp, self.count)


@attrs.frozen
class AddPartitions:
    """A topic gets more partitions."""

    topic: str = _topic
    count: int = _count
    after: float = _seconds

    async def happen(self, world: World) -> None:
        world.add_partitions(self.topic, self.count)


@attrs.frozen
class CutOff:
    """A partition loses its last offsets, as if its broker was restored from an old copy.

    Drawn histories never contain this event: no app can prevent the loss of the records.
    """

    tp: TP = _tp
    count: int = _count
    after: float = _seconds

    async def happen(self, world: World) -> None:
        world.cut_off(self.tp, self.count)


@attrs.frozen
class Break:
    """The next call of a name has a fault."""

    call: str = attrs.field(validator=setting(check_call))
    fault: Fault = _fault
    after: float = _seconds

    async def happen(self, world: World) -> None:
        world.break_next(self.call, self.fault)


_CALLS = ("poll", "commit", "commit", "committed", "producer.send", "producer.commit")


@attrs.frozen
class History:
    """The events of a run, in order.

    Attributes:
        topics: the number of partitions of each topic at the start.
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
        """Return a random history: a start, then `length` events. It depends on the seed alone."""
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
