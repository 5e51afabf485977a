"""The transport for anyio programs, on either of its backends.

    from transport.anyio import open_app

    async with open_app(App("orders", broker="kafka://127.0.0.1:9092")) as app:
        orders = app.topic("orders")
        await orders.send(key=b"k", value=b"v")
        async for message in orders:
            ...

On trio that is the app itself. On asyncio the same tree runs as a trio *guest* of the asyncio loop,
in the same thread: one guest for each loop, which lives from the first app that is opened to the
last that is closed.

An asyncio task sends, takes and acks messages by itself, without a turn of the guest: both share
one thread, and trio lets the host call what does not wait (`trio.Event.set`, `reschedule`,
`Nursery.start_soon`), which wakes the guest once for all that was done before its turn. To wait for
room, for an outcome or for a message, the asyncio task leaves a function that the guest calls in
its turn (`_Guest.wait`). A task of the guest does only what needs trio's own waiting, such as a
commit (`_Guest.call`); a caller that is cancelled cancels that task and waits for its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from threading import get_ident
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Self,
    TypeAlias,
    TypeVar,
    TypeVarTuple,
    overload,
)

import anyio
import attrs
import outcome
import trio
from anyio.lowlevel import RunVar

from nurseries import Node
from transport import app as native
from transport.arguments import instance
from transport.channel import DecodeErrorHook
from transport.codec import CodecArg
from transport.consumer import Consumer
from transport.delivery import Delivery, ManyDeliveries, written_of
from transport.drivers.base import Outcome
from transport.errors import AppClosed
from transport.message import Batch, Message
from transport.pending import FutureMessage
from transport.producer import Producer
from transport.source import IN_HAND, InHand, in_hand
from transport.topic import Topic
from transport.types import TP, HeadersArg, RecordMetadata

if TYPE_CHECKING:
    from transport.source import Source

T = TypeVar("T")
M = TypeVar("M", Message, Batch)
Ts = TypeVarTuple("Ts")
Leave: TypeAlias = Callable[[], object]

# A task that sends or reads gives way to other tasks at least this often, in seconds.
_GIVE_WAY = 0.001


@attrs.define(eq=False)
class _Call(Generic[T]):
    """Something that an asyncio task has the guest do."""

    future: asyncio.Future[outcome.Outcome[T]]
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def make(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> None:
        """In the guest."""
        ended: outcome.Outcome[T] = outcome.Error(trio.BrokenResourceError("it was cancelled"))
        try:
            with self.scope:
                try:
                    ended = outcome.Value(await fn(*args))
                except Exception as error:  # noqa: BLE001 - it is raised where it was asked for
                    ended = outcome.Error(error)
        finally:
            self.future.set_result(ended)

    async def wait(self, cancel: Callable[[], None]) -> T:
        """In the asyncio task. Cancelled: the call is cancelled, and has ended."""
        try:
            await asyncio.shield(self.future)
        except asyncio.CancelledError:
            cancel()
            with anyio.CancelScope(shield=True):
                while not self.future.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.shield(self.future)
            raise
        match self.future.result():  # not unwrap(): several may wait for it
            case outcome.Value() as ended:
                value: T = ended.value
                return value
            case outcome.Error() as failed:
                raise failed.error
        raise AssertionError("ended without an outcome")

    async def wait_out(self, cancel: Callable[[], None]) -> None:
        """The same; but what it has raised goes before the cancelling of who waits for it."""
        try:
            await self.wait(cancel)
        except asyncio.CancelledError:
            match self.future.result():
                case outcome.Error() as failed:
                    raise failed.error from None
            raise


@attrs.frozen(eq=False)
class _Answer(Generic[T]):
    """A callable that passes an answer to the asyncio task that waits, in the loop's thread."""

    _future: asyncio.Future[outcome.Outcome[T]]

    @property
    def is_awaited(self) -> bool:
        """Whether the task still waits: it has no answer yet and is not cancelled."""
        return not self._future.done()

    def __call__(self, ended: outcome.Outcome[T]) -> None:
        if not self._future.done():
            self._future.set_result(ended)


