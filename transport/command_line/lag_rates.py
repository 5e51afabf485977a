"""The rates between two measurements of a group's lag, and the time to catch up. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from transport.command_line.group_lag import GroupLag
from transport.types import TP


@attrs.frozen
class Rate:
    """Messages that the group has committed, and that were written, in each second."""

    read: float
    written: float

    def seconds_to_catch_up(self, lag: int | None) -> float | None:
        """Return the seconds until the lag is 0 at these rates; None: it does not shrink."""
        if lag == 0:
            return 0.0
        if lag is None or self.read <= self.written:
            return None
        return round(lag / (self.read - self.written), 1)


@attrs.frozen
class Progress:
    """The rate of each partition that both measurements have, and the sum of all."""

    partitions: Mapping[TP, Rate]

    @property
    def total(self) -> Rate:
        rates = self.partitions.values()
        return Rate(sum(each.read for each in rates), sum(each.written for each in rates))


def progress(before: GroupLag, then: float, after: GroupLag, now: float) -> Progress:
    """Return the rates from one measurement to another.

    Args:
        then: the time of the first measurement in seconds, of any clock.
        now: the time of the second one.
    """
    old = {each.tp: each for each in before.partitions}
    passed = now - then
    rates = {}
    for each in after.partitions:
        was = old.get(each.tp)
        if was is None or passed <= 0:
            continue
        counts = (was.committed, was.end, each.committed, each.end)
        if None not in counts:
            read = (each.committed or 0) - (was.committed or 0)
            written = (each.end or 0) - (was.end or 0)
            rates[each.tp] = Rate(read / passed, written / passed)
    return Progress(rates)
