"""Questions to the broker about offsets and topics, for any task and at any time.

A question does not go through the polling task. So a hook may ask while a rebalance waits for it,
and a program may ask before it reads, and about partitions that it does not have. Each question has
a bound, and ends with the app.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TypeVar

import trio

from transport.drivers.base import ConsumerClient
from transport.errors import AppClosed, BrokerUnavailable, ClientClosed
from transport.excerpt import excerpt, listed
from transport.types import TP, OffsetAndTimestamp

T = TypeVar("T")

# Extra seconds beyond the client's own timeout, so that its more specific error wins.
_MARGIN = 2.0
# The shortest timeout for a client, in seconds, after a long wait for its opening.
_LEAST = 0.001


class Questions:
    """The questions of one consumer.

    Each call is a checkpoint. Cancelled: only the waiting ends. Each raises AppClosed, and
    BrokerUnavailable if there is no answer within the timeout.

    Args:
        opened: returns the client when it is open.
        timeout: seconds for a question.
    """

    def __init__(self, opened: Callable[[], Awaitable[ConsumerClient]], *, timeout: float) -> None:
        self._opened = opened
        self._timeout = timeout
        self._waiting: set[trio.CancelScope] = set()

    async def committed(self, tps: Collection[TP]) -> dict[TP, int | None]:
        """Return the committed offsets; None: a partition has none."""
        what = f"the committed offsets of {listed(tps)}"
        found = await self._ask(what, lambda client, left: client.committed(tps, left))
        return {tp: found.get(tp) for tp in tps}

    async def committed_texts(self, tps: Collection[TP]) -> dict[TP, str | None]:
        """Return the texts of committed offsets; None: a partition has none."""
        what = f"the metadata of {listed(tps)}"
        found = await self._ask(what, lambda client, left: client.committed_texts(tps, left))
        return {tp: found.get(tp) for tp in tps}

    async def beginning_offsets(self, tps: Collection[TP]) -> dict[TP, int]:
        """Return the first offset of each log. Raises UnknownTopic."""
        what = f"the beginning offsets of {listed(tps)}"
        found = await self._ask(what, lambda client, left: client.beginning_offsets(tps, left))
        return {tp: found[tp] for tp in tps}

    async def end_offsets(self, tps: Collection[TP]) -> dict[TP, int]:
        """Return the offset after the last one of each log. Raises UnknownTopic."""
        what = f"the end offsets of {listed(tps)}"
        found = await self._ask(what, lambda client, left: client.end_offsets(tps, left))
        return {tp: found[tp] for tp in tps}

    async def offsets_for_times(
        self, times: Mapping[TP, int]
    ) -> dict[TP, OffsetAndTimestamp | None]:
        """Return the first record of each log with the given or a later timestamp.

        Raises UnknownTopic.

        Args:
            times: milliseconds since 1970.
        """
        what = f"the offsets for times of {listed(times)}"
        found = await self._ask(what, lambda client, left: client.offsets_for_times(times, left))
        records = {tp: OffsetAndTimestamp(at, time / 1000) for tp, (at, time) in found.items()}
        return {tp: records.get(tp) for tp in times}

    async def topics(self) -> frozenset[str]:
        """Return the names of all topics."""
        return await self._ask("the list of topics", lambda client, left: client.topics(left))

    async def partitions(self, topic: str) -> frozenset[TP]:
        """Return the partitions of a topic. Raises UnknownTopic."""
        what = f"the partitions of {excerpt(topic)}"
        return await self._ask(what, lambda client, left: client.partitions(topic, left))

    async def topic_settings(self, topic: str) -> Mapping[str, str]:
        """Return the settings of a topic; empty: the app may not see them. Raises UnknownTopic."""
        what = f"the settings of {excerpt(topic)}"
        return await self._ask(what, lambda client, left: client.topic_settings(topic, left))

    @trio.lowlevel.enable_ki_protection
    async def within(self, what: str, wait: Callable[[], Awaitable[T]], *, more: float = 0.0) -> T:
        """Wait for something, within the timeout and until `end`.

        Args:
            more: seconds beyond the timeout.
        """
        with trio.CancelScope() as scope:
            self._waiting.add(scope)
            try:
                with trio.move_on_after(self._timeout + more):
                    return await wait()
            finally:
                self._waiting.discard(scope)
            raise BrokerUnavailable(f"no answer about {what} within {self._timeout:g} s")
        raise AppClosed(f"the app closed before the answer about {what}")

    def end(self) -> None:
        """End all questions with AppClosed. Not a checkpoint."""
        for scope in self._waiting:
            scope.cancel()

    async def _ask(self, what: str, query: Callable[[ConsumerClient, float], Awaitable[T]]) -> T:
        deadline = trio.current_time() + self._timeout

        async def ask() -> T:
            client = await self._opened()
            return await query(client, max(_LEAST, deadline - trio.current_time()))

        try:
            return await self.within(what, ask, more=_MARGIN)
        except ClientClosed as error:
            raise AppClosed(f"the consumer was closed before the answer about {what}") from error
