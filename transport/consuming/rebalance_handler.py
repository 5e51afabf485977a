"""Rebalances: the steps before partitions are released, and before new ones are fetched from.

Rebalances are served one after the other, each within its bound. No poll returns until the
rebalance is released, so a fetch is always entered into the ledgers of the current assignment. Past
the bound the client continues without the release. Then revoked partitions are lost, and the start
offsets of newly assigned partitions must be applied to the client again (`after_poll`).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import NoReturn, Protocol, TypeVarTuple

import trio

from transport.consuming.membership import Membership
from transport.consuming.ownership import Ownership
from transport.consuming.pauses import Pauses
from transport.consuming.poll_requests import PollRequests
from transport.delivering.assignment import Assignment
from transport.delivering.flow import Flow
from transport.delivering.ledger import Ledger
from transport.drivers.base import ConsumerClient, Rebalance, RebalanceKind
from transport.errors import RebalanceInProgress
from transport.excerpt import ranges
from transport.log import Log
from transport.types import TP

Ts = TypeVarTuple("Ts")


def in_progress() -> RebalanceInProgress:
    """Return the error of requests to the polling task during a rebalance."""
    return RebalanceInProgress(
        "a rebalance is under way and may wait for your handlers and hooks: try again after it"
    )


class Steps(Protocol):
    """The steps of a rebalance beside the changes of the assignment, as the consumer has them."""

    async def on_partitions_revoked(self, revoked: frozenset[TP]) -> None: ...

    async def on_partitions_assigned(
        self, assigned: frozenset[TP], generation_id: int = 0
    ) -> None: ...

    async def on_partitions_lost(self, lost: frozenset[TP]) -> None: ...

    async def on_topics_replaced(self, lost: frozenset[TP]) -> None: ...

    def stop_abandoned(self) -> None: ...

    def serving(self, event: Rebalance) -> contextlib.AbstractContextManager[None]:
        """Return a context that is entered around each rebalance."""

    def on_polled(self) -> None:
        """Note that a poll has ended."""


class RebalanceHandler:
    """The part of a consumer that serves its rebalances.

    Args:
        membership: logs the rebalances.

    Attributes:
        is_under_way: a rebalance is being served, and the poll waits for it. Requests to the
            polling task are refused meanwhile, because a hook or a handler may wait for them.
        is_member: the consumer has got its share of the partitions, maybe none, and its group has
            not removed it since.
    """

    def __init__(
        self,
        steps: Steps,
        client: ConsumerClient,
        assignment: Assignment,
        ownership: Ownership,
        flow: Flow,
        pauses: Pauses,
        requests: PollRequests,
        membership: Membership,
        log: Log,
    ) -> None:
        self.is_under_way = False
        self.is_member = False
        self._steps = steps
        self._client = client
        self._assignment = assignment
        self._ownership = ownership
        self._flow = flow
        self._pauses = pauses
        self._requests = requests
        self._membership = membership
        self._log = log
        self._serving = trio.CancelScope()
        self._has_ended = False
        # Newly assigned and not released yet, with their start offsets. None: the committed offset.
        self._unreleased: dict[TP, int | None] = {}
        # Between the two rebalances for a topic that was created again:
        self._paused_of_old: frozenset[TP] = frozenset()
        self._known_as_new: frozenset[str] = frozenset()
        self._released: list[tuple[Rebalance, list[Ledger]]] = []  # since the last poll

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> NoReturn:
        """Serve rebalances, until cancelled or until the client is closed (ClientClosed)."""
        serve = {
            RebalanceKind.REVOKED: self._on_revoked,
            RebalanceKind.ASSIGNED: self._on_assigned,
            RebalanceKind.LOST: self._on_lost,
        }
        while True:
            event = await self._client.next_rebalance()
            self.is_under_way = True
            try:
                if not self._has_ended:
                    self._membership.begun(event)
                    start = trio.current_time()
                    if event.kind is RebalanceKind.LOST and not event.of_new_topic:
                        self.is_member = False
                    refusing = self._requests.refusing(in_progress)
                    with refusing, trio.CancelScope() as self._serving, self._steps.serving(event):
                        await serve[event.kind](event)
                    self._membership.served(event, trio.current_time() - start)
            finally:
                self.is_under_way = False
                self._unreleased = {}
                # A poll always waits for the release. Assigned partitions that are not released
                # until here belong to an app that ends or has failed: they start paused.
                event.release(pause=event.partitions)

    def end(self) -> None:
        """Cancel the rebalance under way, and serve no other. Not a checkpoint.

        At the end of a consumer the unacked messages will never be acked.
        """
        self._has_ended = True
        self._serving.cancel()

    def start_at(self, tp: TP, offset: int) -> bool:
        """Let a partition start at `offset`; return False unless it is being assigned now."""
        if tp not in self._unreleased:
            return False
        self._unreleased[tp] = offset
        return self._ownership.begin_epoch(tp, offset, is_proven=False)

    def after_poll(self) -> None:
        """Refetch from the start offsets of rebalances that were released late."""
        released, self._released = self._released, []
        for event, ledgers in released:
            if event.expired.is_set():
                self._pauses.forget(event.partitions)
                for ledger in ledgers:
                    ledger.must_refetch = True
        self._steps.on_polled()

    async def _on_revoked(self, event: Rebalance) -> None:
        """Drain, commit and release the partitions; past the bound, abandon them."""
        assignment = self._assignment
        ledgers = [assignment[tp] for tp in sorted(event.partitions) if tp in assignment]
        for ledger in ledgers:
            ledger.drain()
        self._flow.not_fetching.open()  # the poll under way returns nothing before the release
        self._requests.refuse_waiting(in_progress())
        in_time = False
        try:
            in_time = await _within(event, self._steps.on_partitions_revoked, event.partitions)
        finally:
            if not in_time:  # expired, cancelled or failed: no other code removes them
                if event.expired.is_set():
                    self._warn_of_overlap(ledgers)
                self._ownership.abandon(event.partitions)
                self._steps.stop_abandoned()
        if in_time:
            self._ownership.release(event.partitions, event.generation)

    async def _on_assigned(self, event: Rebalance) -> None:
        assignment = self._assignment
        known = assignment.assign(
            event.partitions, event.generation, of_new_topic=event.of_new_topic
        )
        # Partitions of the old topic that were paused stay paused in the new one.
        self._flow.pause(self._paused_of_old & event.of_new_topic, assignment)
        self._warn_of_new_topics(event, [])
        self._paused_of_old, self._known_as_new = frozenset(), frozenset()
        self._unreleased = {tp: known.get(tp) for tp in event.partitions}
        step = self._steps.on_partitions_assigned
        if not await _within(event, step, event.partitions, event.generation):
            self._warn_of_hook(event)
        starts = {tp: start for tp, start in self._unreleased.items() if start is not None}
        ledgers = [assignment[tp] for tp in starts if tp in assignment]
        self._released.append((event, ledgers))
        event.release(starts, self._pauses.paused_at_start(event.partitions))
        self.is_member = True

    async def _on_lost(self, event: Rebalance) -> None:
        step = self._steps.on_partitions_lost
        if event.of_new_topic:
            step = self._steps.on_topics_replaced
            self._paused_of_old = frozenset(self._flow.paused)
            assignment = self._assignment
            ledgers = [assignment[tp] for tp in event.partitions if tp in assignment]
            self._warn_of_new_topics(event, ledgers)
        self._ownership.drop(event.partitions)
        if not await _within(event, step, event.partitions):
            self._warn_of_hook(event)

    def _warn_of_new_topics(self, event: Rebalance, ledgers: Collection[Ledger]) -> None:
        """Warn once for each topic: acks of its unacked messages will have no effect."""
        in_hand = Counter({tp.topic: 0 for tp in event.of_new_topic})
        for ledger in ledgers:
            in_hand[ledger.tp.topic] += sum(1 for _ in ledger.unacked)
        for topic, count in sorted(in_hand.items()):
            if topic not in self._known_as_new:
                self._log.warning(
                    "topic_recreated",
                    "topic %s was deleted and created again: the new topic is read from its"
                    " beginning, and %d delivered messages of the old one can no longer be acked",
                    topic,
                    count,
                    topic=topic,
                    count=count,
                )
        self._known_as_new |= in_hand.keys()

    def _warn_of_overlap(self, ledgers: Sequence[Ledger]) -> None:
        """Warn about unacked messages of partitions that may have another owner (I5)."""
        for ledger in ledgers:
            if offsets := [message.offset for message in ledger.unacked]:
                self._log.warning(
                    "abandoned",
                    "%s was abandoned at the bound of the rebalance with %d unacked messages, from"
                    " offset %d on: the next owner handles them, too",
                    ledger.tp,
                    len(offsets),
                    offsets[0],
                    partitions=[ledger.tp],
                    count=len(offsets),
                    offset=offsets[0],
                )

    def _warn_of_hook(self, event: Rebalance) -> None:
        self._log.warning(
            "hook_cancelled",
            "the hook was cancelled at its bound of %.1f s, for partitions that were %s: %s",
            event.bound,
            event.kind.value,
            ranges(event.partitions),
            partitions=event.partitions,
            seconds=event.bound,
        )


@trio.lowlevel.enable_ki_protection
async def _within(event: Rebalance, step: Callable[[*Ts], Awaitable[None]], *args: *Ts) -> bool:
    """Run a step, cancel it at the bound of the rebalance, and return whether it was in time.

    An error of the step is raised without a group around it, because callers check its class.
    """
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_when, event.expired, nursery.cancel_scope)
        try:
            await step(*args)
        except trio.Cancelled:
            raise
        except BaseException as exc:  # noqa: BLE001 - it is raised below
            failure = exc
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return not event.expired.is_set()


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
