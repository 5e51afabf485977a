"""The rules for stuck partitions: which partition is stuck, and in which stage. Pure.

Messages pass these stages: poll, response, fetch, ack, commit. Each stage can stand still without
an error. Each check compares some values with those of the check before, and notes since when they
have not changed. So messages need no bookkeeping of their own. A finding may be late by up to the
interval between two checks, and is never early.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import attrs

from transport.delivering.ledger import Ledger
from transport.types import TP


class StuckCase(enum.Enum):
    """The stage in which a partition is stuck, in the order of the stages."""

    NO_FETCH = "no fetch"
    NO_RESPONSE = "no response"
    HIGHWATER_AHEAD = "high watermark ahead of the position"
    NOT_ACKED = "delivered and not acked"
    NOT_COMMITTED = "position ahead of the commit"


@attrs.frozen
class Stuck:
    """A finding about one partition.

    Attributes:
        since: the time since which the stage stands still, in seconds on trio's clock. It is late
            by up to one interval between two checks.
        position: the end of the fetches so far; None: nothing was fetched.
        offset: by the case, the high watermark or the end of the log, the offset of the unacked
            message, or the committed offset. None: not known.
        why: the reason, for people.
    """

    tp: TP
    case: StuckCase
    since: float
    position: int | None
    offset: int | None
    why: str


@attrs.frozen
class Timeouts:
    """The seconds that each stage may stand still."""

    fetch: float
    response: float
    highwater: float
    ack: float
    commit: float


@attrs.frozen
class Answer:
    """The answers of broker and client about one log.

    Attributes:
        end: the end of the log; None: the broker did not answer.
        position: the client's position, past markers; None: not known.
    """

    end: int | None
    position: int | None


@attrs.frozen
class Observation:
    """The state of a partition at one check. Times are in seconds on trio's clock.

    Attributes:
        is_wanted: whether to fetch from it: not paused, not held back, no rebalance under way.
        late_at: the time of a request that the polling task has not seen; None: it has seen all.
        moved_at: the check at which the position or the high watermark last changed.
        begun: the offset of the oldest unacked message ...
        begun_at: ... and the time since which it is the oldest.
        waiting: the number of waiting messages.
        due: the offset that a commit would move to; None: there is nothing to commit.
        behind_at: the time since which the committed offset is behind and has not changed.
        answer: None: the broker was not asked.
    """

    tp: TP
    is_wanted: bool
    late_at: float | None
    moved_at: float
    position: int | None
    highwater: int | None
    begun: int | None
    begun_at: float
    waiting: int
    due: int | None
    committed: int | None
    behind_at: float
    answer: Answer | None = None


def fetching(seen: Observation, now: float, timeouts: Timeouts) -> Stuck | None:
    """Return the finding if polling or fetching stands still."""
    if seen.late_at is not None and now - seen.late_at >= timeouts.fetch:
        return _stuck(seen, StuckCase.NO_FETCH, seen.late_at, None, "the client is not polled")
    quiet = now - seen.moved_at
    answer = seen.answer
    if not seen.is_wanted or answer is None:
        return None
    position = seen.position
    if answer.position is not None and (position is None or answer.position > position):
        position = answer.position
    if answer.end is None:
        if quiet >= timeouts.response:
            why = "the broker does not answer"
            return _stuck(seen, StuckCase.NO_RESPONSE, seen.moved_at, None, why)
        return None
    if seen.highwater is not None and seen.highwater > (position or 0):
        if quiet >= timeouts.highwater:
            why = (
                "the log has messages that the client does not fetch"
                if answer.end > (position or 0)
                else "the next messages belong to an open transaction"
            )
            return _stuck(seen, StuckCase.HIGHWATER_AHEAD, seen.moved_at, seen.highwater, why)
    elif quiet >= timeouts.response and (seen.highwater is None or answer.end > (position or 0)):
        why = "the client receives nothing from the log, although the broker answers"
        return _stuck(seen, StuckCase.NO_RESPONSE, seen.moved_at, answer.end, why)
    return None


def handling(seen: Observation, now: float, timeouts: Timeouts) -> Stuck | None:
    """Return the finding if the delivery, the acks or the commits stand still."""
    if seen.begun is not None and now - seen.begun_at >= timeouts.ack:
        why = "a handler has not acked the message at that offset"
        return _stuck(seen, StuckCase.NOT_ACKED, seen.begun_at, seen.begun, why)
    if now - seen.behind_at < timeouts.commit:
        return None
    if seen.due is not None:
        why = "acked offsets are not committed"
    elif seen.waiting and seen.begun is None:
        why = "no handler takes the waiting messages"
    else:
        return None
    return _stuck(seen, StuckCase.NOT_COMMITTED, seen.behind_at, seen.committed, why)


def _stuck(seen: Observation, case: StuckCase, since: float, offset: int | None, why: str) -> Stuck:
    return Stuck(seen.tp, case, since, seen.position, offset, why)


@attrs.frozen
class _Seen:
    """The state of a ledger at the last check, and the times since which it has not changed."""

    flow: tuple[int | None, int | None]  # position, high watermark
    moved_at: float
    begun: int | None
    begun_at: float
    committed: int | None
    behind_at: float


@attrs.define
class Watch:
    """The states of the ledgers at the last check, and the findings that were reported."""

    _seen: dict[Ledger, _Seen] = attrs.field(factory=dict)
    _reported: set[tuple[Ledger, StuckCase]] = attrs.field(factory=set)

    def observe(
        self,
        ledger: Ledger,
        now: float,
        *,
        is_wanted: bool,
        is_delivered: bool,
        late_at: float | None,
        highwater: int | None,
        answer: Answer | None = None,
    ) -> Observation:
        """Return the state of a partition now.

        No time passes for a stage while the partition is not to be fetched from, or not delivered.
        """
        flow = ledger.position, highwater
        begun, waiting, due, committed = (
            ledger.oldest_begun,
            ledger.waiting if is_delivered else 0,
            ledger.due,
            ledger.committed,
        )
        is_behind = due is not None or (waiting > 0 and begun is None)
        old = self._seen.get(ledger) or _Seen(flow, now, begun, now, committed, now)
        seen = self._seen[ledger] = _Seen(
            flow,
            old.moved_at if is_wanted and flow == old.flow else now,
            begun,
            old.begun_at if begun == old.begun else now,
            committed,
            old.behind_at if is_behind and committed == old.committed else now,
        )
        return Observation(
            tp=ledger.tp,
            is_wanted=is_wanted,
            late_at=late_at,
            moved_at=seen.moved_at,
            position=ledger.position,
            highwater=highwater,
            begun=begun,
            begun_at=seen.begun_at,
            waiting=waiting,
            due=due,
            committed=committed,
            behind_at=seen.behind_at,
            answer=answer,
        )

    def is_new(self, ledger: Ledger, stuck: Stuck | None) -> bool:
        """Return whether a finding is new. A finding that ended and began again is new."""
        cases = set() if stuck is None else {(ledger, stuck.case)}
        is_new = not cases <= self._reported
        self._reported = {each for each in self._reported if each[0] is not ledger} | cases
        return is_new

    def keep(self, ledgers: Iterable[Ledger]) -> None:
        """Forget all other ledgers."""
        kept = set(ledgers)
        self._seen = {ledger: seen for ledger, seen in self._seen.items() if ledger in kept}
        self._reported = {each for each in self._reported if each[0] in kept}
