"""What must never be seen from outside, whoever crashes: a model of a group's books.

The model keeps every offset by itself, in sets, and looks through all of them at each event. It
knows nothing of ledgers, epochs and generations, and shares no code with what it checks; so it
finds out also where those are wrong. Pure: it is told what happens, and raises at once.

Its rules, by the numbers of docs/architecture.md, as they look from outside of a member:

- I1: a committed offset passes no record that is not done.
- I2: committed offsets go back only where somebody sought back.
- I3: at the end every record is done.
- I4: at the end every committed offset is the end of its log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from transport.types import TP

Place = tuple[TP, int]

# After a seek the next commit may go back. A commit that is on its way while the member seeks may
# come before it, with an offset of the epoch before.
_COMMITS_AFTER_A_SEEK = 2


class InvariantViolated(AssertionError):
    """Something was seen that must never be; the text begins with its number."""


class Books:
    """What is known of one group, from outside.

    Attributes:
        written: every record that a reader is meant to get, by partition.
        done: how often the work on each record was done.
        committed: the group's offsets.
    """

    def __init__(self) -> None:
        self.written: dict[TP, set[int]] = {}
        self.done: Counter[Place] = Counter()
        self.committed: dict[TP, int] = {}
        self._may_go_back: dict[TP, int] = {}  # how many of the next commits may do so

    def on_written(self, tp: TP, offsets: Collection[int]) -> None:
        """Records are in the log, for everybody to read."""
        self.written.setdefault(tp, set()).update(offsets)

    def on_deleted(self, tp: TP, before: int) -> None:
        """Records below an offset are gone: nobody is meant to get them any more."""
        self.written[tp] = {offset for offset in self.written.get(tp, set()) if offset >= before}

    def on_cut_off(self, tp: TP, end: int) -> None:
        """The log has lost what it had from an offset on; others may be written there."""
        self.written[tp] = {offset for offset in self.written.get(tp, set()) if offset < end}
        for place in [place for place in self.done if place[0] == tp and place[1] >= end]:
            del self.done[place]
        self._may_go_back[tp] = _COMMITS_AFTER_A_SEEK

    def on_done(self, tp: TP, offset: int) -> None:
        """The work on a record is done, once more."""
        self.done[tp, offset] += 1

    def on_sought(self, tp: TP, offset: int) -> None:
        """A member goes on at an offset, as it was asked to: a commit may go back, and what was
        passed over is nobody's work any more."""
        self._may_go_back[tp] = _COMMITS_AFTER_A_SEEK
        skipped = {o for o in self.written.get(tp, ()) if o < offset and not self.done[tp, o]}
        self.written[tp] = self.written.get(tp, set()) - skipped

    def on_committed(self, offsets: Mapping[TP, int]) -> None:
        """The group's offsets are these now. Raises InvariantViolated: I1, I2."""
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
        """Records that nobody has done."""
        return sorted(
            (tp, offset)
            for tp, offsets in self.written.items()
            for offset in offsets
            if not self.done[tp, offset]
        )

    @property
    def doubled(self) -> dict[Place, int]:
        """Records that were done more than once, and how often."""
        return {place: times for place, times in sorted(self.done.items()) if times > 1}

    def is_at_rest(self, ends: Mapping[TP, int]) -> bool:
        """Whether all is done and committed, up to the ends of the logs that somebody reads."""
        return not self.lost and all(self.committed.get(tp, 0) == ends[tp] for tp in ends)

    def check_end(self, ends: Mapping[TP, int]) -> None:
        """All has come to rest: the ends of the logs are these. Raises InvariantViolated: I3, I4.

        Args:
            ends: of the logs that somebody reads.
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
