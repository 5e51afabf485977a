"""The polling side of the client: the one task that polls, pauses, seeks and subscribes.

All that must not overtake each other happens here, one after the other: a batch is entered into
its ledger before the next poll begins, and a rebalance comes only during a poll. So a batch can
never land in a later epoch than the one it was fetched in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import trio

from nurseries import Service
from transport.errors import NotAssigned, TransportError
from transport.fetched import Fetched
from transport.types import TP

if TYPE_CHECKING:
    from transport.app import App


class Fetcher(Service):
    """Fetches messages, in batches, for the Conductor."""

    def __init__(self, app: App) -> None:
        super().__init__("Fetcher")
        self.app = app
        self._paused: frozenset[TP] = frozenset()  # what the client has been told
        self._stopping = False
        self._stopped = trio.Event()
        self._subscribed: frozenset[str] = frozenset()
        self._subscribing = trio.CancelScope()
        self._is_ending = False

    @trio.lowlevel.enable_ki_protection
    async def on_start(self) -> None:
        self._stopping = self._is_ending = False
        self._stopped = trio.Event()
        self.app.consumer.requests.reopen()
        self.spawn("poll", self._run)

    @trio.lowlevel.enable_ki_protection
    async def on_stop(self) -> None:
        """Stop fetching; returns only once no poll is under way."""
        self._stopping = True
        self.app.consumer.requests.note_change()
        self.app.consumer.requests.close()
        await self._stopped.wait()

    def give_up_subscribing(self) -> None:
        """Stop subscribing: an app that ends does not wait for a missing topic."""
        self._is_ending = True
        self._subscribing.cancel()

    async def seek(self, tp: TP, offset: int) -> None:
        """Go on at `offset` in a new epoch: see `Consumer.seek`."""
        await self.app.consumer.requests.ask(lambda: self._seek(tp, offset))

    async def catch_up(self) -> None:
        """Move ledgers that are all done past what is never fetched at the end of a log (I4).

        A checkpoint. Raises the errors of `seek` if the client cannot do it now.
        """
        if self._behind():
            await self.app.consumer.requests.ask(self._look_at_positions)
        else:
            await trio.lowlevel.checkpoint()

    async def positions(self, tps: Collection[TP]) -> dict[TP, int]:
        """Return the positions of the client, at the next turn of the polling side.

        A checkpoint. Raises the errors of `seek` if the client cannot do it now.
        """
        consumer = self.app.consumer
        return dict(await consumer.requests.ask(lambda: consumer.client.positions(tps)))

    def start_anew(self, tps: frozenset[TP]) -> frozenset[TP]:
        """Note that the client restarts these; return those that it must start paused.

        Not a checkpoint.
        """
        paused = frozenset(tp for tp in tps if not self.is_wanted(tp))
        self._paused = self._paused - tps | paused
        return paused

    def forget(self, tps: frozenset[TP]) -> None:
        """Note that the client has started these by itself, without a pause. Not a checkpoint."""
        self._paused -= tps

    @trio.lowlevel.enable_ki_protection
    async def _run(self) -> None:
        try:
            with self.app.consumer.ending_quietly():
                await self._poll_on()
        finally:
            self._stopped.set()
            self.app.consumer.flow.not_fetching.open()
            self.app.consumer.requests.close()

    async def _poll_on(self) -> None:
        consumer = self.app.consumer
        flow, client = consumer.flow, consumer.client
        while not self._stopping:
            await self._subscribe()
            await consumer.requests.make_all()
            await self._refetch()
            await self._pause_and_resume()
            if flow.active:
                flow.not_fetching.close()
            consumer.requests.seen()
            # What came has no name here: the next poll may take long, and a name would keep it in
            # memory.
            self._take(await client.poll())

    def _take(self, found: Mapping[TP, Sequence[Fetched]]) -> None:
        """Enter what a poll has brought. Not a checkpoint."""
        consumer = self.app.consumer
        consumer.handover.settle()
        consumer.resets.take(consumer.client.resets())
        for tp, several in found.items():
            if tp in consumer.assignment and not consumer.assignment[tp].is_draining:
                for fetched in several:
                    self._enter(tp, fetched)

    def _enter(self, tp: TP, fetched: Fetched) -> None:
        consumer = self.app.consumer
        if consumer.assignment[tp].is_behind(fetched.first):
            # The position was outside the log, and the client was reset to a place within.
            consumer.ownership.begin_epoch(tp, fetched.first)
        consumer.callback(consumer.assignment[tp], fetched)

    @trio.lowlevel.enable_ki_protection
    async def _subscribe(self) -> None:
        conductor, client = self.app.conductor, self.app.consumer.client
        if conductor.wanted != self._subscribed and not self._is_ending:
            wanted = conductor.wanted
            with trio.CancelScope() as self._subscribing:
                await client.subscribe(sorted(wanted), may_be_gone=conductor.may_be_gone)
                self._subscribed = wanted
                conductor.on_subscribed(wanted)

    async def _seek(self, tp: TP, offset: int) -> None:
        consumer = self.app.consumer
        if tp not in consumer.assignment:
            raise NotAssigned(f"{tp} is not assigned any more")
        # Until the client is there, what it had fetched must not be delivered.
        consumer.assignment[tp].drain()
        try:
            await consumer.client.seek(tp, offset)
        except TransportError:
            consumer.ownership.drop({tp})
            raise
        if not consumer.ownership.begin_epoch(tp, offset, is_proven=False):
            raise NotAssigned(f"{tp} was revoked during the seek to offset {offset}")

    async def _refetch(self) -> None:
        ledgers = list(self.app.consumer.assignment.values())
        for ledger in ledgers:
            if not ledger.is_shut and (position := ledger.refetching) is not None:
                await self.app.consumer.client.seek(ledger.tp, position)
                ledger.sought_back()

    def is_wanted(self, tp: TP) -> bool:
        """Whether the partition is to be fetched from: not stopped, paused or held back."""
        flow = self.app.consumer.flow
        return flow.active and tp not in flow.paused and not self.app.conductor.is_held_back(tp)

    async def _pause_and_resume(self) -> None:
        consumer = self.app.consumer
        flow, client = consumer.flow, consumer.client
        unwanted = frozenset(tp for tp in consumer.assignment if not self.is_wanted(tp))
        if not flow.active:
            unwanted |= self._paused  # and at the end, what is let go is not fetched once more
        if pause := unwanted - self._paused:
            await client.pause(sorted(pause))
        if resume := self._paused - unwanted:
            await client.resume(sorted(resume))
        self._paused = unwanted
        if not flow.active:
            flow.not_fetching.open()

    def _behind(self) -> list[TP]:
        """Partitions that are all done and yet not at the end of the log."""
        consumer = self.app.consumer
        return [
            tp
            for tp, ledger in consumer.assignment.items()
            if (highwater := consumer.client.highwater(tp)) is not None
            and ledger.is_idle
            and (ledger.position is None or ledger.position < highwater)
        ]

    async def _look_at_positions(self) -> None:
        consumer = self.app.consumer
        for tp, position in (await consumer.client.positions(self._behind())).items():
            if tp in consumer.assignment:
                consumer.assignment[tp].advance(position)
