"""The client's rebalance callbacks, each as a `Rebalance` that trio releases.

The callbacks are coroutines on the client's IO thread. Each makes a future of the client, passes a
`Rebalance` to trio and awaits the future. So heartbeats continue, and the polling thread stays
inside `poll`. The first of these resolves the future:

- `Rebalance.release`;
- the bound, a timer on the client's own loop, which works even after the end of trio;
- the end of the client.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import trio
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener, TopicPartitionState
from kafka.future import Future

from transport.drivers.base import Rebalance, RebalanceKind
from transport.drivers.kafka.workarounds.stale_fetches import drop_fetches
from transport.drivers.kafka.workarounds.stale_offsets import forget_fetches
from transport.types import TP

# The release of a rebalance without an answer: no seek and no pause.
NOTHING: tuple[Mapping[TP, int], frozenset[TP]] = ({}, frozenset())


class RebalanceListener(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    """The rebalance listener of one consumer. Made in the trio run that receives the rebalances.

    Args:
        bound: seconds that a rebalance may take, counted from the client's last poll.
        drop: called with revoked or lost partitions, on the IO thread, while the polling thread is
            inside the client.
        deliver: called in trio with each rebalance, in order.
        note: called with newly assigned partitions, on the IO thread, before anything else. Returns
            those whose topic was created again since the last call with them.

    Attributes:
        raised: how many rebalances were raised. Written on the IO thread, and in trio for those
            that the consumer raises itself.
    """

    def __init__(
        self,
        bound: float,
        drop: Callable[[Collection[TP]], None],
        deliver: Callable[[Rebalance], None],
        note: Callable[[Collection[TP]], frozenset[TP]],
    ) -> None:
        self._bound = bound
        self._drop = drop
        self._deliver = deliver
        self._note = note
        self._token = trio.lowlevel.current_trio_token()
        self._consumer: Any = None  # the KafkaConsumer
        self.raised = 0
        self._closed = False
        self._pending: Rebalance | None = None

    def attach(self, consumer: Any) -> None:
        """Set the consumer that calls this listener, before its first poll."""
        self._consumer = consumer

    def close(self) -> None:
        """Let the pending rebalance expire; later callbacks return at once. From any thread."""
        self._closed = True
        if (pending := self._pending) is not None:
            self._call_in_trio(pending.expired.set)
            pending.release()

    async def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        await self._give_up(RebalanceKind.REVOKED, revoked)

    async def on_partitions_lost(self, lost: Collection[Any]) -> None:
        await self._give_up(RebalanceKind.LOST, lost)

    async def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        tps = frozenset(TP(*tp) for tp in assigned)
        of_new_topic = self._note(tps)
        drop_fetches(self._consumer, of_new_topic)
        seek, pause = await self._consent(RebalanceKind.ASSIGNED, tps, of_new_topic)
        # `_subscription`: in an eager rebalance, a partition that is revoked and assigned again
        # keeps its position and its pause flag, and no public call removes a position. So each
        # partition gets a new state, as the client gives it to a new partition.
        assignment = self._consumer._subscription.assignment
        for tp in assigned:
            assignment[tp] = state = TopicPartitionState()
            if tp in seek:
                state.seek(seek[tp])
            if tp in pause:
                state.pause()
        forget_fetches(self._consumer)  # those of an earlier assignment of the same partitions

    async def _give_up(self, kind: RebalanceKind, partitions: Collection[Any]) -> None:
        tps = frozenset(TP(*tp) for tp in partitions)
        self._drop(tps)
        await self._consent(kind, tps)

    async def _consent(
        self, kind: RebalanceKind, tps: frozenset[TP], of_new_topic: frozenset[TP] = frozenset()
    ) -> tuple[Mapping[TP, int], frozenset[TP]]:
        """Raise a rebalance and wait for its release, on the IO thread.

        Return the offsets to seek to and the partitions to pause.
        """
        if self._closed:
            return NOTHING
        # `_net`: only `call_soon_threadsafe` both resolves a future on the loop and wakes it.
        net = self._consumer._client._net
        # `_coordinator`: max_poll_interval counts from the last poll, which only it records.
        coordinator = self._consumer._coordinator
        gap = time.monotonic() - coordinator.heartbeat.last_poll
        # This member does not own lost partitions, so no interval expires. And without a
        # coordinator the client counts no polls.
        bound = self._bound if kind is RebalanceKind.LOST else max(0.0, self._bound - gap)
        answer = Future()

        def resolve(start: tuple[Mapping[TP, int], frozenset[TP]]) -> None:
            if not answer.is_done:
                answer.success(start)

        def release(seek: Mapping[TP, int], pause: frozenset[TP]) -> None:
            start = dict(seek), pause
            with contextlib.suppress(Exception):  # the loop may have ended: nothing waits then
                net.call_soon_threadsafe(lambda: resolve(start))

        self.raised += 1
        generation = coordinator.group_metadata().generation_id
        rebalance = Rebalance(kind, tps, generation, bound, release, of_new_topic=of_new_topic)

        def expire() -> None:
            if not answer.is_done:
                self._call_in_trio(rebalance.expired.set)
                answer.success(NOTHING)

        self._pending = rebalance
        timer = net.call_later(bound, expire)
        try:
            # Checked after `_pending` is set. The other order would miss a close in between.
            if self._closed or not self._call_in_trio(self._deliver, rebalance):
                return NOTHING
            return await answer  # type: ignore[no-any-return]
        finally:
            self._pending = None
            net.cancel(timer)

    def _call_in_trio(self, fn: Callable[..., object], *args: object) -> bool:
        try:
            self._token.run_sync_soon(fn, *args)
        except trio.RunFinishedError:
            return False
        return True