class _Guest:
    """trio in the thread of an asyncio loop; counted by those who use it.

    Attributes:
        is_ending: nothing can be asked for any more. A loop has one guest: the next begins once
            this one is gone.
        gave_way: when a task of asyncio last gave way to others, by the monotonic clock.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.users = 0
        self.is_ending = False
        self._loop = loop
        self.gave_way = -1.0
        self._thread = get_ident()
        self._calls: set[_Call[Any]] = set()  # that have not ended
        self._waits: set[asyncio.Future[outcome.Outcome[Any]]] = set()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[outcome.Outcome[None]] = loop.create_future()
        self._nursery: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        trio.lowlevel.start_guest_run(
            self._live,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=loop.call_soon,
            done_callback=self._on_end,
            host_uses_signal_set_wakeup_fd=True,
        )

    async def ready(self) -> None:
        await asyncio.shield(self._ready)

    def start(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> _Call[T]:
        """Have a task of the guest make a call, in our context; from the thread of the loop."""
        self.check()
        if self._nursery is None:
            raise AppClosed("the app is not open any more")
        call: _Call[T] = _Call(self._loop.create_future())
        self._calls.add(call)
        call.future.add_done_callback(lambda _: self._calls.discard(call))
        self._nursery.start_soon(call.make, fn, *args)
        return call

    async def call(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Have a call made and wait for it."""
        call = self.start(fn, *args)
        return await call.wait(lambda: self.soon(call.scope.cancel))

    async def wait(self, begin: Callable[[_Answer[T]], Leave]) -> T:
        """Wait for an answer without a task of the guest.

        `begin` gets the function to call with the answer, at once or in a turn of the guest. It
        returns the function that ends the waiting, before or after that. Cancelled: it has ended.
        """
        self.check()
        future: asyncio.Future[outcome.Outcome[T]] = self._loop.create_future()
        leave = begin(_Answer(future))
        self._waits.add(future)
        try:
            ended = await future
        finally:
            self._waits.discard(future)
            leave()
        return ended.unwrap()

    def check(self) -> None:
        """Raise AppClosed if the guest is ending, and RuntimeError in another thread."""
        if get_ident() != self._thread:
            raise RuntimeError(
                "the call was made in another thread than that of the app's asyncio loop: use"
                " asyncio.run_coroutine_threadsafe, or send_soon of the native topic"
            )
        if self.is_ending:
            raise AppClosed("the app is not open any more")

    async def give_way(self) -> None:
        """Let other tasks, and the guest, have a turn."""
        self.gave_way = time.monotonic()  # one of many tasks is enough, and others need not
        await asyncio.sleep(0)
        self.gave_way = time.monotonic()

    def soon(self, fn: Callable[[], object]) -> None:
        assert self._token is not None
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(fn)

    async def end(self) -> None:
        """End the guest, and wait for that, whatever is cancelled."""
        self.is_ending = True
        if self._nursery is not None:
            self.soon(self._nursery.cancel_scope.cancel)
        # Shielded: an error on its way out must not turn into a cancellation here.
        with anyio.CancelScope(shield=True):
            await _Call(self._ended).wait_out(lambda: None)

    async def gone(self) -> None:
        """Wait for its end."""
        await asyncio.shield(self._ended)

    # In the guest

    async def _live(self) -> None:
        async with trio.open_nursery() as self._nursery:
            self._token = trio.lowlevel.current_trio_token()
            self._ready.set_result(None)
            if not self.is_ending:  # else whoever wanted it was cancelled meanwhile
                await trio.sleep_forever()

    def _on_end(self, ended: outcome.Outcome[None]) -> None:
        """The run is over, also where something has ended it that was not asked for."""
        self.is_ending = True
        for call in list(self._calls):
            if not call.future.done():
                call.future.set_result(outcome.Error(AppClosed("trio has ended")))
        for future in self._waits:
            if not future.done():
                future.set_result(outcome.Error(AppClosed("trio has ended")))
        self._ended.set_result(ended)


