"""From what was fetched to the handlers: one topic object's buffer and its iterators."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Self

import trio
from trio.lowlevel import checkpoint_if_cancelled, enable_ki_protection

from transport.codec import Codec, DecodeError
from transport.delivering.decoding import AGAIN, Codecs, Decoded
from transport.delivering.flow import Flow
from transport.delivering.in_hand import in_hand
from transport.delivering.ledger import BufferUsage, Lane, lane_of
from transport.errors import UnreadableBatch
from transport.excerpt import excerpt_of_error
from transport.message import Batch, Message
from transport.scheduler import RoundRobin, SchedulingStrategy
from transport.weights import Held

# An iterator gives way to other tasks at least this often, in seconds, and once a turn.
_GIVE_WAY = 0.001

DecodeErrorHook = Callable[[DecodeError, Message], Awaitable[None]]


async def raise_decode_error(error: DecodeError, message: Message) -> None:
    """What is done by default: the error comes out of the iterator, the message stays unacked."""
    raise error


class Channel:
    """The lanes of one topic object, and whose turn it is.

    Args:
        limit: most messages delivered and unacked; with so many fetched the channel is full, and
            the partitions of its topic are not fetched from until half of them are done.
        on_full: called with the channel at each turn from or to full.
        on_unreadable: called with the error when the turn of a batch comes that cannot be decoded.
        memory: the weight of the messages in all channels of the app. None: it is not counted.
    """

    def __init__(
        self,
        name: str,
        flow: Flow,
        *,
        limit: int,
        key: Codec | None = None,
        value: Codec | None = None,
        on_full: Callable[[Channel], None] = lambda channel: None,
        on_unreadable: Callable[[UnreadableBatch], None] = lambda error: None,
        scheduler: SchedulingStrategy[Lane] | None = None,
        names_source: bool = False,
        memory: Held | None = None,
    ) -> None:
        self.name = name
        self.load = BufferUsage(
            limit,
            names_source=names_source,
            memory=Held() if memory is None else memory,
            on_fall=self._on_fall,
            on_filled=self._on_filled,
            on_suspended=self._on_suspended,
            on_gone=self._on_gone,
        )
        self.is_full = False
        self.ended = False
        self.on_key_decode_error: DecodeErrorHook = raise_decode_error
        self.on_value_decode_error: DecodeErrorHook = raise_decode_error
        self._flow = flow
        self._key = key
        self._value = value
        self._on_full = on_full
        self._on_unreadable = on_unreadable
        self._passed_over: dict[Lane, None] = {}  # were held back when their turn came, in order
        self._scheduler: SchedulingStrategy[Lane] = scheduler or RoundRobin()
        self._lane: Lane | None = None  # whose turn it is ...
        self.quota = 0  # ... and how many more it may deliver in it
        self._news: trio.Event | None = None  # of those who wait for a message
        self._calls: list[Callable[[], object]] = []  # the same, where they are no tasks of trio
        self.must_decode = key is not None or value is not None
        self.decoded: dict[str, Decoded] = {}  # by topic, shared with channels of the same codecs

    @property
    def codecs(self) -> Codecs:
        return self._key, self._value

    # From the fetcher's side

    def _on_filled(self, lane: Lane) -> None:
        self._scheduler.add(lane)
        if self.load.held >= self.load.limit and not self.is_full:
            self.is_full = True
            self.load.mark = max(self.load.mark, self.load.limit // 2)
            self._on_full(self)
        self.notify()

    def _on_suspended(self, lane: Lane) -> None:
        if self._lane is lane:
            self.quota = 0  # it may be in the middle of its turn

    def _on_gone(self, lane: Lane) -> None:
        self._scheduler.discard(lane)
        self._passed_over.pop(lane, None)
        self._on_fall()

    def resume(self) -> None:
        """Partitions may deliver again; those whose turn had come first have it first."""
        for lane in [lane for lane in self._passed_over if not lane.ledger.is_suspended]:
            del self._passed_over[lane]
            self._scheduler.add(lane)
        self.notify()

    def notify(self) -> None:
        """PollInterrupt who waits for a message: there may be one, or never again."""
        if self._news is not None:
            self._news.set()
            self._news = None
        if self._calls:
            calls, self._calls = self._calls, []
            for call in calls:
                call()

    def end(self) -> None:
        """Nothing is delivered any more: iterators end."""
        self.ended = True
        self.notify()

    # From the handlers' side

    @enable_ki_protection
    def take(self) -> Message | None:
        """The next message, if one may be delivered now."""
        while (lane := self._turn()) is not None:
            if (message := lane.take()) is not None:
                self.quota -= 1
                return message
            self.quota = 0
        return None

    @enable_ki_protection
    def take_batch(self, most: int) -> Batch | None:
        """The next messages of one partition, if any may be delivered now."""
        self.quota = 0  # a batch is a turn of its own
        if (lane := self._turn(most)) is None:
            return None
        batch = lane.take_batch(self.quota)
        self.quota = 0
        return batch

    async def news(self) -> None:
        """Wait until something has changed that may let a message be delivered."""
        await self.next_news().wait()

    def next_news(self) -> trio.Event:
        """Set at the next such change."""
        if self._news is None:
            self._news = trio.Event()
        return self._news

    def call_at_news(self, fn: Callable[[], object]) -> None:
        """Call `fn` at the next such change, for a reader that is no task of trio."""
        self._calls.append(fn)

    def call_off(self, fn: Callable[[], object]) -> None:
        """Do not call `fn` any more."""
        if fn in self._calls:
            self._calls.remove(fn)

    async def decode(self, message: Message) -> bool:
        """Decode key and value in place; False: decoding failed, and the hook has handled that.

        If the hook is cancelled, the message waits again.
        """
        if (failure := self.try_decode(message)) is None:
            return True
        await self.settle(*failure)
        return False

    async def decode_batch(self, batch: Batch) -> bool:
        """Decode a batch in place and remove the messages that the hooks have handled.

        Return False if none is left. If a hook raises or is cancelled, all other messages wait
        again.
        """
        decoded: list[Message] = []
        messages = batch.messages
        for index, message in enumerate(messages):
            if (failure := self.try_decode(message)) is None:
                decoded.append(message)
                continue
            try:
                await self.settle(*failure)
            except BaseException:  # a cancelled hook must strand no message either
                self._give_back([*decoded, *messages[index + 1 :]])
                raise
        batch.messages = decoded
        return bool(decoded)

    def try_decode(self, message: Message) -> tuple[DecodeError, DecodeErrorHook] | None:
        """Decode key and value in place; if that fails, return the error and its hook."""
        shared = self.decoded.get(message.topic) if self.decoded else None
        ready = None if shared is None else shared.take(message.tp, message.offset)
        key, value = (AGAIN, AGAIN) if ready is None else ready
        part, codec, hook = "key", self._key, self.on_key_decode_error
        try:
            if key is not AGAIN:
                message.key = key
            elif codec is not None and message.key is not None:
                message.key = codec.decode(message.key)
            part, codec, hook = "value", self._value, self.on_value_decode_error
            if value is not AGAIN:
                message.value = value
            elif codec is not None and message.value is not None:
                message.value = codec.decode(message.value)
        except Exception as exc:  # noqa: BLE001 - a user's codec raises what it likes
            where = f"the {part} of {message.tp} offset {message.offset}"
            error = DecodeError(f"{where}: {excerpt_of_error(exc)}", message)
            error.__cause__ = exc
            return error, hook
        if shared is not None and ready is None:
            shared.keep(message.tp, message.offset, message.key, message.value)
        return None

    async def settle(self, error: DecodeError, hook: DecodeErrorHook) -> None:
        """Call the hook for a message that could not be decoded, then ack and skip the message.

        An error of the hook comes out of the iterator, and its caller has the message by the
        `DecodeError`. If the hook is cancelled, no handler has the message.
        """
        try:
            await hook(error, error.message)
        except Exception as exc:
            if exc is not error and exc.__context__ is None:
                exc.__context__ = error
            raise
        except BaseException:  # a cancelled hook has handled nothing
            self._give_back([error.message])
            raise
        error.message.ack()

    @enable_ki_protection
    def _give_back(self, messages: Sequence[Message]) -> None:
        """Let messages of one partition wait again that were taken and reached no handler."""
        if not messages:
            return
        lane = lane_of(messages[0])
        lane.ledger.give_back(lane, messages)
        if lane.first_waiting is not None:
            self._scheduler.add(lane)
        self._on_fall()

    def _turn(self, most: int | None = None) -> Lane | None:
        """The lane that may deliver now; None if none may."""
        if not self._flow.active or self.ended:
            return None
        if self.quota > 0:
            return self._lane
        load = self.load
        room = load.limit - load.begun
        if room <= 0:
            load.mark = math.inf  # the first ack makes room
            return None
        while (lane := self._scheduler.turn()) is not None:
            if ready := lane.ready():
                self._lane = lane
                if most is None:
                    self.quota = min(ready, room, self._scheduler.quantum)
                else:
                    self.quota = min(room, most)
                return lane
            self._scheduler.discard(lane)
            if (error := lane.error) is not None:
                self._on_unreadable(error)
            elif lane.first_waiting is not None:
                self._passed_over.setdefault(lane)
        self._lane = None
        return None

    def _set_mark(self) -> None:
        """Hear of the acks that may end the pause of a full channel, and of no others."""
        self.load.mark = self.load.limit // 2 if self.is_full else -1

    def _on_fall(self) -> None:
        load = self.load
        if self.is_full and load.held <= load.limit // 2:
            self.is_full = False
            self._on_full(self)
        if load.begun < load.limit:
            self.notify()
            self._set_mark()


class _Reader:
    """What the iterators share: the channel, the task that reads, and giving way."""

    def __init__(self, channel: Channel, *, acks: bool) -> None:
        self._channel = channel
        self._acks = acks
        self._gave_way = -1.0
        self._clock = trio.lowlevel.current_clock()

    def __aiter__(self) -> Self:
        return self

    async def _give_way(self) -> None:
        await trio.lowlevel.checkpoint()
        self._gave_way = self._clock.current_time()


class Messages(_Reader):
    """An async iterator over a topic's messages.

    With acks on, the message before is acked when the next one is asked for, before anything
    else happens: so a handler that asks for more has always let go of what it had, and cancelling
    the wait cannot undo it.
    """

    _current: Message | None = None

    @enable_ki_protection
    async def __anext__(self) -> Message:
        if (done := self._current) is not None:
            self._current = None
            done.ack()
        channel = self._channel
        while True:
            # A checkpoint for cancelling at each message; a full one at each turn, or now and then.
            if channel.quota > 0 and self._clock.current_time() - self._gave_way <= _GIVE_WAY:
                await checkpoint_if_cancelled()
            else:
                await self._give_way()
            if (message := channel.take()) is None:
                if channel.ended:
                    raise StopAsyncIteration
                await channel.news()
                continue
            if channel.must_decode and (failure := channel.try_decode(message)) is not None:
                await channel.settle(*failure)
                continue
            if self._acks:
                self._current = message
            if channel.load.names_source:
                in_hand.set(message)
            return message


class Batches(_Reader):
    """An async iterator over batches, each of one partition; acks like `Messages`, as a whole."""

    _current: Batch | None = None

    def __init__(self, channel: Channel, *, acks: bool, most: int) -> None:
        super().__init__(channel, acks=acks)
        self._most = most

    @enable_ki_protection
    async def __anext__(self) -> Batch:
        if (done := self._current) is not None:
            self._current = None
            done.ack()
        channel = self._channel
        while True:
            await self._give_way()
            if (batch := channel.take_batch(self._most)) is None:
                if channel.ended:
                    raise StopAsyncIteration
                await channel.news()
                continue
            if channel.must_decode and not await channel.decode_batch(batch):
                continue
            if self._acks:
                self._current = batch
            if channel.load.names_source:
                in_hand.set(batch)
            return batch
