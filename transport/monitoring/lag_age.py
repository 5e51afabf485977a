"""`LagAge`: the age of the oldest uncommitted message of a partition. Pure."""

from __future__ import annotations

import bisect

import attrs

_MOST = 512  # samples of a partition


@attrs.define
class LagAge:
    """The ends of one partition's log over time, from samples.

    A message is younger than the last sample whose end lies at or below its offset. So its age is
    known up to the time between two samples. Messages that are older than the first sample count
    from that sample.
    """

    _ends: list[int] = attrs.field(factory=list)
    _times: list[float] = attrs.field(factory=list)

    def add(self, end: int, now: float) -> None:
        """Note the end of the log.

        Args:
            now: seconds on any clock.
        """
        if self._ends and end < self._ends[-1]:  # another log
            self._ends.clear()
            self._times.clear()
        if self._ends and end == self._ends[-1]:
            return
        self._ends.append(end)
        self._times.append(now)
        if len(self._ends) > _MOST:
            # Coarser: every other sample of the older half.
            half = len(self._ends) // 2
            del self._ends[1:half:2], self._times[1:half:2]

    def seconds(self, committed: int, now: float) -> float:
        """Return the age of the message at the committed offset; 0: there is none."""
        at = bisect.bisect_right(self._ends, committed)
        return max(0.0, now - self._times[at]) if at < len(self._ends) else 0.0

    def forget_below(self, committed: int) -> None:
        """Forget the samples that only committed messages need."""
        at = bisect.bisect_right(self._ends, committed)
        if at > 1:
            del self._ends[: at - 1], self._times[: at - 1]
