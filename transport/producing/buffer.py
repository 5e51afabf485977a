"""Messages that are to be sent soon: from code that cannot wait, and from other threads."""

from __future__ import annotations

import collections
import threading
from typing import TYPE_CHECKING, NoReturn

import trio

from transport.errors import AppClosed, BufferFull, TransportError
from transport.producing.pending import FutureMessage

if TYPE_CHECKING:
    from transport.producing.delivery import Delivery
    from transport.producing.producer import Producer


class ProducerBuffer:
    """What is to be sent soon, in order; bounded, and filled from any thread.

    Args:
        producer: accepts what is taken out.
        limit: most messages, until the producer has accepted or refused them.
    """

    def __init__(self, producer: Producer, limit: int) -> None:
        self.limit = limit
        self._producer = producer
        self._messages: collections.deque[FutureMessage] = collections.deque()
        # Other threads come in here: the one place where they share anything with us.
        self._lock = threading.Lock()
        self._held: dict[FutureMessage, None] = {}
        self._token: trio.lowlevel.TrioToken | None = None
        self._filled = trio.Event()

    def __len__(self) -> int:
        """How many messages have not been accepted or refused."""
        return len(self._held)

    @property
    def token(self) -> trio.lowlevel.TrioToken:
        """Of the trio run of the app. Raises AppClosed."""
        if self._token is None:
            raise AppClosed("the app is not open: nothing can be sent")
        return self._token

    def open(self) -> None:
        """Take messages, in this trio run."""
        self._token = trio.lowlevel.current_trio_token()

    def close(self) -> None:
        """Take no more."""
        with self._lock:
            self._token = None

    @trio.lowlevel.enable_ki_protection
    def put(self, message: FutureMessage) -> None:
        """Add a message; from any thread, without waiting.

        Raises BufferFull, AppClosed; ValueError: a producer has it already.
        """
        with self._lock:
            if self._token is None:
                raise AppClosed("the app is not open: nothing can be sent")
            if message.is_given:
                raise ValueError("a FutureMessage is for one message: it was given before")
            if len(self._held) >= self.limit:
                raise BufferFull(f"{self.limit} messages are to be sent already")
            message.give_to(self._producer.hurry)
            self._held[message] = None
            self._messages.append(message)
            if len(self._messages) == 1:
                self._token.run_sync_soon(self._wake)

    async def wait(self) -> None:
        """Wait for the outcomes of all that is held at the call. A checkpoint."""
        with self._lock:
            held = list(self._held)
        await trio.lowlevel.checkpoint()
        for message in held:
            await message.ended.wait()

    def refuse_all(self, why: TransportError) -> None:
        """Let go of all that is held, also of what was taken and not accepted yet."""
        with self._lock:
            held = list(self._held)
            self._held.clear()
            self._messages.clear()
        for fut in held:
            self._refuse(fut, why)

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> NoReturn:
        """Send what comes, until cancelled: in order, but for topics that are not known yet, each
        of which waits by itself."""
        unknown: dict[str, collections.deque[FutureMessage]] = {}

        @trio.lowlevel.enable_ki_protection
        async def send_all(topic: str) -> None:
            messages = unknown[topic]
            while messages:
                asking = len(messages)  # who comes later has a look of its own, if this one fails
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
        """Wait for the next message, which is held until its release."""
        while not self._messages:
            self._filled = trio.Event()
            await self._filled.wait()
        return self._messages.popleft()

    def _release(self, fut: FutureMessage) -> None:
        """It is accepted or refused."""
        with self._lock:
            self._held.pop(fut, None)

    async def _why_unknown(self, topic: str) -> Exception | None:
        if self._producer.known_partitions(topic) is None:
            try:
                await self._producer.ask_partitions(topic)
            except Exception as exc:  # noqa: BLE001 - whatever it is, it concerns this topic alone
                return exc
        return None

    async def _send(self, fut: FutureMessage) -> None:
        def check() -> None:
            if fut.is_done:  # it was dropped meanwhile
                raise AppClosed("it was given up")

        is_answered = False
        try:
            message = fut.message.outgoing()
            message.on_end = lambda ended: _pass_on(ended, fut)  # first: the outcome may be quick
            await self._producer.send_while(check, message)
            is_answered = True
        except Exception as exc:  # noqa: BLE001 - whatever it is, it concerns one message
            self._refuse(fut, exc)
            is_answered = True
        finally:
            if not is_answered:
                self._refuse(fut, AppClosed("the app was closed"))
            self._release(fut)

    def _refuse(self, fut: FutureMessage, why: Exception) -> None:
        if not fut.is_done:
            fut.end(why, self._producer.failures.add(fut.message.topic, why))

    def _wake(self) -> None:
        self._filled.set()


def _pass_on(delivery: Delivery, fut: FutureMessage) -> None:
    outcome = delivery.outcome
    assert outcome is not None
    fut.end(outcome, delivery.on_seen)
