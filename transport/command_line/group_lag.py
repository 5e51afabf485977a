"""The lag of a group: its committed offsets beside the ends of the logs, and their owners."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import attrs

from transport.drivers.admin import Admin, GroupDescription
from transport.errors import TransportError, UnknownTopic
from transport.types import TP


@attrs.frozen
class PartitionLag:
    """The lag of a group in one partition.

    Attributes:
        committed: None: the group has no committed offset there.
        end: None: the topic or the partition does not exist any more.
        owner: the id of the member that has the partition; None: no member has it.
        host: of the owner.
    """

    tp: TP
    committed: int | None
    end: int | None
    owner: str | None
    host: str | None

    @property
    def lag(self) -> int | None:
        """The messages that the group has not committed; None: not known."""
        if self.committed is None or self.end is None:
            return None
        return max(0, self.end - self.committed)


@attrs.frozen
class GroupLag:
    """The lag of a group in all its partitions, in order.

    Attributes:
        state: of the group.
    """

    group: str
    state: str
    partitions: tuple[PartitionLag, ...]

    @property
    def total(self) -> int:
        """The sum over the partitions whose lag is known."""
        return sum(each.lag or 0 for each in self.partitions)


async def existing_group(admin: Admin, group: str) -> tuple[GroupDescription, dict[TP, int]]:
    """Return a group and its committed offsets. Raises TransportError: there is no such group."""
    described = await admin.group(group)
    committed = await admin.committed(group)
    if described.state == "Dead" and not committed:
        raise TransportError(
            f"there is no group {group!r}, or it has no offsets: list them with groups list"
        )
    return described, committed


async def lag_of(admin: Admin, group: str, topics: Collection[str] = ()) -> GroupLag:
    """Return the lag of a group, in some topics or in all. Raises TransportError."""
    described, committed = await existing_group(admin, group)
    owners = described.owners
    tps = sorted(tp for tp in {*committed, *owners} if not topics or tp.topic in topics)
    ends = await existing_ends(admin, tps)
    rows = (
        PartitionLag(
            tp,
            committed.get(tp),
            ends.get(tp),
            owners[tp].name if tp in owners else None,
            owners[tp].host if tp in owners else None,
        )
        for tp in tps
    )
    return GroupLag(group, described.state, tuple(rows))


async def existing_ends(admin: Admin, tps: Collection[TP]) -> Mapping[TP, int]:
    """Return the ends of the logs, without those of partitions that do not exist."""
    there: set[TP] = set()
    for topic in sorted({tp.topic for tp in tps}):
        try:
            there.update((await admin.topic(topic)).tps)
        except UnknownTopic:
            continue
    return await admin.ends(sorted(there.intersection(tps)))
