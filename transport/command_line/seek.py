"""The verb `seek`: change the committed offsets of a group that has no members."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import Annotated

import attrs
from cyclopts import Parameter

from transport.command_line.connection import Connection
from transport.command_line.group_lag import existing_ends
from transport.command_line.moments import BEGINNING, END, Moment, moment_of
from transport.command_line.output import Json, print_rows
from transport.command_line.seek_plan import COLUMNS, Move, plan_by, plan_to
from transport.command_line.usage import UsageError
from transport.drivers.admin import Admin, GroupDescription
from transport.errors import TransportError
from transport.excerpt import listed
from transport.types import TP


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Target:
    """The options for the new offsets. Exactly one is given."""

    to_beginning: Annotated[
        bool, Parameter(negative="", help="To the first message of each partition.")
    ] = False
    to_end: Annotated[
        bool, Parameter(negative="", help="To the end: all messages that are there are skipped.")
    ] = False
    to_offset: Annotated[int | None, Parameter(help="To this offset.")] = None
    to_time: Annotated[
        str | None,
        Parameter(help="To the first message since a time (2026-11-27T18:00:00Z) or an age (2h)."),
    ] = None
    shift: Annotated[
        int | None, Parameter(help="By a number of offsets: -100 repeats 100, 100 skips 100.")
    ] = None

    def moment(self) -> Moment | int:
        """Return the place, or the number of `--shift`. Raises UsageError."""
        given: list[Moment | int] = []
        if self.to_beginning:
            given.append(BEGINNING)
        if self.to_end:
            given.append(END)
        if self.to_offset is not None:
            if self.to_offset < 0:
                raise UsageError(f"--to-offset takes 0 or more, not {self.to_offset}")
            given.append(Moment(offset=self.to_offset))
        if self.to_time is not None:
            moment = moment_of("--to-time", self.to_time)
            if moment.time is None:
                raise UsageError(f"--to-time takes a time or an age, not {self.to_time!r}")
            given.append(moment)
        if self.shift is not None:
            given.append(self.shift)
        if len(given) != 1:
            raise UsageError(
                "give one of --to-beginning, --to-end, --to-offset, --to-time and --shift"
            )
        return given[0]


async def seek(
    group: str,
    /,
    *,
    topic: Annotated[tuple[str, ...], Parameter(name=("--topic", "-t"), negative="")] = (),
    all_topics: Annotated[bool, Parameter(negative="")] = False,
    partition: Annotated[tuple[int, ...], Parameter(name=("--partition", "-p"), negative="")] = (),
    target: Target = Target(),
    dry_run: Annotated[bool, Parameter(name=("--dry-run", "-n"), negative="")] = False,
    json: Json = False,
    connection: Connection = Connection(),
) -> None:
    """Change where a group continues. The group must have no members: stop its programs first.

    Example: kafka-nursery seek billing --topic orders --to-time 2h --dry-run

    Parameters
    ----------
    group:
        The consumer group.
    topic:
        The topic. May be repeated.
    all_topics:
        All topics of which the group has committed offsets.
    partition:
        Only this partition of each topic. May be repeated.
    dry_run:
        Print the plan, and change nothing.
    """
    place = target.moment()
    if bool(topic) == all_topics:
        raise UsageError("name the topics with --topic, or use --all-topics")
    async with connection.admin() as admin:
        described = await admin.group(group)
        committed = await admin.committed(group)
        tps = await _partitions(admin, committed, topic, partition)
        if not tps:
            raise TransportError(f"the group {group!r} has no committed offsets to change")
        if isinstance(place, int):
            moves = await plan_by(admin, place, committed, tps)
        else:
            moves = await plan_to(admin, place, committed, tps)
        print_rows((move.fields() for move in moves), COLUMNS, is_json=json)
        sys.stdout.flush()
        if dry_run:
            if described.has_members:
                print(f"kafka-nursery: {_refusal(described)}", file=sys.stderr)
            return
        if described.has_members:
            raise TransportError(f"nothing was changed: {_refusal(described)}")
        await _make(admin, group, moves)


async def _partitions(
    admin: Admin, committed: Mapping[TP, int], topics: Collection[str], numbers: Collection[int]
) -> list[TP]:
    """Return the partitions to change. Raises UnknownTopic, UsageError."""
    tps: set[TP] = set()
    for topic in topics:
        tps.update((await admin.topic(topic)).tps)
    if not topics:
        tps.update(await existing_ends(admin, committed))
    if missing := set(numbers) - {tp.partition for tp in tps}:
        raise UsageError(f"no topic has the partition {min(missing)}")
    return sorted(tp for tp in tps if not numbers or tp.partition in numbers)


def _refusal(group: GroupDescription) -> str:
    names = sorted(f"{each.name} at {each.host}" for each in group.members)
    members = listed(names) or "the client cannot name them"
    return (
        f"the group {group.id!r} has members, which would overwrite the offsets: {members}. Stop"
        " them first"
    )


async def _make(admin: Admin, group: str, moves: Collection[Move]) -> None:
    """Commit the offsets, and check that the group has them."""
    wanted = {move.tp: move.after for move in moves}
    await admin.commit(group, wanted)
    found = await admin.committed(group)
    if wrong := sorted(tp for tp, offset in wanted.items() if found.get(tp) != offset):
        raise TransportError(
            f"other offsets than those of the plan are committed for {listed(wrong)}: a program"
            " may have joined the group meanwhile"
        )