_current: RunVar[_Guest | None] = RunVar("the trio guest of an asyncio loop")


@contextlib.asynccontextmanager
async def _guest() -> AsyncIterator[_Guest]:
    """The guest of the running loop; the last one to leave ends it."""
    while (guest := _current.get(None)) is not None and guest.is_ending:
        await guest.gone()
        if _current.get(None) is guest:
            _current.set(None)
    if guest is None:
        guest = _Guest(asyncio.get_running_loop())
        _current.set(guest)
    guest.users += 1
    try:
        await guest.ready()
        yield guest
    finally:
        guest.users -= 1
        if guest.users == 0:
            await guest.end()


@contextlib.asynccontextmanager
async def open_app(app: native.App) -> AsyncIterator[AnyApp]:
    """Open an app in an anyio program; what `async with app:` is to a trio program.

    A checkpoint on both sides. An error in the tree cancels the block and comes out of it in an
    exception group. However the block ends, also by cancelling, the app is closed in order,
    within its `grace`.

    Returns the app itself on trio, and on asyncio an `AioApp`, which offers the same calls to the
    tasks of asyncio.
    """
    instance("app", app, native.App, "an App")
    if trio.lowlevel.in_trio_task():
        async with app:
            yield app
        return
    async with _guest() as guest, anyio.create_task_group() as tasks:
        opened, closing, loop = asyncio.Event(), trio.Event(), asyncio.get_running_loop()

        async def live() -> None:
            async with app:
                opened.set()
                try:
                    await closing.wait()
                except trio.Cancelled:
                    # A crash, whose error cancels our block in the end, or the time after a signal
                    # is up: then nothing but this does.
                    loop.call_soon(tasks.cancel_scope.cancel)
                    raise

        life = guest.start(live)

        async def watch() -> None:
            try:
                await life.wait_out(lambda: guest.soon(closing.set))
            except trio.BrokenResourceError:
                if not life.scope.cancel_called:  # else it is we who have cancelled the opening
                    raise

        tasks.start_soon(watch)  # what goes wrong cancels us, and comes out of the group
        try:
            await opened.wait()
            yield AioApp(app, guest)
        finally:
            guest.soon(closing.set if opened.is_set() else life.scope.cancel)
            with anyio.CancelScope(shield=True), contextlib.suppress(Exception):
                await life.wait(lambda: None)


class AioApp:
    """An app for the tasks of an asyncio loop; made by `open_app`.

    Attributes:
        native: the app. What of it does not wait may be called.
        consumer, producer: their calls that wait, for asyncio's tasks.
    """

    def __init__(self, app: native.App, guest: _Guest) -> None:
        self.native = app
        self.consumer = AioConsumer(app.consumer, guest)
        self.producer = AioProducer(app.producer, guest)
        self._guest = guest

    def topic(
        self,
        name: str | re.Pattern[str],
        *,
        key_type: CodecArg = None,
        value_type: CodecArg = None,
    ) -> AioTopic:
        """See `App.topic`."""
        topic = self.native.topic(name, key_type=key_type, value_type=value_type)
        return AioTopic(topic, self._guest)

    def stop(self) -> None:
        """See `App.stop`."""
        self.native.stop()

    def stop_on_signals(self, *, timeout: float = 8.0) -> None:
        """See `App.stop_on_signals`."""
        self.native.stop_on_signals(timeout=timeout)

    def tree(self) -> Node:
        """See `App.tree`."""
        return self.native.tree()

    async def kill(self) -> None:
        """See `App.kill`."""
        await self._guest.call(self.native.kill)


