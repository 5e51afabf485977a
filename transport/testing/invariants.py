"""Invariants of a group as seen from outside: a model of its records and committed offsets.

The model keeps every offset in sets, and checks all of them at each event. It knows nothing of
ledgers, epochs and generations, and shares no code with the code that it checks, so it also detects
errors there. It does no I/O: its callers report each event, and a violation is raised at once.

Its rules have the numbers of docs/architecture.md, and apply to what is seen outside of a member:

- I1: a committed offset never passes a record that is not done.
- I2: committed offsets go back only after a seek.
- I3: at the end, every record is done.
- I4: at the end, every committed offset is the end of its log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from transport.types import TP

Place = tuple[TP, int]

# After a seek the next commit may go back. A commit that is in flight during the seek may arrive
# before that commit, with an offset of the epoch before the seek.
_COMMITS_AFTER_A_SEEK = 2


class InvariantViolated(AssertionError):
    """An invariant was violated. The text begins with the number of the invariant."""


class Books:
    """The records and offsets of one group, as seen from outside.

    Attributes:
        written: the offsets of all records that a reader must get, by partition.
        done: how often the work on each record was done.
        committed: the committed offsets of the group, by partition.
    """

    def __init__(self) -> None:
        self.written: dict[TP, set[int]] = {}
        self.done: Counter[Place] = Counter()
        self.committed: dict[TP, int] = {}
        self._may_go_back: dict[TP, int] = {}  # the number of next commits that may

    def on_written(self, tp: TP, offsets: Collection[int]) -> None:
        """Add records that are in the log and can be read."""
        self.written.setdefault(tp, set()).update(offsets)

    def on_deleted(self, tp: TP, before: int) -> None:
        """Remove the records below an offset: no reader must get them."""
        self.written[tp] = {offset for offset in self.written.get(tp, set()) if offset >= before}

    def on_cut_off(self, tp: TP, end: int) -> None:
        """Remove the records from an offset on, which the log has lost.

        Other records may be written at the same offsets, and the next commits may go back.
        """
        self.written[tp] = {offset for offset in self.written.get(tp, set()) if offset < end}
        for place in [place for place in self.done if place[0] == tp and place[1] >= end]:
            del self.done[place]
        self._may_go_back[tp] = _COMMITS_AFTER_A_SEEK

    def on_done(self, tp: TP, offset: int) -> None:
        """Count one more time that the work on a record was done."""
        self.done[tp, offset] += 1

    def on_sought(self, tp: TP, offset: int) -> None:
        """Apply a seek of a member to an offset.

        The next commits may go back. Records that the seek has skipped need not be done.
        """
        self._may_go_back[tp] = _COMMITS_AFTER_A_SEEK
        skipped = {o for o in self.written.get(tp, ()) if o < offset and not self.done[tp, o]}
        self.written[tp] = self.written.get(tp, set()) - skipped

    def on_committed(self, offsets: Mapping[TP, int]) -> None:
        """Check the new committed offsets of the group. Raises InvariantViolated: I1, I2."""
        for tp, offset in offsets.items():
            left = [o for o in self.written.get(tp, ()) if o < offset and not self.done[tp, o]]
            if left:
                raise InvariantViolated(
                    f"I1: {tp} was committed up to {offset}, and {min(left)} is not done"
                )
            before = self.committed.get(tp, 0)
            left_to_go_back = self._may_go_back.pop(tp, 0)
            if offset < before and not left_to_go_back:
                raise InvariantViolated(f"I2: {tp} was committed at {before}, and now at {offset}")
            if offset >= before and left_to_go_back > 1:
                self._may_go_back[tp] = left_to_go_back - 1
            self.committed[tp] = offset

    @property
    def lost(self) -> list[Place]:
        """The records that were never done."""
        return sorted(
            (tp, offset)
            for tp, offsets in self.written.items()
            for offset in offsets
            if not self.done[tp, offset]
        )

    @property
    def doubled(self) -> dict[Place, int]:
        """The records that were done more than once, and how often."""
        return {place: times for place, times in sorted(self.done.items()) if times > 1}

    def is_at_rest(self, ends: Mapping[TP, int]) -> bool:
        """Return whether all records are done, and committed up to the ends of these logs.

        Args:
            ends: the end offsets of the logs that the group reads.
        """
        return not self.lost and all(self.committed.get(tp, 0) == ends[tp] for tp in ends)

    def check_end(self, ends: Mapping[TP, int]) -> None:
        """Check the group after all work has ended. Raises InvariantViolated: I3, I4.

        Args:
            ends: the end offsets of the logs that the group reads.
        """
        if lost := self.lost:
            tp, offset = lost[0]
            raise InvariantViolated(
                f"I3: {len(lost)} records were lost, first {tp} offset {offset}"
            )
        for tp, end in ends.items():
            if self.committed.get(tp, 0) != end:
                raise InvariantViolated(
                    f"I4: {tp} ends at {end}, and is committed at {self.committed.get(tp)}"
                )
