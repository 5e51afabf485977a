"""The queue of `send_soon`, for code that cannot wait and for other threads.

Look here for the order in which queued messages are sent, and for when one of them is refused.
"""

from __future__ import annotations

import collections
import contextvars
import threading
from typing import TYPE_CHECKING, NoReturn

import trio

from transport.errors import AppClosed, BufferFull, TransportError
from transport.producing.delivery import Delivery
from transport.producing.pending import FutureMessage

if TYPE_CHECKING:
    from transport.producing.producer import Producer


class ProducerBuffer:
    """A bounded, thread-safe FIFO of the messages that `send_soon` has queued.

    Args:
        producer: the producer that accepts the queued messages.
        limit: the most messages. A message counts until the producer has accepted or refused it.
    """

    def __init__(self, producer: Producer, limit: int) -> None:
        self.limit = limit
        self._producer = producer
        self._tracing = producer.app.tracing
        self._messages: collections.deque[FutureMessage] = collections.deque()
        # `put` may run in any thread.
        self._lock = threading.Lock()
        self._held: dict[FutureMessage, None] = {}
        self._token: trio.lowlevel.TrioToken | None = None
        self._filled = trio.Event()

    def __len__(self) -> int:
        """Return the number of queued messages that are neither accepted nor refused."""
        return len(self._held)

    @property
    def token(self) -> trio.lowlevel.TrioToken:
        """The token of the app's trio run. Raises AppClosed: the app is not open."""
        if self._token is None:
            raise AppClosed("the app is not open: nothing can be sent")
        return self._token

    def open(self) -> None:
        """Begin to queue messages, to be sent in this trio run."""
        self._token = trio.lowlevel.current_trio_token()

    def close(self) -> None:
        """Refuse all further messages."""
        with self._lock:
            self._token = None

    @trio.lowlevel.enable_ki_protection
    def put(self, message: FutureMessage) -> None:
        """Queue a message, without waiting. May be called from any thread.

        Raises BufferFull, AppClosed. ValueError: the message was given to a producer before.
        """
        with self._lock:
            if self._token is None:
                raise AppClosed("the app is not open: nothing can be sent")
            if message.is_given:
                raise ValueError(
                    "the FutureMessage was given to a producer before: make a new one for each"
                    " message"
                )
            if len(self._held) >= self.limit:
                raise BufferFull(
                    f"the queue of send_soon holds {self.limit} messages, the most that"
                    " send_buffer_messages allows: await some of them, or raise the setting"
                )
            if self._tracing is not None:
                message.context = contextvars.copy_context()
            message.give_to(self._producer.hurry)
            self._held[message] = None
            self._messages.append(message)
            if len(self._messages) == 1:
                self._token.run_sync_soon(self._notify)

    async def wait(self) -> None:
        """Wait for the outcomes of all messages that are queued at the call. A checkpoint."""
        with self._lock:
            held = list(self._held)
        await trio.lowlevel.checkpoint()
        for message in held:
            await message.ended.wait()

    def refuse_all(self, why: TransportError) -> None:
        """Refuse all queued messages, also those that wait in the producer to be accepted."""
        with self._lock:
            held = list(self._held)
            self._held.clear()
            self._messages.clear()
        for fut in held:
            self._refuse(fut, why)

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> NoReturn:
        """Send the queued messages, until cancelled.

        They are sent in order, with one exception: messages for a topic whose partitions are not
        known wait for them, and delay no other topic.
        """
        unknown: dict[str, collections.deque[FutureMessage]] = {}

        @trio.lowlevel.enable_ki_protection
        async def send_all(topic: str) -> None:
            messages = unknown[topic]
            while messages:
                asking = len(messages)  # if the query fails, messages queued later get another one
                why = await self._why_unknown(topic)
                for _ in range(asking):
                    if why is None:
                        await self._send(messages[0])
                    else:
                        self._refuse(messages[0], why)
                        self._release(messages[0])
                    messages.popleft()
            del unknown[topic]

        async with trio.open_nursery() as nursery:
            while True:
                fut = await self._take()
                topic = fut.message.topic
                if topic in unknown:
                    unknown[topic].append(fut)
                elif self._producer.known_partitions(topic) is None:
                    unknown[topic] = collections.deque([fut])
                    nursery.start_soon(send_all, topic)
                else:
                    await self._send(fut)

    async def _take(self) -> FutureMessage:
        """Wait for the next message and return it. It counts against the limit until `_release`."""
        while not self._messages:
            self._filled = trio.Event()
            await self._filled.wait()
        return self._messages.popleft()

    def _release(self, fut: FutureMessage) -> None:
        """Stop counting a message, which is accepted or refused, against the limit."""
        with self._lock:
            self._held.pop(fut, None)

    async def _why_unknown(self, topic: str) -> Exception | None:
        if self._producer.known_partitions(topic) is None:
            try:
                await self._producer.ask_partitions(topic)
            except Exception as exc:  # noqa: BLE001 - any error concerns this topic alone
                return exc
        return None

    async def _send(self, fut: FutureMessage) -> None:
        def check() -> None:
            if fut.is_done:  # by `refuse_all`
                raise AppClosed("the message was refused before the producer accepted it")

        is_answered = False
        try:
            message = fut.message.outgoing()
            self._trace(fut, message)
            # Before `send_while`: the outcome may be known when that returns.
            message.on_end = lambda ended: _pass_on(ended, fut)
            await self._producer.send_while(check, message)
            is_answered = True
        except Exception as exc:  # noqa: BLE001 - any error concerns this message alone
            self._refuse(fut, exc)
            is_answered = True
        finally:
            if not is_answered:
                self._refuse(
                    fut, AppClosed("the producer was closed before the message was accepted")
                )
            self._release(fut)

    def _trace(self, fut: FutureMessage, message: Delivery) -> None:
        """Begin the span of a message, below the span that was the current one in `put`."""
        if fut.context is not None and self._tracing is not None:
            fut.context.run(self._tracing.sending, message)
            fut.context = None

    def _refuse(self, fut: FutureMessage, why: Exception) -> None:
        if not fut.is_done:
            if fut.context is not None and self._tracing is not None:  # it has no span yet
                self._trace(fut, message := fut.message.outgoing())
                self._tracing.refused((message,), why)
            fut.end(why, self._producer.failures.add(fut.message.topic, why))

    def _notify(self) -> None:
        self._filled.set()


def _pass_on(delivery: Delivery, fut: FutureMessage) -> None:
    outcome = delivery.outcome
    assert outcome is not None
    if not fut.is_done:  # by `refuse_all`, if the producer has only just accepted it
        fut.end(outcome, delivery.on_seen)