class AioConsumer:
    """A consumer's calls that wait; see `Consumer` for each."""

    def __init__(self, consumer: Consumer, guest: _Guest) -> None:
        self.native = consumer
        self._guest = guest

    async def commit(
        self, topics: Collection[str | TP] | None = None, start_new_transaction: bool = True
    ) -> bool:
        """See `Consumer.commit`."""
        return await self._guest.call(self.native.commit, topics, start_new_transaction)

    async def seek(self, partition: TP, offset: int) -> None:
        """See `Consumer.seek`."""
        await self._guest.call(self.native.seek, partition, offset)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """See `Consumer.seek_to_committed`."""
        return await self._guest.call(self.native.seek_to_committed)

    async def wait_empty(self) -> None:
        """See `Consumer.wait_empty`."""
        await self._guest.call(self.native.wait_empty)

    async def wait_for_stopped_flow(self) -> None:
        """See `Consumer.wait_for_stopped_flow`."""
        await self._guest.call(self.native.wait_for_stopped_flow)

    async def restart(self) -> None:
        """See `Consumer.on_restart`."""
        await self._guest.call(self.native.restart)

    def stop_flow(self) -> None:
        """See `Consumer.stop_flow`."""
        self.native.stop_flow()

    def resume_flow(self) -> None:
        """See `Consumer.resume_flow`."""
        self.native.resume_flow()

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """See `Consumer.pause_partitions`."""
        self.native.pause_partitions(tps)

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """See `Consumer.resume_partitions`."""
        self.native.resume_partitions(tps)

    @property
    def unacked(self) -> set[Message]:
        """See `Consumer.unacked`."""
        return self.native.unacked


class AioProducer:
    """A producer's calls that wait; see `Producer` for each. Topics send."""

    def __init__(self, producer: Producer, guest: _Guest) -> None:
        self.native = producer
        self._guest = guest

    async def create_topic(
        self, topic: str, partitions: int, replication: int = 1, **options: Any
    ) -> None:
        """See `Producer.create_topic`."""
        create = functools.partial(self.native.create_topic, **options)
        await self._guest.call(create, topic, partitions, replication)

    async def flush(self) -> None:
        """See `Producer.flush`."""
        await self._guest.call(self.native.flush)

    def key_partition(self, topic: str, key: bytes) -> TP:
        """See `Producer.key_partition`."""
        return self.native.key_partition(topic, key)


AnyApp: TypeAlias = Any  # an App on trio, an AioApp on asyncio: two classes with the same calls


