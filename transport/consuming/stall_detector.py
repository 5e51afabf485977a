"""The search for stuck partitions: its queries of broker and client, and its warnings.

The rules are in `transport/consuming/stuck.py`. A partition without new messages may just be at the
end of its log. So for quiet partitions the detector asks the broker for the end of the log, and the
client for its position, which includes markers. Both queries are rare and bounded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import attrs
import trio

from transport.consuming.pauses import Pauses
from transport.consuming.poll_requests import PollRequests
from transport.consuming.stuck import (
    Answer,
    Observation,
    Stuck,
    Timeouts,
    Watch,
    fetching,
    handling,
)
from transport.delivering.assignment import Assignment
from transport.delivering.flow import Flow
from transport.delivering.ledger import Ledger
from transport.drivers.base import ConsumerClient
from transport.errors import BrokerUnavailable, TransportError
from transport.excerpt import excerpt_of_error
from transport.log import Log
from transport.settings import Settings
from transport.types import TP


def timeouts_of(settings: Settings, commit_interval: float) -> Timeouts:
    """Return how long each stage of a message may take, by the settings."""
    return Timeouts(
        fetch=settings.stuck_fetch_timeout,
        response=settings.stuck_response_timeout,
        highwater=settings.stuck_highwater_timeout,
        ack=settings.stuck_ack_timeout,
        commit=settings.stuck_commit_timeout + commit_interval,
    )


class StallDetector:
    """A detector of stuck partitions for one consumer.

    Args:
        positions: asks the polling task for the positions of the client.
        is_rebalancing: whether a rebalance is being served.
        timeouts: how long each stage may stand still.
        patience: seconds to wait for an answer of the client.

    Attributes:
        stuck: the findings of the last search over all partitions.
    """

    def __init__(
        self,
        assignment: Assignment,
        client: ConsumerClient,
        flow: Flow,
        pauses: Pauses,
        positions: Callable[[Collection[TP]], Awaitable[Mapping[TP, int]]],
        requests: PollRequests,
        is_rebalancing: Callable[[], bool],
        log: Log,
        *,
        timeouts: Timeouts,
        patience: float,
    ) -> None:
        self.stuck: tuple[Stuck, ...] = ()
        self._assignment = assignment
        self._client = client
        self._flow = flow
        self._pauses = pauses
        self._positions = positions
        self._requests = requests
        self._is_rebalancing = is_rebalancing
        self._log = log
        self._timeouts = timeouts
        self._patience = patience
        self._watch = Watch()

    @trio.lowlevel.enable_ki_protection
    async def check_all(self) -> None:
        """Search all partitions: see `Consumer.verify_all_partitions_active`."""
        self._requests.note_change()  # a polling task that hangs does not see the request
        answers = await self._query(self._quiet(trio.current_time()))
        now = trio.current_time()
        ledgers = list(self._assignment.values())
        self._watch.keep(ledgers)
        found = [self._finding(now, ledger, answers.get(ledger)) for ledger in ledgers]
        self.stuck = tuple(stuck for stuck in found if stuck is not None)

    @trio.lowlevel.enable_ki_protection
    def check(self, now: float, tp: TP, *, whole: bool) -> Stuck | None:
        """Return the finding about one partition; None: it is not stuck, or not assigned.

        With `whole=False`, check only polling, even if the partition is paused.
        """
        ledger = self._assignment.get(tp)
        return None if ledger is None else self._finding(now, ledger, None, whole=whole)

    def _finding(
        self, now: float, ledger: Ledger, answer: Answer | None, *, whole: bool = True
    ) -> Stuck | None:
        seen = self._observe(now, ledger, answer)
        if now - seen.begun_at >= self._timeouts.ack and (due := ledger.oldest_due) is not None:
            # A handler waits for its retry on purpose. Then the time counts from that attempt on.
            seen = attrs.evolve(seen, begun_at=max(seen.begun_at, due))
        stuck = None
        if seen.is_wanted or not whole:
            stuck = fetching(seen, now, self._timeouts)
        if stuck is None and whole:
            stuck = handling(seen, now, self._timeouts)
        if self._watch.is_new(ledger, stuck) and stuck is not None:
            self._warn(stuck, now)
        return stuck

    def _observe(self, now: float, ledger: Ledger, answer: Answer | None = None) -> Observation:
        is_rebalancing = self._is_rebalancing()
        is_moving = not ledger.is_draining and not is_rebalancing
        return self._watch.observe(
            ledger,
            now,
            is_wanted=is_moving and self._pauses.is_wanted(ledger.tp),
            is_delivered=is_moving and self._flow.active,
            # A poll waits for the rebalance that is being served, which has its own bound.
            late_at=None if is_rebalancing else self._requests.late_at,
            highwater=self._client.highwater(ledger.tp),
            answer=answer,
        )

    def _quiet(self, now: float) -> list[Ledger]:
        """Return the partitions that should be fetched from and have been quiet for a while."""
        least = min(self._timeouts.response, self._timeouts.highwater)
        every = [(ledger, self._observe(now, ledger)) for ledger in self._assignment.values()]
        return [ledger for ledger, seen in every if seen.is_wanted and now - seen.moved_at >= least]

    @trio.lowlevel.enable_ki_protection
    async def _query(self, ledgers: Sequence[Ledger]) -> dict[Ledger, Answer]:
        """Return the positions and log ends of these partitions, as far as the client answers."""
        if not ledgers:
            return {}
        tps = [ledger.tp for ledger in ledgers]
        positions: Mapping[TP, int] = {}
        ends: Mapping[TP, int] = {}
        try:
            with trio.move_on_after(self._patience):
                positions = await self._positions(tps)
            # The client has its own timeout. This later bound holds if the client hangs.
            with trio.move_on_after(2 * self._patience):
                ends = await self._client.end_offsets(tps, self._patience)
        except BrokerUnavailable:
            pass  # a missing answer of the broker is a finding
        except Exception as exc:  # noqa: BLE001 - an error of the client that we do not know, too
            if not isinstance(exc, TransportError):
                self._log.warning(
                    "stuck_search_failed",
                    "the search for stuck partitions failed: %s",
                    excerpt_of_error(exc),
                    error=exc,
                )
            return {}
        return {ledger: Answer(ends.get(ledger.tp), positions.get(ledger.tp)) for ledger in ledgers}

    def _warn(self, stuck: Stuck, now: float) -> None:
        self._log.warning(
            "stuck",
            "%s is stuck: %s for %.1f s, at position %s%s: %s",
            stuck.tp,
            stuck.case.value,
            now - stuck.since,
            stuck.position,
            "" if stuck.offset is None else f" and offset {stuck.offset}",
            stuck.why,
            partitions=[stuck.tp],
            seconds=now - stuck.since,
        )
