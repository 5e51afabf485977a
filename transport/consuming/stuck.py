"""Which partition is stuck, and where on its way. Knows neither trio nor Kafka.

A message's way is: fetched, answered, delivered, acked, committed. Each of its stages can stand
still without an error anywhere. What is looked at are values and since when they have not changed;
they are compared at each look, so nothing is written down while messages pass. Times are thus late
by up to the time between two looks, and never early: nothing is called stuck that is not.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import attrs

from transport.delivering.ledger import Ledger
from transport.types import TP


class StuckCase(enum.Enum):
    """Where on its way a partition is stuck, in the order of the way."""

    NO_FETCH = "no fetch"
    NO_RESPONSE = "no response"
    HIGHWATER_AHEAD = "high water ahead of the position"
    NOT_ACKED = "delivered and not acked"
    NOT_COMMITTED = "position ahead of the commit"


@attrs.frozen
class Stuck:
    """A finding.

    Attributes:
        since: when it stood still, on trio's clock, in seconds; late by up to one look.
        position: up to where it was fetched; None: nothing ever was.
        offset: what it stands against: the end of the log, the message that is not acked, or the
            offset that is committed, by the case. None: not known.
        why: for people.
    """

    tp: TP
    case: StuckCase
    since: float
    position: int | None
    offset: int | None
    why: str


@attrs.frozen
class Timeouts:
    """Seconds that each stage may stand still."""

    fetch: float
    response: float
    highwater: float
    ack: float
    commit: float


@attrs.frozen
class Answer:
    """What the broker said when it was asked for the end of a log.

    Attributes:
        end: None: it did not answer.
        position: up to where the client has read, past markers; None: not known.
    """

    end: int | None
    position: int | None


@attrs.frozen
class Sight:
    """What is seen of a partition at a moment.

    Attributes:
        is_wanted: it is to be fetched from: not paused, not held back, no rebalance under way.
        late_at: since when the polling side should have come round; None: it has.
        heard_at: when the position or the high water were last seen to have changed.
        begun: the oldest message that is delivered and not acked ...
        begun_at: ... and since when that is.
        waiting: how many messages are fetched and not delivered.
        due: what a commit would move to; None: there is nothing to commit.
        behind_at: since when the commit is behind, and the same.
        answer: None: the broker was not asked.
    """

    tp: TP
    is_wanted: bool
    late_at: float | None
    heard_at: float
    position: int | None
    highwater: int | None
    begun: int | None
    begun_at: float
    waiting: int
    due: int | None
    committed: int | None
    behind_at: float
    answer: Answer | None = None


def fetching(sight: Sight, now: float, timeouts: Timeouts) -> Stuck | None:
    """Whether the first half of the way stands still: up to a message's being fetched."""
    if sight.late_at is not None and now - sight.late_at >= timeouts.fetch:
        return _stuck(sight, StuckCase.NO_FETCH, sight.late_at, None, "the client is not polled")
    quiet = now - sight.heard_at
    answer = sight.answer
    if not sight.is_wanted or answer is None:
        return None
    position = sight.position
    if answer.position is not None and (position is None or answer.position > position):
        position = answer.position
    if answer.end is None:
        if quiet >= timeouts.response:
            why = "the broker does not answer"
            return _stuck(sight, StuckCase.NO_RESPONSE, sight.heard_at, None, why)
        return None
    if sight.highwater is not None and sight.highwater > (position or 0):
        if quiet >= timeouts.highwater:
            why = (
                "the client knows of messages and does not bring them"
                if answer.end > (position or 0)
                else "what comes next belongs to a transaction that is not over"
            )
            return _stuck(sight, StuckCase.HIGHWATER_AHEAD, sight.heard_at, sight.highwater, why)
    elif quiet >= timeouts.response and (sight.highwater is None or answer.end > (position or 0)):
        why = "the client hears nothing of it, though the broker answers"
        return _stuck(sight, StuckCase.NO_RESPONSE, sight.heard_at, answer.end, why)
    return None


def handling(sight: Sight, now: float, timeouts: Timeouts) -> Stuck | None:
    """Whether the second half stands still: from a message's delivery to its commit."""
    if sight.begun is not None and now - sight.begun_at >= timeouts.ack:
        why = "a handler holds that message"
        return _stuck(sight, StuckCase.NOT_ACKED, sight.begun_at, sight.begun, why)
    if now - sight.behind_at < timeouts.commit:
        return None
    if sight.due is not None:
        why = "what is acked is not committed"
    elif sight.waiting and sight.begun is None:
        why = "nobody takes its messages"
    else:
        return None
    return _stuck(sight, StuckCase.NOT_COMMITTED, sight.behind_at, sight.committed, why)


def _stuck(sight: Sight, case: StuckCase, since: float, offset: int | None, why: str) -> Stuck:
    return Stuck(sight.tp, case, since, sight.position, offset, why)


@attrs.frozen
class _Seen:
    """A ledger as of a look, and since when it has been like that."""

    flow: tuple[int | None, int | None]  # position, high water
    heard_at: float
    begun: int | None
    begun_at: float
    committed: int | None
    behind_at: float


@attrs.define
class Watch:
    """Remembers when what was last different, ledger by ledger, and what was told of."""

    _seen: dict[Ledger, _Seen] = attrs.field(factory=dict)
    _told: set[tuple[Ledger, StuckCase]] = attrs.field(factory=set)

    def look(
        self,
        ledger: Ledger,
        now: float,
        *,
        is_wanted: bool,
        is_delivered: bool,
        late_at: float | None,
        highwater: int | None,
        answer: Answer | None = None,
    ) -> Sight:
        """See a partition now. While it is not to be fetched from, or not delivered, no time
        passes for that."""
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
            old.heard_at if is_wanted and flow == old.flow else now,
            begun,
            old.begun_at if begun == old.begun else now,
            committed,
            old.behind_at if is_behind and committed == old.committed else now,
        )
        return Sight(
            tp=ledger.tp,
            is_wanted=is_wanted,
            late_at=late_at,
            heard_at=seen.heard_at,
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

    def is_news(self, ledger: Ledger, stuck: Stuck | None) -> bool:
        """Whether this was not told of yet; it is told again once it was over."""
        cases = set() if stuck is None else {(ledger, stuck.case)}
        is_news = not cases <= self._told
        self._told = {told for told in self._told if told[0] is not ledger} | cases
        return is_news

    def keep(self, ledgers: Iterable[Ledger]) -> None:
        """Forget all others."""
        kept = set(ledgers)
        self._seen = {ledger: seen for ledger, seen in self._seen.items() if ledger in kept}
        self._told = {told for told in self._told if told[0] in kept}
