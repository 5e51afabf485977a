"""What must hold between a member, its client and its handlers: a model that keeps every offset.

It is told what passes between them and raises at the first thing that must not be. It knows of
ledgers, lanes and epochs nothing, and shares no code with them: a *tenure* is what an outsider sees
of an epoch, from an assignment or a seek on to the next one, or to the end of the ownership.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import attrs

from transport import TP
from transport.testing import InvariantViolated


@attrs.define(eq=False)
class Tenure:
    """One partition in the hands of one member.

    Attributes:
        fetched: what the client has given, but for what it was sought back before.
        delivered: what handlers got, in order. acked: what they were done with, by what ack says.
        committed: the last offset that was committed in it.
        has_ended: the member has let go of it, or has sought elsewhere.
    """

    tp: TP
    fetched: set[int] = attrs.field(factory=set)
    delivered: list[int] = attrs.field(factory=list)
    acked: set[int] = attrs.field(factory=set)
    committed: int = -1
    has_ended: bool = False

    @property
    def in_hand(self) -> set[int]:
        return set(self.delivered) - self.acked


class Reference:
    """One member.

    Args:
        buffer_size: most messages that may be in hand.
        on_seek: told of each seek that was asked for, when it is made.
    """

    def __init__(self, buffer_size: int, on_seek: Callable[[TP, int], None]) -> None:
        self.tenures: dict[TP, Tenure] = {}
        self._buffer_size = buffer_size
        self._on_seek = on_seek
        self._seeks: set[tuple[TP, int]] = set()  # that were asked for and have no end yet

    # What passes between the member and its client

    def on_assigned(self, tps: Iterable[TP]) -> None:
        for tp in tps:
            self._begin(tp)

    def on_let_go(self, tps: Iterable[TP]) -> None:
        """The member has agreed that these go, or is told that they are lost (I5)."""
        for tp in tps:
            if (tenure := self.tenures.pop(tp, None)) is not None:
                tenure.has_ended = True

    def on_fetched(self, batches: Mapping[TP, Iterable[int]]) -> None:
        held = sum(len(tenure.fetched - tenure.acked) for tenure in self.tenures.values())
        if batches and held >= self._buffer_size:
            raise InvariantViolated(f"I8: {held} are fetched and not acked, and more is fetched")
        for tp, offsets in batches.items():
            tenure = self._tenure(tp, "fetched from")
            for offset in offsets:
                if tenure.fetched and offset <= max(tenure.fetched):
                    raise InvariantViolated(f"I6: {tp} offset {offset} was fetched again")
                tenure.fetched.add(offset)

    def on_sought(self, tp: TP, offset: int) -> None:
        """The client was sought: what comes next is what has this offset, or is behind it."""
        if (tp, offset) in self._seeks:
            self._seeks.discard((tp, offset))
            self._begin(tp)
            self._on_seek(tp, offset)
            return
        tenure = self._tenure(tp, "sought")
        if tenure.delivered and offset <= tenure.delivered[-1]:
            raise InvariantViolated(
                f"I6: {tp} goes back to {offset}, and nobody has asked for that"
            )
        if skipped := {o for o in tenure.fetched - set(tenure.delivered) if o < offset}:
            raise InvariantViolated(f"I3: {tp} goes on to {offset}, past {sorted(skipped)}")
        tenure.fetched = {each for each in tenure.fetched if each < offset}

    def on_committed(self, offsets: Mapping[TP, int], tenures: Mapping[TP, Tenure]) -> None:
        """The broker has taken these from the member.

        Args:
            tenures: as they were when the commit was made: a seek may have come meanwhile.
        """
        for tp, offset in offsets.items():
            tenure = tenures.get(tp, self._tenure(tp, "committed"))
            if left := {each for each in tenure.fetched if each < offset} - tenure.acked:
                raise InvariantViolated(
                    f"I1: {tp} is committed up to {offset}, and {sorted(left)} is not acked"
                )
            if offset < tenure.committed:
                raise InvariantViolated(f"I2: {tp} goes back from {tenure.committed} to {offset}")
            tenure.committed = offset

    # What passes between the member and its handlers

    def on_delivered(self, tp: TP, offset: int) -> Tenure:
        """A handler gets a message; the tenure is what its ack will be told with."""
        tenure = self._tenure(tp, "delivered")
        if offset not in tenure.fetched:
            raise InvariantViolated(f"{tp} offset {offset} was delivered and never fetched")
        if tenure.delivered and offset <= tenure.delivered[-1]:
            raise InvariantViolated(f"I6: {tp} offset {offset} comes after {tenure.delivered[-1]}")
        if before := {o for o in tenure.fetched if o < offset} - set(tenure.delivered):
            raise InvariantViolated(f"I6: {tp} offset {offset} comes before {sorted(before)}")
        tenure.delivered.append(offset)
        in_hand = sum(len(each.in_hand) for each in self.tenures.values())
        if in_hand > self._buffer_size:
            raise InvariantViolated(f"I8: {in_hand} are delivered and not acked")
        return tenure

    def on_acked(self, tenure: Tenure, offset: int, counted: bool) -> None:
        """A handler has acked a message of a tenure, and was told whether that counts."""
        is_due = not tenure.has_ended and offset not in tenure.acked
        if counted and not is_due:
            raise InvariantViolated(f"I5: an ack of {tenure.tp} offset {offset} counted")
        if is_due and not counted:
            raise InvariantViolated(f"I4: an ack of {tenure.tp} offset {offset} did not count")
        if counted:
            tenure.acked.add(offset)

    def on_seek_asked(self, tp: TP, offset: int) -> None:
        self._seeks.add((tp, offset))

    def on_seek_refused(self, tp: TP, offset: int) -> None:
        """It was not made. One whose caller has left may be made all the same."""
        self._seeks.discard((tp, offset))

    def _begin(self, tp: TP) -> Tenure:
        if (old := self.tenures.get(tp)) is not None:
            old.has_ended = True
        self.tenures[tp] = Tenure(tp)
        return self.tenures[tp]

    def _tenure(self, tp: TP, what: str) -> Tenure:
        if tp not in self.tenures:
            raise InvariantViolated(f"I5: {tp} was {what}, and is not the member's")
        return self.tenures[tp]
