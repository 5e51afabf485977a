"""The buffer of one topic object and the iterators that deliver its messages to handlers."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol, Self

import trio
from trio.lowlevel import checkpoint_if_cancelled, enable_ki_protection

from transport.codecs import Codec, DecodeError, NotLoaded
from transport.codecs.errors import MOST_LOADS, Loader, load_in_trio, too_many_loads
from transport.delivering.decoding import AGAIN, Codecs, Decoded
from transport.delivering.flow import Flow
from transport.delivering.in_hand import in_hand
from transport.delivering.ledger import BufferUsage, Lane, Ledger, lane_of
from transport.errors import TransportError, UnreadableBatch
from transport.excerpt import excerpt_of, excerpt_of_error
from transport.message import AnyBatch, AnyMessage, Batch, Message
from transport.scheduler import RoundRobin, SchedulingStrategy
from transport.types import TP, K_co, V_co
from transport.weights import MemoryUsage

# An iterator runs a full checkpoint once a turn, and at the first message after this many seconds.
_GIVE_WAY = 0.001

DecodeErrorHook = Callable[[DecodeError, AnyMessage], Awaitable[None]]
Failure = tuple[str, Exception]  # the part, "key" or "value", and what its codec raised


async def raise_decode_error(error: DecodeError, message: AnyMessage) -> None:
    """Raise the error from the iterator; the message stays unacked. This hook is the default."""
    raise error


class Holder(Protocol):
    """A reader that holds messages that it has taken, and that no handler has begun."""

    def filled(self, lane: Lane) -> None:
        """React to new messages of a lane, before it is scheduled."""

    def recall(self, lane: Lane) -> None:
        """Return these messages of a lane: its partition drains, or delivery is suspended."""

    def forget(self, lane: Lane) -> None:
        """Forget these messages of a lane: it was closed or shut."""

    def due_of(self, lane: Lane, offset: int) -> float | None:
        """Return when the next or present attempt for a message is due; None: none has failed."""


class Channel:
    """The buffer between the fetches and the iterators of one topic object.

    A lane is *dry* if no message waits in it and it is not held back. A full channel is *starved*
    if nothing can be taken from any lane, although more may be delivered. Then it wants messages of
    the dry lanes, and of no others. So messages that cannot begin never starve another partition.

    A channel that is split has a branch for each assigned partition: a channel of its own, with a
    buffer of its own. So a partition whose messages wait holds up no other.

    Args:
        limit: the most unacked messages. When so many are held, waiting or unacked, the channel is
            full, and fetching for its topic is paused until half of them are done; see `wants`.
        on_full: called with the channel each time it becomes full, when it is no longer full, and
            when it is starved.
        on_unreadable: called with the error when the next batch of a lane cannot be decoded.
        memory: the weight of the messages in all channels of the app. None: it is not counted.

    Attributes:
        is_full: whether the channel holds `limit` messages, until half of them are done.
        is_starved: whether the channel has asked for messages of the dry lanes, and none have come.
        lanes: the open lanes, by partition.
    """

    def __init__(
        self,
        name: str,
        flow: Flow,
        *,
        limit: int,
        key: Codec[Any] | None = None,
        value: Codec[Any] | None = None,
        on_full: Callable[[Channel], None] = lambda channel: None,
        on_unreadable: Callable[[UnreadableBatch], None] = lambda error: None,
        scheduler: SchedulingStrategy[Lane] | None = None,
        names_source: bool = False,
        memory: MemoryUsage | None = None,
    ) -> None:
        self.name = name
        self.usage = BufferUsage(
            limit,
            names_source=names_source,
            memory=MemoryUsage() if memory is None else memory,
            on_fall=self._on_fall,
            on_filled=self._on_filled,
            on_suspended=self._on_suspended,
            on_gone=self._on_gone,
            due_of=self._due_of,
        )
        self.is_full = False
        self.is_starved = False
        self.lanes: dict[TP, Lane] = {}
        self.ended = False
        self.holder: Holder | None = None  # of messages that were taken and have not begun
        self.on_key_decode_error: DecodeErrorHook = raise_decode_error
        self.on_value_decode_error: DecodeErrorHook = raise_decode_error
        self._flow = flow
        self._key = key
        self._value = value
        self._on_full = on_full
        self._on_unreadable = on_unreadable
        # Lanes that had waiting messages in their turn but might not deliver them, in that order.
        self._passed_over: dict[Lane, None] = {}
        self._held_back: set[Lane] = set()  # nothing is taken from them, whatever they have
        self._dry: set[TP] = set()  # the partitions of the dry lanes
        self._scheduler: SchedulingStrategy[Lane] = scheduler or RoundRobin()
        self._lane: Lane | None = None  # the lane that has the turn
        self.quota = 0  # how many more messages this lane may deliver in its turn
        self._change: trio.Event | None = None  # wakes the trio tasks that wait for a message
        self._calls: list[Callable[[], object]] = []  # the callbacks of readers outside trio
        self.must_decode = key is not None or value is not None
        self.decoded: dict[str, Decoded] = {}  # by topic, shared with channels of the same codecs
        self.branches: dict[TP, Channel] = {}
        self._make_branch: Callable[[TP], Channel] | None = None

    @property
    def codecs(self) -> Codecs:
        return self._key, self._value

    # Called by lanes and by the consumer

    def _on_filled(self, lane: Lane) -> None:
        self.is_starved = False
        self._dry.discard(lane.ledger.tp)
        if self.holder is not None:
            self.holder.filled(lane)
        if lane not in self._held_back:
            self._scheduler.add(lane)
        if self.usage.held >= self.usage.limit and not self.is_full:
            self.is_full = True
            self.usage.mark = max(self.usage.mark, self.usage.limit // 2)
            self._on_full(self)
        self.notify()

    def _on_suspended(self, lane: Lane) -> None:
        self._end_turn(lane)
        if self.holder is not None:
            self.holder.recall(lane)

    def _on_gone(self, lane: Lane) -> None:
        self._end_turn(lane)
        self._scheduler.discard(lane)
        self._passed_over.pop(lane, None)
        self._held_back.discard(lane)
        if self.lanes.get(lane.ledger.tp) is lane:
            del self.lanes[lane.ledger.tp]
            self._dry.discard(lane.ledger.tp)
        if self.holder is not None:
            self.holder.forget(lane)
        self._on_fall()

    def _due_of(self, lane: Lane, offset: int) -> float | None:
        return None if self.holder is None else self.holder.due_of(lane, offset)

    def _end_turn(self, lane: Lane) -> None:
        if self._lane is lane:
            self.quota = 0

    def reschedule(self) -> None:
        """Schedule the lanes that may deliver again, in the order in which they lost their turn."""
        for lane in [lane for lane in self._passed_over if not lane.ledger.is_suspended]:
            del self._passed_over[lane]
            self._schedule(lane)
        self.notify()
        for branch in self.branches.values():
            branch.reschedule()

    def notify(self) -> None:
        """Wake all waiting readers: there may be a message, or the channel has ended."""
        if self._change is not None:
            self._change.set()
            self._change = None
        if self._calls:
            calls, self._calls = self._calls, []
            for call in calls:
                call()

    def notify_all(self) -> None:
        """Wake all waiting readers, also those of the branches."""
        self.notify()
        for branch in self.branches.values():
            branch.notify()

    def end(self) -> None:
        """Stop delivery for good: iterators end, also those of the branches."""
        self.ended = True
        self.notify()
        for branch in self.branches.values():
            branch.end()

    # Branches

    @property
    def is_split(self) -> bool:
        """Whether each partition has a branch."""
        return self._make_branch is not None

    def split(self, make: Callable[[TP], Channel]) -> None:
        """Give each partition that is assigned from now on a branch, which `make` returns."""
        self._make_branch = make

    def of(self, tp: TP) -> Channel:
        """Return the channel that has the messages of a partition."""
        return self.branches.get(tp, self)

    def open_lane(self, ledger: Ledger) -> None:
        """Open a lane for a new epoch of a partition."""
        tp = ledger.tp
        if self._make_branch is not None and tp not in self.branches:
            branch = self.branches[tp] = self._make_branch(tp)
            branch.decoded = self.decoded
            branch.on_key_decode_error = self._call_key_hook
            branch.on_value_decode_error = self._call_value_hook
            if self.ended:
                branch.end()
            self.notify()
        self.of(tp)._open_lane(ledger)

    def _open_lane(self, ledger: Ledger) -> None:
        lane = self.lanes[ledger.tp] = ledger.open_lane(self.usage)
        self._note_dry(lane)
        self.notify()  # a full channel may be starved now

    def close_lane(self, ledger: Ledger) -> None:
        """Close the lane of a partition, if there is one: the topic object does not listen."""
        ledger.close_lanes_of(self.of(ledger.tp).usage)
        self.close_branch(ledger.tp)

    def close_branch(self, tp: TP) -> None:
        """End the branch of a partition that is not assigned any more, if there is one."""
        if (branch := self.branches.pop(tp, None)) is not None:
            branch.end()

    async def _call_key_hook(self, error: DecodeError, message: AnyMessage) -> None:
        await self.on_key_decode_error(error, message)

    async def _call_value_hook(self, error: DecodeError, message: AnyMessage) -> None:
        await self.on_value_decode_error(error, message)

    # Called by the iterators

    @enable_ki_protection
    def take(self) -> AnyMessage | None:
        """Take and return the next message; None: none may be delivered now."""
        while (lane := self._turn()) is not None:
            if (message := lane.take()) is not None:
                self.quota -= 1
                return message
            self.quota = 0
        return None

    @enable_ki_protection
    def turn(self) -> Lane | None:
        """Return the lane of the messages that `take_some` would take; None: there are none."""
        return self._turn()

    @enable_ki_protection
    def take_some(self, most: int) -> list[AnyMessage]:
        """Take up to `most` messages of one partition; empty: none may be delivered now."""
        while (lane := self._turn()) is not None:
            if messages := lane.take_some(min(most, self.quota)):
                self.quota -= len(messages)
                return messages
            self.quota = 0
        return []

    @enable_ki_protection
    def take_batch(self, most: int) -> AnyBatch | None:
        """Take up to `most` messages of one partition; None: none may be delivered now."""
        self.quota = 0  # a batch is a turn of its own
        if (lane := self._turn(most)) is None:
            return None
        batch = lane.take_batch(self.quota)
        self.quota = 0
        return batch

    def hold(self, lane: Lane) -> None:
        """Take nothing from a lane until `release`. Not a checkpoint."""
        self._held_back.add(lane)
        self._dry.discard(lane.ledger.tp)
        self._scheduler.discard(lane)
        self._end_turn(lane)

    def release(self, lane: Lane) -> None:
        """Take messages from a lane again after `hold`. Not a checkpoint."""
        self._held_back.discard(lane)
        self._schedule(lane)
        self.notify()

    def wants(self, tp: TP) -> bool:
        """Return whether to fetch from a partition.

        A channel wants nothing when it is full, and when it holds any message while the app holds
        `buffer_bytes`. If it is starved, it still wants messages of its dry lanes.
        """
        usage = self.usage
        has_enough = self.is_full or (usage.memory.is_full and usage.held > 0)
        return not has_enough or (self.is_starved and tp in self._dry)

    def _note_dry(self, lane: Lane) -> None:
        """Note that a lane is dry, unless it is closed."""
        tp = lane.ledger.tp
        if self.lanes.get(tp) is lane:
            self._dry.add(tp)
            self.is_starved = False  # the channel has not asked for messages of this lane

    def _starve(self) -> None:
        """Ask for messages of the dry lanes if nothing else would be fetched."""
        if self._dry and not self.is_starved and (self.is_full or self.usage.memory.is_full):
            self.is_starved = True
            self._on_full(self)

    def _schedule(self, lane: Lane) -> None:
        """Give a lane a turn, if it has waiting messages."""
        if lane in self._held_back:
            return
        if lane.first_waiting is not None:
            self._scheduler.add(lane)
        else:
            self._note_dry(lane)

    async def wait_for_change(self) -> None:
        """Wait for a change after which a message may be delivered, or for the end."""
        await self.next_change().wait()

    def next_change(self) -> trio.Event:
        """Return an event that is set at the next change; see `wait_for_change`."""
        if self._change is None:
            self._change = trio.Event()
        return self._change

    def call_at_change(self, fn: Callable[[], object]) -> None:
        """Call `fn` once at the next change, for a reader that is not a trio task."""
        self._calls.append(fn)

    def call_off(self, fn: Callable[[], object]) -> None:
        """Cancel a `call_at_change`."""
        if fn in self._calls:
            self._calls.remove(fn)

    async def decode(self, message: AnyMessage, loader: Loader = load_in_trio) -> bool:
        """Decode key and value in place, also if a schema must be loaded first.

        Return False if there is nothing to deliver: the hook has handled the error, or the
        message's epoch has ended while the schema was loaded.

        If the hook or a load is cancelled, or a load fails with a `TransportError` (such as
        `RegistryUnavailable`), the message waits again. Raises that error, or what the hook raises.

        Args:
            loader: awaits a load. It decides in which loop the load runs.
        """
        if (failure := self.try_decode(message)) is None:
            return True
        return await self.decode_after(failure, message, loader)

    async def decode_after(
        self, failure: Failure, message: AnyMessage, loader: Loader = load_in_trio
    ) -> bool:
        """Go on after a `try_decode` that has failed; the rest is as in `decode`."""
        try:
            error = await self.error_after(failure, message, loader)
        except BaseException:  # the message may be decoded later
            self.give_back([message])
            raise
        if error is None:
            return message.is_open
        await self._call_hook(error)
        return False

    async def error_after(
        self, failure: Failure, message: AnyMessage, loader: Loader = load_in_trio
    ) -> DecodeError | None:
        """Load what the codecs need, and decode. Return the error of decoding, if any.

        A checkpoint only if it loads. Cancelled, or if a load fails: the message stays taken, and
        may be decoded again. Raises a `TransportError`, such as `RegistryUnavailable`.
        """
        part, error = failure
        loads = 0
        while isinstance(error, NotLoaded):
            if loads == MOST_LOADS:
                raise too_many_loads(error)
            loads += 1
            try:
                await loader(error)
            except TransportError:
                raise
            except Exception as refused:  # noqa: BLE001 - the message can never be decoded
                error = refused
                break
            if (again := self.try_decode(message)) is None:
                return None
            part, error = again
        return self.decode_error(message, (part, error))

    async def decode_batch(self, batch: AnyBatch, loader: Loader = load_in_trio) -> bool:
        """Decode a batch in place and remove the messages that are not to be delivered.

        Return False if no message is left. If a hook raises, the other messages wait again. If a
        hook or a load is cancelled, or a load fails, its message waits again too.
        """
        decoded: list[AnyMessage] = []
        messages, has_waited = batch.messages, False
        for index, message in enumerate(messages):
            if (failure := self.try_decode(message)) is None:
                decoded.append(message)
                continue
            has_waited = True
            try:
                if await self.decode_after(failure, message, loader):
                    decoded.append(message)
            except BaseException:  # no message may be lost if a hook is cancelled
                self.give_back([*decoded, *messages[index + 1 :]])
                raise
        if has_waited:  # the epoch may have ended meanwhile
            decoded = [message for message in decoded if message.is_open]
        batch.messages = decoded
        return bool(decoded)

    def try_decode(self, message: AnyMessage) -> Failure | None:
        """Decode key and value in place. Return the part that failed and its error, or None.

        If the error is a NotLoaded, the call may succeed after the load: see `error_after`.
        """
        shared = self.decoded.get(message.topic) if self.decoded else None
        ready = None if shared is None else shared.take(message.tp, message.offset)
        key, value = (AGAIN, AGAIN) if ready is None else ready
        # Not from the message, whose key may be decoded already, before a load for the value.
        record = message.record
        part, codec = "key", self._key
        try:
            if key is not AGAIN:
                message.key = key
            elif codec is not None and record.key is not None:
                message.key = codec.decode(record.key)
            part, codec = "value", self._value
            if value is not AGAIN:
                message.value = value
            elif codec is not None and record.value is not None:
                message.value = codec.decode(record.value)
        except Exception as exc:  # noqa: BLE001 - a user's codec may raise any error
            return part, exc
        if shared is not None and ready is None:
            shared.keep(message.tp, message.offset, message.key, message.value)
        return None

    def decode_error(self, message: AnyMessage, failure: Failure) -> DecodeError:
        """Return the error of a message that cannot be decoded."""
        part, cause = failure
        record = message.record
        codec, data = (self._key, record.key) if part == "key" else (self._value, record.value)
        expected = f" as {codec.expected}" if codec is not None and codec.expected else ""
        error = DecodeError(
            f"cannot decode the {part} of {message.tp} offset {message.offset}{expected}:"
            f" {excerpt_of_error(cause)}; the {part} is {excerpt_of(data)}",
            message,
            part,
        )
        error.__cause__ = cause
        return error

    async def _call_hook(self, error: DecodeError) -> None:
        """Call the hook for a message that could not be decoded, then ack the message.

        An error that the hook raises leaves the message unacked; `DecodeError.message` has it. If
        the hook is cancelled, the message waits again.
        """
        hook = self.on_key_decode_error if error.part == "key" else self.on_value_decode_error
        try:
            await hook(error, error.message)
        except Exception as exc:
            if exc is not error and exc.__context__ is None:
                exc.__context__ = error
            raise
        except BaseException:  # a cancelled hook has not handled the error
            self.give_back([error.message])
            raise
        error.message.ack()

    @enable_ki_protection
    def give_back(self, messages: Sequence[AnyMessage]) -> None:
        """Return taken messages of one partition that reached no handler to the waiting ones."""
        if not messages:
            return
        lane = lane_of(messages[0])
        lane.ledger.give_back(lane, messages)
        self._end_turn(lane)
        self._schedule(lane)
        self._on_fall()

    def _turn(self, most: int | None = None) -> Lane | None:
        """Return the lane that may deliver now, and set its quota; None: no lane may."""
        if not self._flow.active or self.ended:
            return None
        if self.quota > 0:
            return self._lane
        usage = self.usage
        room = usage.limit - usage.begun
        if room <= 0:
            usage.mark = math.inf  # the first ack makes room
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
            else:
                self._note_dry(lane)
        self._lane = None
        self._starve()
        return None

    def _set_mark(self) -> None:
        """Request calls only for the acks after which the channel may no longer be full."""
        self.usage.mark = self.usage.limit // 2 if self.is_full else -1

    def _on_fall(self) -> None:
        usage = self.usage
        if self.is_full and usage.held <= usage.limit // 2:
            self.is_full = False
            self._on_full(self)
        if usage.begun < usage.limit:
            self.notify()
            self._set_mark()


class _Reader(Generic[K_co, V_co]):
    """The common part of the iterators: the channel, and the full checkpoints."""

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


class Messages(_Reader[K_co, V_co]):
    """An async iterator over a topic's messages.

    With acks on, the first thing that a request for the next message does is ack the current one.
    Cancelling the wait for the next message does not undo that ack.
    """

    _current: Message[K_co, V_co] | None = None

    @enable_ki_protection
    async def __anext__(self) -> Message[K_co, V_co]:
        if (done := self._current) is not None:
            self._current = None
            done.ack()
        channel = self._channel
        while True:
            # Each message has a checkpoint for cancelling. A full one costs more: see _GIVE_WAY.
            if channel.quota > 0 and self._clock.current_time() - self._gave_way <= _GIVE_WAY:
                await checkpoint_if_cancelled()
            else:
                await self._give_way()
            if (message := channel.take()) is None:
                if channel.ended:
                    raise StopAsyncIteration
                await channel.wait_for_change()
                continue
            if (
                channel.must_decode
                and (failure := channel.try_decode(message)) is not None
                and not await channel.decode_after(failure, message)
            ):
                continue
            if self._acks:
                self._current = message
            if channel.usage.names_source:
                in_hand.set(message)
            return message


class Batches(_Reader[K_co, V_co]):
    """An async iterator over batches, each of one partition. Acks are as in `Messages`."""

    _current: Batch[K_co, V_co] | None = None

    def __init__(self, channel: Channel, *, acks: bool, most: int) -> None:
        super().__init__(channel, acks=acks)
        self._most = most

    @enable_ki_protection
    async def __anext__(self) -> Batch[K_co, V_co]:
        if (done := self._current) is not None:
            self._current = None
            done.ack()
        channel = self._channel
        while True:
            await self._give_way()
            if (batch := channel.take_batch(self._most)) is None:
                if channel.ended:
                    raise StopAsyncIteration
                await channel.wait_for_change()
                continue
            if channel.must_decode and not await channel.decode_batch(batch):
                continue
            if self._acks:
                self._current = batch
            if channel.usage.names_source:
                in_hand.set(batch)
            return batch
