"""The loop of the polling task, which polls, pauses, seeks and subscribes the client.

All steps that must keep their order happen in this one task. A fetch is entered into its ledger
before the next poll begins, and a rebalance happens only during a poll. So a fetch never enters a
later epoch than the epoch of its poll.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import trio

from transport.consuming.conductor import Conductor
from transport.consuming.ownership import Ownership
from transport.consuming.pauses import Pauses
from transport.consuming.poll_requests import PollRequests
from transport.consuming.rebalance_handler import RebalanceHandler
from transport.consuming.resets import Resets
from transport.delivering.assignment import Assignment
from transport.delivering.flow import Flow
from transport.delivering.ledger import Ledger
from transport.drivers.base import ConsumerClient
from transport.errors import NotAssigned, TransportError
from transport.fetched import Fetched
from transport.probe import Probe
from transport.types import TP


class Polling:
    """The poll loop of one client, which makes the requests of other parts between two polls.

    Args:
        callback: takes each fetch of a partition, in order.
        probe: None: there is no monitor.
    """

    def __init__(
        self,
        client: ConsumerClient,
        requests: PollRequests,
        assignment: Assignment,
        ownership: Ownership,
        flow: Flow,
        pauses: Pauses,
        conductor: Conductor,
        rebalances: RebalanceHandler,
        resets: Resets,
        callback: Callable[[Ledger, Fetched], None],
        probe: Probe | None,
    ) -> None:
        self._client = client
        self._requests = requests
        self._assignment = assignment
        self._ownership = ownership
        self._flow = flow
        self._pauses = pauses
        self._conductor = conductor
        self._rebalances = rebalances
        self._resets = resets
        self._callback = callback
        self._probe = probe
        self._subscribed: frozenset[str] = frozenset()
        self._subscribing = trio.CancelScope()  # the last one; cancelled: subscribe no more

    # In any task

    def start(self) -> None:
        """Accept requests, and let `run` poll. Not a checkpoint."""
        self._requests.reopen()

    def stop(self) -> None:
        """Let `run` end after the poll that is under way. Not a checkpoint."""
        self._requests.note_change()
        self._requests.close()

    def give_up_subscribing(self) -> None:
        """Subscribe no more: a consumer that ends does not wait for a missing topic."""
        self._subscribing.cancel()

    async def seek(self, tp: TP, offset: int) -> None:
        """Continue at `offset` in a new epoch: see `Consumer.seek`."""
        await self._requests.ask(lambda: self._seek(tp, offset))

    async def catch_up(self) -> None:
        """Move idle ledgers past the markers and aborted records at the end of a log (I4).

        A checkpoint. Raises the errors of `seek` if the client cannot do this now.
        """
        if self._behind():
            await self._requests.ask(self._advance)
        else:
            await trio.lowlevel.checkpoint()

    async def positions(self, tps: Collection[TP]) -> Mapping[TP, int]:
        """Return the positions of the client, before its next poll.

        A checkpoint. Raises the errors of `seek` if the client cannot do this now.
        """
        return await self._requests.ask(lambda: self._client.positions(tps))

    # In the polling task

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Poll until `stop`. Raises the errors of the client, such as ClientClosed."""
        try:
            while not self._requests.is_closed:
                await self._subscribe()
                await self._requests.make_all()
                await self._refetch()
                await self._pause_and_resume()
                if self._flow.active:
                    self._flow.not_fetching.close()
                self._requests.seen()
                # The fetches are not bound to a name: a name would keep them in memory during the
                # next poll, which may be long.
                self._take(await self._poll())
        finally:
            self._flow.not_fetching.open()
            self._requests.close()

    async def _poll(self) -> Mapping[TP, Sequence[Fetched]]:
        if (probe := self._probe) is None:
            return await self._client.poll()
        start = trio.current_time()
        found = await self._client.poll()
        count = sum(fetched.count for several in found.values() for fetched in several)
        probe(probe.sensor.on_poll, trio.current_time() - start, count)
        return found

    def _take(self, found: Mapping[TP, Sequence[Fetched]]) -> None:
        """Enter the fetches of a poll into the ledgers. Not a checkpoint."""
        self._rebalances.after_poll()
        self._resets.take(self._client.resets())
        for tp, several in found.items():
            if tp in self._assignment and not self._assignment[tp].is_draining:
                for fetched in several:
                    self._enter(tp, fetched)

    def _enter(self, tp: TP, fetched: Fetched) -> None:
        if self._assignment[tp].is_behind(fetched.first):
            # The position was outside the log, and the client was reset to an earlier offset.
            self._ownership.begin_epoch(tp, fetched.first)
        self._callback(self._assignment[tp], fetched)

    @trio.lowlevel.enable_ki_protection
    async def _subscribe(self) -> None:
        conductor = self._conductor
        if conductor.wanted != self._subscribed and not self._subscribing.cancel_called:
            wanted = conductor.wanted
            with trio.CancelScope() as self._subscribing:
                await self._client.subscribe(sorted(wanted), may_be_gone=conductor.may_be_gone)
                self._subscribed = wanted
                conductor.on_subscribed(wanted)

    async def _seek(self, tp: TP, offset: int) -> None:
        if tp not in self._assignment:
            raise NotAssigned(f"{tp} is not assigned any more")
        # Messages from before the seek must not be delivered while the client seeks.
        self._assignment[tp].drain()
        try:
            await self._client.seek(tp, offset)
        except TransportError:
            self._ownership.drop({tp})
            raise
        if not self._ownership.begin_epoch(tp, offset, is_proven=False):
            raise NotAssigned(f"{tp} was revoked during the seek to offset {offset}")

    async def _refetch(self) -> None:
        for ledger in list(self._assignment.values()):
            if not ledger.is_shut and (position := ledger.refetch_from) is not None:
                await self._client.seek(ledger.tp, position)
                ledger.end_refetch()

    async def _pause_and_resume(self) -> None:
        pause, resume = self._pauses.changes()
        if pause:
            await self._client.pause(sorted(pause))
        if resume:
            await self._client.resume(sorted(resume))
        self._pauses.note_applied(pause, resume)
        if not self._flow.active:
            self._flow.not_fetching.open()

    def _behind(self) -> list[TP]:
        """Return the partitions whose fetches are all done, before the end of the log."""
        return [
            tp
            for tp, ledger in self._assignment.items()
            if (highwater := self._client.highwater(tp)) is not None
            and ledger.is_idle
            and (ledger.position is None or ledger.position < highwater)
        ]

    async def _advance(self) -> None:
        for tp, position in (await self._client.positions(self._behind())).items():
            if tp in self._assignment:
                self._assignment[tp].advance(position)
