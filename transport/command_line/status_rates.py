"""The rates between two statuses of an app. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from transport.inspecting.status import HandlerStatus, PartitionStatus, Status


@attrs.frozen
class _Counts:
    """What an app had done at one moment, by partition and by handler."""

    at: float
    committed: dict[str, int | None]
    handled: dict[str, int]


@attrs.define
class StatusRates:
    """The rates of each process, from its last two statuses."""

    _before: dict[int, _Counts] = attrs.field(factory=dict)
    _now: dict[int, _Counts] = attrs.field(factory=dict)

    def add(self, statuses: Iterable[Status]) -> None:
        """Note the statuses of this moment."""
        self._before = self._now
        self._now = {
            status.pid: _Counts(
                status.at,
                {str(each): each.committed for each in status.partitions},
                {each.name: each.handled for each in status.handlers},
            )
            for status in statuses
        }

    def of_partition(self, status: Status, partition: PartitionStatus) -> float | None:
        """Return the offsets that were committed in each second; None: not known yet."""
        before = self._before.get(status.pid)
        old = None if before is None else before.committed.get(str(partition))
        if before is None or old is None or partition.committed is None:
            return None
        return _rate(partition.committed - old, status.at - before.at)

    def of_handler(self, status: Status, handler: HandlerStatus) -> float | None:
        """Return the calls of a handler in each second; None: not known yet."""
        before = self._before.get(status.pid)
        old = None if before is None else before.handled.get(handler.name)
        if before is None or old is None:
            return None
        return _rate(handler.handled - old, status.at - before.at)


def _rate(count: int, seconds: float) -> float | None:
    return round(count / seconds, 1) if seconds > 0 else None
