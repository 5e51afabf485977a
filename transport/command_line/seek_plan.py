"""The plan of a seek: where a group continues in each partition, and what that repeats or skips."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import attrs

from transport.command_line.moments import Moment
from transport.drivers.admin import Admin
from transport.types import TP


@attrs.frozen
class Move:
    """The change of one committed offset.

    Attributes:
        before: None: the group has no committed offset there.
        lag: the messages from the new offset to the end.
    """

    tp: TP
    before: int | None
    after: int
    lag: int

    @property
    def repeated(self) -> int | None:
        """The offsets that the group reads again; None: not known."""
        return None if self.before is None else max(0, self.before - self.after)

    @property
    def skipped(self) -> int | None:
        """The offsets that the group never reads; None: not known."""
        return None if self.before is None else max(0, self.after - self.before)

    def fields(self) -> dict[str, Any]:
        return {
            "topic": self.tp.topic,
            "partition": self.tp.partition,
            "before": self.before,
            "after": self.after,
            "repeated": self.repeated,
            "skipped": self.skipped,
            "lag": self.lag,
        }


COLUMNS = ("topic", "partition", "before", "after", "repeated", "skipped", "lag")


async def plan_to(
    admin: Admin, target: Moment, committed: Mapping[TP, int], tps: Collection[TP]
) -> list[Move]:
    """Return the moves to a place in each log."""
    return await _moves(admin, await target.offsets(admin, tps), committed)


async def plan_by(
    admin: Admin, shift: int, committed: Mapping[TP, int], tps: Collection[TP]
) -> list[Move]:
    """Return the moves by a number of offsets, of the partitions with a committed offset."""
    wanted = {tp: committed[tp] + shift for tp in tps if tp in committed}
    return await _moves(admin, wanted, committed)


async def _moves(admin: Admin, wanted: Mapping[TP, int], committed: Mapping[TP, int]) -> list[Move]:
    """Return the moves, each to an offset within its log."""
    beginnings, ends = await admin.beginnings(wanted), await admin.ends(wanted)
    moves = []
    for tp in sorted(wanted):
        after = max(beginnings[tp], min(wanted[tp], ends[tp]))
        moves.append(Move(tp, committed.get(tp), after, ends[tp] - after))
    return moves
