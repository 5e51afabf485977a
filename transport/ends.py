"""The ends of the assigned partitions' logs, as the broker last answered; for the lag.

A fetch brings the end of a log. Some partitions are not fetched from: the app has paused them, a
full buffer holds them back, or their logs do not grow. The client asks the brokers for the ends of
those once in each `lag_interval`, with one request to each broker. The requests run on the client's
own loop, and no commit waits for them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import trio

from transport.errors import TransportError
from transport.ledger import Ledger

if TYPE_CHECKING:
    from transport.consumer import Consumer


@attrs.frozen
class _Told:
    """An answer.

    Attributes:
        end: of the log.
        position: the end of the fetches so far at that time. If it has moved, a fetch is newer.
    """

    end: int
    position: int | None


class Ends:
    """The ends of the logs of one consumer's partitions."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._seen: Mapping[Ledger, int | None] = {}
        self._told: Mapping[Ledger, _Told] = {}

    def end_of(self, ledger: Ledger) -> int | None:
        """Return the end of a partition's log; None: it is not known yet.

        With `isolation="read_committed"` an answer to a request is the last stable offset: records
        of an open transaction cannot be read, and are no lag.
        """
        told = self._told.get(ledger)
        if told is not None and told.position == ledger.position:
            return told.end
        return self._consumer.client.highwater(ledger.tp)

    @trio.lowlevel.enable_ki_protection
    async def look(self) -> None:
        """Ask for the ends of the logs from which no fetch has come since the last call.

        A checkpoint. Cancelled: the old answers stay. Without an answer they stay, too.
        """
        consumer = self._consumer
        await self._find_positions()
        client = consumer.client
        # A fetch that brought something has moved the position. The highwater moves without it,
        # with what an open transaction writes.
        now = {ledger: ledger.position for ledger in consumer.assignment.values()}
        quiet = {
            ledger.tp: ledger
            for ledger, position in now.items()
            if client.highwater(ledger.tp) is None or self._seen.get(ledger, -1) == position
        }
        self._seen = now
        self._told = {ledger: told for ledger, told in self._told.items() if ledger in now}
        if not quiet:
            return
        timeout = consumer.app.settings.client.commit_timeout
        with contextlib.suppress(TransportError):
            ends = await client.current_ends(list(quiet), timeout)
            found = {quiet[tp]: _Told(end, now[quiet[tp]]) for tp, end in ends.items()}
            self._told = {**self._told, **found}

    async def _find_positions(self) -> None:
        """Ask the client for positions that only it knows: of partitions paused from the start."""
        assignment = self._consumer.assignment
        unknown = [tp for tp, ledger in assignment.items() if ledger.position is None]
        if not unknown:
            return
        bound = trio.move_on_after(self._consumer.app.settings.client.commit_timeout)
        with contextlib.suppress(TransportError), bound:
            for tp, position in (await self._consumer.fetcher.positions(unknown)).items():
                if tp in assignment:
                    assignment[tp].advance(position)
