"""A queue for messages to topics that the client has no metadata of.

Either the client has none yet, or the topic was deleted. The client's `send` would block the
sending thread for each of these messages, and so all other topics. This queue keeps the messages in
order, and waits for each topic separately.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import NoReturn, TypeAlias

import attrs
import trio

from transport.drivers.base import Outcome, Outgoing
from transport.errors import (
    AuthorizationFailed,
    BrokerUnavailable,
    DeliveryFailed,
    DeliveryTimeout,
    TransportError,
    UnknownTopic,
)

# Seconds between two lookups while no broker answers.
_BACKOFF = 0.2
# A message may be passed on together with an earlier one, and then gets that one's deadline. It
# loses at most so many seconds, and at most this share of the time that the earlier one has left.
_MOST_TAKEN, _SHARE_TAKEN = 1.0, 0.1


_Entry: TypeAlias = tuple[float, int, Outgoing]  # deadline, number, message


@attrs.define
class TopicWaitQueue:
    """The messages that wait for the metadata of their topics. Called in trio.

    Args:
        look_up: waits for a topic, for so many seconds; raises UnknownTopic, BrokerUnavailable, ...
        hand_over: passes messages and their deadline to the client that looked the topic up.
            Messages whose topic the client does not know after all are added again before it
            returns.
        report: called with the outcomes of messages that fail in the queue.
        patience: seconds to wait for a topic that the brokers do not have.
    """

    look_up: Callable[[str, float], Awaitable[object]]
    hand_over: Callable[[Sequence[Outgoing], float], Awaitable[object]]
    report: Callable[[Sequence[tuple[Outgoing, Outcome]]], None]
    patience: float
    # By topic: a heap by deadline, and then by the order of adding.
    _waiting: dict[str, list[_Entry]] = attrs.field(factory=dict)
    _numbers: Iterator[int] = attrs.field(factory=itertools.count)
    _asked_for: list[str] = attrs.field(factory=list)
    _wanted: trio.Event = attrs.field(factory=trio.Event)

    @property
    def topics(self) -> Collection[str]:
        """The topics that are waited for: new messages for them must be added here."""
        return self._waiting.keys()

    def add(self, messages: Sequence[Outgoing], deadline: float) -> None:
        """Keep messages until their topics exist or their deadline passes.

        Messages that are added again have the earliest deadlines, so they leave the queue first.
        """
        for message in messages:
            if message.topic not in self._waiting:
                self._waiting[message.topic] = []
                self._asked_for.append(message.topic)
                self._wanted.set()
            heapq.heappush(self._waiting[message.topic], (deadline, next(self._numbers), message))

    def fail(self, error: TransportError) -> None:
        """Fail all messages in the queue."""
        for queue in self._waiting.values():
            self._fail(queue, error)

    @trio.lowlevel.enable_ki_protection
    async def wait_for_topics(self) -> NoReturn:
        """Wait for the topics of all messages in the queue, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._wanted.wait()
                self._wanted = trio.Event()
                asked_for, self._asked_for = self._asked_for, []
                for topic in asked_for:
                    nursery.start_soon(self._wait_for, topic)

    async def _wait_for(self, topic: str) -> None:
        queue = self._waiting[topic]
        while queue:
            deadline = queue[0][0]
            left = deadline - trio.current_time()
            try:
                await self.look_up(topic, max(0.0, min(self.patience, left)))
                if queue:  # `fail` may have emptied it meanwhile
                    await self._hand_over(queue)
            except BrokerUnavailable as error:
                if trio.current_time() < deadline:
                    await trio.sleep(_BACKOFF)  # no event reports that a broker is back
                else:
                    self._expire(topic, deadline, error)
            except AuthorizationFailed as error:
                self._fail(queue, error)
            except TransportError as error:
                if isinstance(error, UnknownTopic) and deadline <= trio.current_time():
                    # Others have more time, and a broker that has just restarted may not know the
                    # topic yet.
                    self._expire(topic, deadline, error)
                else:
                    self._fail(queue, DeliveryFailed(str(error)), error)
            except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this topic alone
                self._fail(queue, DeliveryFailed(repr(error)), error)
        # Not after a cancellation: `fail` then needs the rest of the queue.
        del self._waiting[topic]

    async def _hand_over(self, queue: list[_Entry]) -> None:
        """Pass on the messages with the first deadline, and those with little more time.

        One by one, they would leave the queue more slowly than new messages can arrive.
        """
        deadline = queue[0][0]
        left = max(0.0, deadline - trio.current_time())
        last = deadline + min(_MOST_TAKEN, left * _SHARE_TAKEN)
        await self.hand_over([message for _, _, message in _until(queue, last)], deadline)

    def _expire(self, topic: str, deadline: float, cause: TransportError) -> None:
        """Fail the messages with this deadline or an earlier one."""
        queue = self._waiting[topic]
        expired = _until(queue, deadline)
        self._fail(
            expired,
            DeliveryTimeout(f"no metadata of topic {topic!r} until the message's deadline"),
            cause,
        )

    def _fail(
        self,
        queue: list[_Entry],
        why: TransportError,
        cause: Exception | None = None,
    ) -> None:
        failed: list[tuple[Outgoing, Outcome]] = [(message, why) for _, _, message in sorted(queue)]
        queue.clear()
        why.__cause__ = why.__cause__ or cause
        if failed:
            self.report(failed)


def _until(queue: list[_Entry], last: float) -> list[_Entry]:
    """Take out the messages with this deadline or an earlier one, in order."""
    taken = []
    while queue and queue[0][0] <= last:
        taken.append(heapq.heappop(queue))
    return taken
