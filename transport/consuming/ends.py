"""The ends of the assigned partitions' logs, from the last answers of the brokers; for the lag.

A fetch brings the end of a log. Some partitions are not fetched from: the app has paused them, a
full buffer holds them back, or their logs do not grow. The client asks the brokers for the ends of
those logs once in each `lag_interval`, with one request to each broker. The requests run on the
client's own loop, and no commit waits for them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping

import attrs
import trio

from transport.delivering.assignment import Assignment
from transport.delivering.ledger import Ledger
from transport.drivers.base import ConsumerClient
from transport.errors import TransportError
from transport.types import TP


@attrs.frozen
class _Answer:
    """An answer of a broker about one log.

    Attributes:
        end: the end of the log.
        position: the ledger's position at the time of the request. If the position has moved since
            then, a fetch is newer than the answer.
    """

    end: int
    position: int | None


class Ends:
    """The ends of the logs of one consumer's partitions.

    Args:
        positions: asks the polling task for the positions of the client.
        timeout: seconds to wait for an answer.
    """

    def __init__(
        self,
        assignment: Assignment,
        client: ConsumerClient,
        positions: Callable[[Collection[TP]], Awaitable[Mapping[TP, int]]],
        *,
        timeout: float,
    ) -> None:
        self._assignment = assignment
        self._client = client
        self._positions = positions
        self._timeout = timeout
        self._seen: Mapping[Ledger, int | None] = {}
        self._answers: Mapping[Ledger, _Answer] = {}

    def end_of(self, ledger: Ledger) -> int | None:
        """Return the end of a partition's log; None: the end is not known yet.

        With `isolation="read_committed"` an answer to a request is the last stable offset: records
        of an open transaction cannot be read, and are no lag.
        """
        answer = self._answers.get(ledger)
        if answer is not None and answer.position == ledger.position:
            return answer.end
        return self._client.highwater(ledger.tp)

    @trio.lowlevel.enable_ki_protection
    async def refresh(self) -> None:
        """Ask for the ends of the logs from which no fetch has come since the last call.

        A checkpoint. If the call is cancelled or no answer comes, the old answers stay.
        """
        await self._find_positions()
        # The position moves only when a fetch has brought records. The high watermark also moves
        # with the records of an open transaction.
        now = {ledger: ledger.position for ledger in self._assignment.values()}
        quiet = {
            ledger.tp: ledger
            for ledger, position in now.items()
            if self._client.highwater(ledger.tp) is None or self._seen.get(ledger, -1) == position
        }
        self._seen = now
        self._answers = {
            ledger: answer for ledger, answer in self._answers.items() if ledger in now
        }
        if not quiet:
            return
        with contextlib.suppress(TransportError):
            ends = await self._client.current_ends(list(quiet), self._timeout)
            found = {quiet[tp]: _Answer(end, now[quiet[tp]]) for tp, end in ends.items()}
            self._answers = {**self._answers, **found}

    @trio.lowlevel.enable_ki_protection
    async def _find_positions(self) -> None:
        """Ask the client for unknown positions: of partitions that were paused from the start."""
        assignment = self._assignment
        unknown = [tp for tp, ledger in assignment.items() if ledger.position is None]
        if not unknown:
            return
        with contextlib.suppress(TransportError), trio.move_on_after(self._timeout):
            for tp, position in (await self._positions(unknown)).items():
                if tp in assignment:
                    assignment[tp].advance(position)
