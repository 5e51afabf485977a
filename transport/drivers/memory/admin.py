"""The admin client of `memory://`, for the command line and its tests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import trio

from transport.drivers.admin import (
    Cluster,
    Config,
    GroupDescription,
    GroupListing,
    GroupMember,
    Node,
    Partition,
    TopicDescription,
)
from transport.drivers.memory.broker import MemoryBroker
from transport.types import TP

# The one broker has this number.
_NODE = 0
_DEFAULT_PARTITIONS = 1


class MemoryAdmin:
    """An `Admin` of a broker in the process.

    Args:
        attach: returns the broker.
        version: the version that the broker shows.
    """

    def __init__(self, attach: Callable[[], MemoryBroker], version: str) -> None:
        self._attach = attach
        self._version = version

    async def __aenter__(self) -> MemoryAdmin:
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def cluster(self) -> Cluster:
        await trio.lowlevel.checkpoint()
        return Cluster(None, self._version, _NODE, (Node(_NODE, "memory", 0),))

    async def topics(self) -> Sequence[TopicDescription]:
        await trio.lowlevel.checkpoint()
        broker = self._attach()
        return [_description(broker, name) for name in sorted(broker.topics)]

    async def topic(self, name: str) -> TopicDescription:
        await trio.lowlevel.checkpoint()
        return _description(self._attach(), name)

    async def configs(self, topic: str) -> Sequence[Config]:
        await trio.lowlevel.checkpoint()
        broker = self._attach()
        broker.partitions(topic, create=False)
        return [Config(name, value, False) for name, value in sorted(broker.config(topic).items())]

    async def set_configs(self, topic: str, changes: Mapping[str, str | None]) -> None:
        await trio.lowlevel.checkpoint()
        broker = self._attach()
        broker.partitions(topic, create=False)
        broker.set_config(topic, changes)

    async def create_topic(
        self,
        name: str,
        partitions: int | None,
        replication: int | None,
        configs: Mapping[str, str],
    ) -> None:
        await trio.lowlevel.checkpoint()
        if not self._attach().create_topic(name, partitions or _DEFAULT_PARTITIONS, configs):
            raise ValueError(f"the topic {name!r} exists already")

    async def delete_topic(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        self._attach().delete_topic(name)

    async def grow_topic(self, name: str, partitions: int) -> None:
        await trio.lowlevel.checkpoint()
        broker = self._attach()
        present = len(broker.partitions(name, create=False))
        if partitions <= present:
            raise ValueError(f"the topic {name!r} has {present} partitions already")
        broker.add_partitions(name, partitions - present)

    async def beginnings(self, tps: Collection[TP]) -> dict[TP, int]:
        await trio.lowlevel.checkpoint()
        return {tp: self._attach().log(tp, create=False).start for tp in tps}

    async def ends(self, tps: Collection[TP]) -> dict[TP, int]:
        await trio.lowlevel.checkpoint()
        return {tp: self._attach().log(tp, create=False).end for tp in tps}

    async def offsets_at(self, tps: Collection[TP], time: float) -> dict[TP, int]:
        await trio.lowlevel.checkpoint()
        broker = self._attach()
        found = {tp: broker.log(tp, create=False).first_since(round(time * 1000)) for tp in tps}
        return {tp: record.offset for tp, record in found.items() if record is not None}

    async def groups(self) -> Sequence[GroupListing]:
        await trio.lowlevel.checkpoint()
        broker = self._attach()
        return [
            GroupListing(id, "Stable" if broker.group(id).members else "Empty", "classic")
            for id in sorted(broker.groups)
        ]

    async def group(self, id: str) -> GroupDescription:
        await trio.lowlevel.checkpoint()
        broker = self._attach()
        if id not in broker.groups:
            return GroupDescription(id, "Dead", "", ())
        group = broker.group(id)
        group.expire(trio.current_time())
        members = tuple(
            GroupMember(name, name.rpartition("-")[0], "memory", each.instance_id, each.share)
            for name, each in group.members.items()
        )
        state = "PreparingRebalance" if group.rebalancing else "Stable" if members else "Empty"
        return GroupDescription(id, state, "", members)

    async def committed(self, group: str) -> dict[TP, int]:
        await trio.lowlevel.checkpoint()
        return self._attach().committed(group)

    async def commit(self, group: str, offsets: Mapping[TP, int]) -> None:
        await trio.lowlevel.checkpoint()
        entry = self._attach().group(group)
        entry.expire(trio.current_time())
        entry.commit("", -1, offsets)


def _description(broker: MemoryBroker, name: str) -> TopicDescription:
    partitions = tuple(
        Partition(tp.partition, _NODE, (_NODE,), (_NODE,))
        for tp in broker.partitions(name, create=False)
    )
    return TopicDescription(name, False, partitions, id=str(broker.topic_id(name)))