class AioTopic:
    """A topic for asyncio's tasks; see `Topic` for what each call means."""

    def __init__(self, topic: Topic, guest: _Guest) -> None:
        self.native = topic
        self._guest = guest

    def __aiter__(self) -> AioReader[Message]:
        """The messages; each is acked when the next one is asked for."""
        return self._read(self.native.channel.take, acks=True)

    def noack(self) -> AioReader[Message]:
        """The messages, to be acked by the user."""
        return self._read(self.native.channel.take, acks=False)

    def batches(self, max_size: int | None = None, *, noack: bool = False) -> AioReader[Batch]:
        """Batches of one partition's messages."""
        most = self.native.batch_size(max_size)
        return self._read(lambda: self.native.channel.take_batch(most), acks=not noack)

    @property
    def on_key_decode_error(self) -> DecodeErrorHook:
        """See `Topic`; awaited by the asyncio task that iterates."""
        return self.native.on_key_decode_error

    @on_key_decode_error.setter
    def on_key_decode_error(self, hook: DecodeErrorHook) -> None:
        self.native.on_key_decode_error = hook

    @property
    def on_value_decode_error(self) -> DecodeErrorHook:
        """The same for a value."""
        return self.native.on_value_decode_error

    @on_value_decode_error.setter
    def on_value_decode_error(self, hook: DecodeErrorHook) -> None:
        self.native.on_value_decode_error = hook

    async def send(
        self,
        *,
        key: Any = None,
        value: Any = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: HeadersArg = None,
        source: Source | InHand | None = IN_HAND,
    ) -> AioDelivery:
        """See `Topic.send`. Cancelled: nothing was accepted, or all of it.

        If there is room and the topic is known, it gives way to other tasks every millisecond only.
        """
        writer, check, message = self.native.addressed(
            key, value, partition, timestamp, headers, source
        )
        guest = self._guest
        if time.monotonic() - guest.gave_way > _GIVE_WAY:
            await guest.give_way()
        guest.check()
        if writer.accept_now(message, check) is None:
            await self._accept_in_turn(
                writer, check, (message,), lambda count: writer.accept_now(message, check, count)
            )
        return AioDelivery(message, guest)

    async def send_many(
        self,
        messages: Iterable[tuple[Any, Any] | Mapping[str, Any]],
        *,
        source: Source | InHand | None = IN_HAND,
    ) -> AioManyDeliveries:
        """See `Topic.send_many`."""
        listed = self.native.addressed_many(messages)
        writer, check = self.native.writer_for(source)
        guest = self._guest
        await guest.give_way()
        guest.check()
        if listed and writer.accept_many_now(listed, check) is None:
            await self._accept_in_turn(
                writer, check, listed, lambda count: writer.accept_many_now(listed, check, count)
            )
        return AioManyDeliveries(ManyDeliveries(listed), guest)

    async def _accept_in_turn(
        self,
        writer: Producer,
        check: Callable[[], None],
        messages: Sequence[Delivery],
        accept_now: Callable[[int], object],
    ) -> None:
        """Wait for the partitions of the topic and for room, until messages are accepted."""
        topic = messages[0].topic
        if writer.known_partitions(topic) is None:
            count = await self._guest.call(writer.ask_partitions, topic)
            if accept_now(count) is not None:
                return

        def begin(answer: _Answer[None]) -> Leave:
            def check_awaited() -> None:
                if not answer.is_awaited:  # cancelled, and about to leave the line
                    raise asyncio.CancelledError
                check()

            return writer.accept_in_turn(check_awaited, messages, answer)

        await self._guest.wait(begin)

    def _read(self, take: Callable[[], M | None], *, acks: bool) -> AioReader[M]:
        self.native.listen()
        return AioReader(self.native, self._guest, take, acks=acks)

    def send_soon(self, **message: Any) -> AioFutureMessage:
        """See `Topic.send_soon`."""
        return AioFutureMessage(self.native.send_soon(**message), self._guest)

    async def send_and_wait(self, **message: Any) -> RecordMetadata:
        """See `Topic.send_and_wait`."""
        return await (await self.send(**message))


class AioDelivery:
    """A delivery that asyncio's tasks can await; see `Delivery`."""

    __slots__ = ("_guest", "native")

    def __init__(self, delivery: Delivery, guest: _Guest) -> None:
        self.native = delivery
        self._guest = guest

    async def wait(self) -> RecordMetadata:
        """Wait for the outcome: the same as awaiting the object."""
        guest, native = self._guest, self.native
        if not native.is_done:
            await guest.wait(functools.partial(_call_at_ends, (native,)))
        elif time.monotonic() - guest.gave_way > _GIVE_WAY:
            await guest.give_way()
        return native.result()

    def __await__(self) -> Generator[Any, Any, RecordMetadata]:
        return self.wait().__await__()


class AioFutureMessage:
    """The outcome of a message that `send_soon` has queued, for asyncio's tasks.

    See `FutureMessage`.
    """

    __slots__ = ("_guest", "native")

    def __init__(self, message: FutureMessage, guest: _Guest) -> None:
        self.native = message
        self._guest = guest

    @property
    def is_done(self) -> bool:
        """Whether the outcome is known."""
        return self.native.is_done

    async def wait(self) -> RecordMetadata:
        """Wait for the outcome: the same as awaiting the object."""
        if not self.native.is_done:
            await self._guest.wait(functools.partial(_call_at_ends, (self.native,)))
        else:
            await self._guest.give_way()
        return self.native.result()

    def result(self, timeout: float | None = None) -> RecordMetadata:
        """Block for the outcome in another thread; see `FutureMessage.result`."""
        return self.native.result(timeout)

    def __await__(self) -> Generator[Any, Any, RecordMetadata]:
        return self.wait().__await__()

    def __repr__(self) -> str:
        return repr(self.native)


