"""The events on the stage: values that Hypothesis draws, shrinks and prints."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import attrs
import trio
from hypothesis import strategies as st

from tests.model.stage import TOPIC, Event, Puppet, Stage
from transport.testing import Fault
from transport.testing.strategies import faults

_then = attrs.field(default=0.0, kw_only=True)


@attrs.frozen
class Start:
    then: float = _then

    async def happen(self, stage: Stage) -> None:
        await stage.start()


@attrs.frozen
class OfMember:
    """An event of one member. It does nothing if no member runs."""

    member: int
    then: float = _then

    async def happen(self, stage: Stage) -> None:
        if (puppet := stage.puppet(self.member)) is not None:
            await self.by(puppet, stage)

    async def by(self, puppet: Puppet, stage: Stage) -> None:
        raise NotImplementedError


@attrs.frozen
class Stop(OfMember):
    async def by(self, puppet: Puppet, stage: Stage) -> None:
        stage.end(puppet)


@attrs.frozen
class Cancel(OfMember):
    async def by(self, puppet: Puppet, stage: Stage) -> None:
        stage.cancel(puppet)


@attrs.frozen
class Crash(OfMember):
    async def by(self, puppet: Puppet, stage: Stage) -> None:
        await stage.crash(puppet)


@attrs.frozen
class Restart(OfMember):
    async def by(self, puppet: Puppet, stage: Stage) -> None:
        stage.nursery.start_soon(puppet.restart)


@attrs.frozen
class Take(OfMember):
    count: int = 1

    async def by(self, puppet: Puppet, stage: Stage) -> None:
        await puppet.take(self.count)


@attrs.frozen
class Ack(OfMember):
    """An ack of any message that a handler has received, also of one that it has acked before."""

    place: int = 0

    async def by(self, puppet: Puppet, stage: Stage) -> None:
        puppet.ack(self.place)


@attrs.frozen
class AckAll(OfMember):
    async def by(self, puppet: Puppet, stage: Stage) -> None:
        for place in range(len(puppet.hands)):
            puppet.ack(place)


@attrs.frozen
class Commit(OfMember):
    """A commit. The caller waits for `patience` seconds; the commit goes on after that."""

    patience: float = 10.0

    async def by(self, puppet: Puppet, stage: Stage) -> None:
        with trio.move_on_after(self.patience):
            await puppet.commit()


@attrs.frozen
class Seek(OfMember):
    partition: int = 0
    offset: int = 0
    patience: float = 10.0

    async def by(self, puppet: Puppet, stage: Stage) -> None:
        tp = stage.tp(self.partition)
        with trio.move_on_after(self.patience):
            await puppet.seek(tp, self.offset % (stage.broker.log(tp).end + 1))


@attrs.frozen
class Flow(OfMember):
    on: bool = True

    async def by(self, puppet: Puppet, stage: Stage) -> None:
        consumer = puppet.app.consumer
        consumer.resume_flow() if self.on else consumer.stop_flow()


@attrs.frozen
class Pause(OfMember):
    partition: int = 0
    on: bool = True

    async def by(self, puppet: Puppet, stage: Stage) -> None:
        consumer, tp = puppet.app.consumer, stage.tp(self.partition)
        consumer.pause_partitions([tp]) if self.on else consumer.resume_partitions([tp])


@attrs.frozen
class Write:
    """Records, offsets without records ("gap"), or records of an aborted transaction."""

    partition: int = 0
    count: int = 1
    kind: str = "records"
    then: float = _then

    async def happen(self, stage: Stage) -> None:
        stage.write(stage.tp(self.partition), self.count, self.kind)


@attrs.frozen
class AddPartitions:
    then: float = _then

    async def happen(self, stage: Stage) -> None:
        if len(stage.broker.partitions(TOPIC)) < 5:
            stage.broker.add_partitions(TOPIC, 1)


@attrs.frozen
class Break:
    """A fault of the next such call of any member."""

    call: str
    fault: Fault
    then: float = _then

    async def happen(self, stage: Stage) -> None:
        stage.break_next(self.call, self.fault)


def _event(event: Callable[..., Event], /, **fields: st.SearchStrategy[Any]) -> Any:
    return st.builds(event, then=_THEN, **fields)


_THEN = st.sampled_from([0.0, 0.0, 0.05, 0.5, 3.0, 8.0])
_SMALL = st.integers(0, 5)
_COUNT = st.integers(1, 6)
_PATIENCE = st.sampled_from([0.0, 0.001, 0.5, 10.0])
_of = functools.partial(_event, member=_SMALL)
_BREAKS = st.sampled_from(["commit", "commit", "poll", "seek", "committed", "pause"]).flatmap(
    lambda call: _event(Break, call=st.just(call), fault=faults(call))
)

EVENTS: st.SearchStrategy[Event] = st.one_of(
    _event(Write, partition=_SMALL, count=_COUNT, kind=st.just("records")),
    _of(Take, count=_COUNT),
    _of(AckAll),
    _event(Start),
    _of(Take, count=_COUNT),
    _of(Ack, place=st.integers(0, 20)),
    _of(Ack, place=st.integers(0, 20)),
    _of(Commit, patience=_PATIENCE),
    _event(Write, partition=_SMALL, count=_COUNT, kind=st.sampled_from(["gap", "aborted"])),
    _of(Seek, partition=_SMALL, offset=st.integers(0, 12), patience=_PATIENCE),
    _of(Flow, on=st.booleans()),
    _of(Pause, partition=_SMALL, on=st.booleans()),
    _of(Stop),
    _of(Cancel),
    _of(Crash),
    _BREAKS,
    _event(AddPartitions),
)
