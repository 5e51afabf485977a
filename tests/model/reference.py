"""Invariants between a member, its client and its handlers: a model that keeps every offset.

The tests report each event to the model, which raises at the first violation. The model knows
nothing of ledgers, lanes and epochs, and shares no code with them. A *tenure* is an epoch as seen
from outside: it lasts from an assignment or a seek to the next one, or to the end of the ownership.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import attrs

from transport import TP
from transport.testing import InvariantViolated


@attrs.define(eq=False)
class Tenure:
    """The time in which one member reads one partition without a new assignment or seek.

    Attributes:
        fetched: the offsets that the client has returned, below the latest seek of the client.
        delivered: the offsets that handlers have received, in order.
        acked: the offsets whose acks counted.
        committed: the last offset that was committed in this tenure.
        has_ended: whether the member has released or lost the partition, or has sought elsewhere.
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
    """The model of one member.

    Args:
        buffer_size: the largest number of unacked messages.
        on_seek: called when the client makes a seek that the app has requested.
    """

    def __init__(self, buffer_size: int, on_seek: Callable[[TP, int], None]) -> None:
        self.tenures: dict[TP, Tenure] = {}
        self._buffer_size = buffer_size
        self._on_seek = on_seek
        self._seeks: set[tuple[TP, int]] = set()  # requested, not made or refused yet
        self._committing: dict[TP, Tenure] = {}  # at the latest request of a commit

    # Between the member and its client

    def on_assigned(self, tps: Iterable[TP]) -> None:
        for tp in tps:
            self._begin(tp)

    def on_released(self, tps: Iterable[TP]) -> None:
        """End the tenures of partitions that the member has released or lost (I5)."""
        for tp in tps:
            if (tenure := self.tenures.pop(tp, None)) is not None:
                tenure.has_ended = True

    def on_fetched(self, batches: Mapping[TP, Iterable[int]]) -> None:
        held = sum(len(tenure.fetched - tenure.acked) for tenure in self.tenures.values())
        if batches and held >= self._buffer_size:
            raise InvariantViolated(f"I8: {held} are fetched and not acked, but more were fetched")
        for tp, offsets in batches.items():
            tenure = self._tenure(tp, "fetched from")
            for offset in offsets:
                if tenure.fetched and offset <= max(tenure.fetched):
                    raise InvariantViolated(f"I6: {tp} offset {offset} was fetched again")
                tenure.fetched.add(offset)

    def on_sought(self, tp: TP, offset: int) -> None:
        """Check a seek of the client, after which it returns records from this offset on."""
        if (tp, offset) in self._seeks:
            self._seeks.discard((tp, offset))
            self._begin(tp)
            self._on_seek(tp, offset)
            return
        tenure = self._tenure(tp, "sought")
        if tenure.delivered and offset <= tenure.delivered[-1]:
            raise InvariantViolated(
                f"I6: {tp} goes back to {offset}, but the app has requested no seek to it"
            )
        if skipped := {o for o in tenure.fetched - set(tenure.delivered) if o < offset}:
            raise InvariantViolated(f"I3: {tp} goes on at {offset} and skips {sorted(skipped)}")
        tenure.fetched = {each for each in tenure.fetched if each < offset}

    def on_commit_asked(self) -> None:
        """Note the tenures in which the member asks its client for a commit.

        The client may make a later seek first. A member makes one commit at a time.
        """
        self._committing = dict(self.tenures)

    def on_committed(self, offsets: Mapping[TP, int]) -> None:
        """Check offsets that the broker has accepted from the member."""
        for tp, offset in offsets.items():
            tenure = self._committing.get(tp) or self._tenure(tp, "committed")
            if left := {each for each in tenure.fetched if each < offset} - tenure.acked:
                raise InvariantViolated(
                    f"I1: {tp} is committed up to {offset}, but {sorted(left)} are not acked"
                )
            if offset < tenure.committed:
                raise InvariantViolated(
                    f"I2: the commit of {tp} goes back from {tenure.committed} to {offset}"
                )
            tenure.committed = offset

    # Between the member and its handlers

    def on_delivered(self, tp: TP, offset: int) -> Tenure:
        """Check the delivery of a message, and return its tenure for `on_acked`."""
        tenure = self._tenure(tp, "delivered")
        if offset not in tenure.fetched:
            raise InvariantViolated(f"{tp} offset {offset} was delivered but never fetched")
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
        """Check an ack of a message of a tenure. `counted` is the value that the ack returned."""
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
        """Remove a seek that was refused. A seek whose caller was cancelled may still be made."""
        self._seeks.discard((tp, offset))

    def _begin(self, tp: TP) -> Tenure:
        if (old := self.tenures.get(tp)) is not None:
            old.has_ended = True
        self.tenures[tp] = Tenure(tp)
        return self.tenures[tp]

    def _tenure(self, tp: TP, what: str) -> Tenure:
        if tp not in self.tenures:
            raise InvariantViolated(f"I5: {tp} was {what}, but the member does not own it")
        return self.tenures[tp]