class AioManyDeliveries(Sequence[AioDelivery]):
    """The messages of one `send_many`, for asyncio's tasks; see `ManyDeliveries`."""

    def __init__(self, deliveries: ManyDeliveries, guest: _Guest) -> None:
        self.native = deliveries
        self._guest = guest

    @overload
    def __getitem__(self, at: int) -> AioDelivery: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[AioDelivery]: ...
    def __getitem__(self, at: int | slice) -> AioDelivery | Sequence[AioDelivery]:
        if isinstance(at, slice):
            return [AioDelivery(each, self._guest) for each in self.native[at]]
        return AioDelivery(self.native[at], self._guest)

    def __len__(self) -> int:
        return len(self.native)

    def __iter__(self) -> Iterator[AioDelivery]:
        return (AioDelivery(each, self._guest) for each in self.native)

    async def outcomes(self) -> list[Outcome]:
        """See `ManyDeliveries.outcomes`."""
        if left := [each for each in self.native if not each.is_done]:
            await self._guest.wait(functools.partial(_call_at_ends, left))
        else:
            await self._guest.give_way()
        return self.native.known_outcomes()

    async def wait(self) -> list[RecordMetadata]:
        """Wait for all outcomes: the same as awaiting the object."""
        return written_of(await self.outcomes())

    def __await__(self) -> Generator[Any, Any, list[RecordMetadata]]:
        return self.wait().__await__()

    def __repr__(self) -> str:
        return repr(self.native)


def _call_at_ends(deliveries: Sequence[Delivery | FutureMessage], answer: _Answer[None]) -> Leave:
    """Answer once all deliveries have outcomes. There is at least one, and none has one yet."""
    left = len(deliveries)

    def on_end() -> None:
        nonlocal left
        left -= 1
        if not left:
            answer(outcome.Value(None))

    def leave() -> None:
        for delivery in deliveries:
            delivery.call_off(on_end)

    for delivery in deliveries:
        delivery.call_at_end(on_end)
    return leave


class AioReader(Generic[M]):
    """An async iterator for asyncio's tasks over messages or batches.

    It takes them right out of the app's buffers and crosses over only to wait for news, so whatever
    is cancelled, no message is lost on the way.
    """

    _current: M | None = None

    def __init__(
        self, topic: Topic, guest: _Guest, take: Callable[[], M | None], *, acks: bool
    ) -> None:
        self._channel = topic.channel
        self._guest = guest
        self._take: Callable[[], M | None] = take
        self._acks = acks

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> M:
        if (done := self._current) is not None:
            self._current = None
            done.ack()
        channel, guest = self._channel, self._guest
        while True:
            if channel.quota <= 0 or time.monotonic() - guest.gave_way > _GIVE_WAY:
                await guest.give_way()
            if (taken := self._take()) is None:
                if channel.ended:
                    raise StopAsyncIteration
                await guest.wait(self._call_at_news)
                continue
            if channel.must_decode and not await self._decode(taken):
                continue
            if self._acks:
                self._current = taken
            if channel.load.names_source:
                in_hand.set(taken)
            return taken

    def _call_at_news(self, answer: _Answer[None]) -> Leave:
        call = functools.partial(answer, outcome.Value(None))
        self._channel.call_at_news(call)
        return functools.partial(self._channel.call_off, call)

    async def _decode(self, taken: Message | Batch) -> bool:
        """Decode in place; False: nothing is left. The hooks are the user's, of this side."""
        if isinstance(taken, Message):
            return await self._channel.decode(taken)
        return await self._channel.decode_batch(taken)
