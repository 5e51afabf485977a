"""The topic object, by which a program sends to a topic and iterates over its messages.

Look here for what an iterator acks, how keys and values are encoded, and what `send_many` refuses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, NotRequired, TypedDict, TypeVar

from trio.lowlevel import cancel_shielded_checkpoint, checkpoint_if_cancelled

from transport.arguments import flag, function, instance, shown, whole, wrong_type
from transport.codecs import Codec, CodecArg, NotLoaded, codec_for
from transport.codecs.errors import Loader, load_and_call, load_in_trio
from transport.consuming.host import Host
from transport.delivering.channel import Batches, DecodeErrorHook, Messages
from transport.delivering.in_hand import IN_HAND, InHand, Source, check_source
from transport.delivering.partitions import Partitions
from transport.errors import AppClosed
from transport.producing.delivery import Delivery, ManyDeliveries
from transport.producing.pending import FutureMessage, PendingMessage, always, numbered, outgoing_of
from transport.producing.producer import Producer
from transport.types import HeadersArg, K, RecordMetadata, V, is_topic_name

R = TypeVar("R", bound=Messages[Any, Any] | Batches[Any, Any])

_ONE = "a pair of key and value, or a mapping of the arguments of send"
_MANY = "pairs of key and value, or mappings of the arguments of send"


class MessageArgs(TypedDict, Generic[K, V]):
    """A message of `Topic.send_many`, as a mapping of the arguments of `Topic.send`.

    `send_many` takes None for a key or a value that is not in the mapping. Type checkers want both
    in it, because pyright infers the types of a mapping only from these two.
    """

    key: K | None
    value: V | None
    partition: NotRequired[int | None]
    timestamp: NotRequired[float | None]
    headers: NotRequired[HeadersArg]


_PARTS = tuple(MessageArgs.__annotations__)


class Topic(Generic[K, V]):
    """One topic of an app, made by `App.topic`.

    The iterators of one topic object share its messages. Each topic object of the same name gets
    all messages. The app joins its group when a program first iterates over one of its topics.

    Args:
        name: the topic's name, or a pattern for all topics whose whole name it matches. A pattern
            is for reading only.
        key_type: bytes, another type or a `Codec`: see `App.topic`.
        value_type: the same for values.

    Attributes:
        pattern: the pattern. None: the topic has a name.
    """

    def __init__(
        self,
        app: Host,
        name: str | re.Pattern[str],
        *,
        key_type: CodecArg[K] = None,
        value_type: CodecArg[V] = None,
    ) -> None:
        if isinstance(name, re.Pattern):
            self.pattern: re.Pattern[str] | None = name
            name = name.pattern
            instance("the pattern of name", name, str, "a pattern of str, not of bytes")
        elif not isinstance(name, str):
            raise wrong_type("name", "a topic's name, a str, or a compiled pattern", name)
        elif is_topic_name(name):
            self.pattern = None
        else:
            raise ValueError(
                f"{name!r} is not a topic name: use up to 249 letters, digits, '.', '_' and '-'"
            )
        self.app = app
        self.name = name
        self._key = codec_for(key_type, "key", name)
        self._value = codec_for(value_type, "value", name)
        self.channel = app.conductor.new_channel(name, self._key, self._value)

    def another(self) -> Topic[K, V]:
        """Return another topic object for the same topic and types, with a buffer of its own."""
        name = self.name if self.pattern is None else self.pattern
        return Topic(self.app, name, key_type=self._key, value_type=self._value)

    def renew_channel(self) -> None:
        """Replace the channel by one of the app's present conductor. The hooks stay. For tests."""
        before = self.channel
        self.channel = self.app.conductor.new_channel(self.name, self._key, self._value)
        self.channel.on_key_decode_error = before.on_key_decode_error
        self.channel.on_value_decode_error = before.on_value_decode_error

    # Reading

    def __aiter__(self) -> Messages[K, V]:
        """Return an iterator over the messages, which acks each when the loop asks for the next.

        From now on the topic object receives messages, also after the loop has ended. The next loop
        over it continues with the waiting messages. Until then they hold back the commit, and once
        the buffer is full, nothing is fetched from the topic's partitions.
        `app.conductor.discard(topic)` ends that. The message at which the loop has ended stays
        unacked: your code must ack it.

        Raises AppClosed: the app is not open. Not a checkpoint, but getting a message is one.
        """
        return self._listen(Messages(self.channel, acks=True))

    def noack(self) -> Messages[K, V]:
        """Return an iterator over messages that your handler acks.

        The handler acks with `async with message:` or `message.ack()`. All else is as in
        `__aiter__`.
        """
        return self._listen(Messages(self.channel, acks=False))

    def batches(self, max_size: int | None = None, *, noack: bool = False) -> Batches[K, V]:
        """Return an iterator over batches, each of one partition's messages: the fastest way.

        All else is as in `__aiter__`.

        Args:
            max_size: the most messages in a batch, and no more than `buffer_size`. None: 1024.
            noack: your handler acks, with `async with batch:` or `batch.ack()`. Otherwise the
                iterator acks a batch as a whole when the loop asks for the next one.
        """
        most = self.batch_size(max_size)
        flag("noack", noack)
        return self._listen(Batches(self.channel, acks=not noack, most=most))

    def partitions(self) -> Partitions[K, V]:
        """Return an iterator over the assigned partitions, each with a stream of its messages.

        It is for programs with a task for each partition:

            async for partition in orders.partitions():
                nursery.start_soon(work, partition)

        Each partition comes when it is assigned, also if it has no messages. Its stream ends when
        it is revoked or lost. If it is assigned again, it comes again. Each stream has a buffer of
        its own, of `buffer_size` messages, so a slow partition holds up no other.

        Tasks that share the iterator share the partitions. Each call returns a new iterator, which
        begins with all partitions. Streams of one partition share its messages.

        A topic object is read by partition or as a whole, and the first iterator decides. Getting
        a partition is a checkpoint. Cancelled: the partition comes again.

        Raises:
            RuntimeError: the topic object listens as a whole: make another one with `app.topic`.
            AppClosed: the app is not open.
        """
        self._check_open()
        self.app.conductor.add_split(self)
        return Partitions(self.channel, self.batch_size)

    def batch_size(self, max_size: int | None) -> int:
        """Return the most messages in a batch. Raises ValueError: `max_size` is below 1."""
        if max_size is None:
            max_size = 1024
        return min(whole("max_size", max_size, least=1), self.app.settings.buffer_size)

    def listen(self) -> None:
        """Receive messages from now on, as making an iterator does.

        Raises AppClosed. RuntimeError: the topic object is read by partition.
        """
        self._check_open()
        if self.channel.is_split:
            raise RuntimeError(
                f"this topic object of {self.name!r} is read by partitions(): make another one with"
                " app.topic() to read the topic as a whole"
            )
        self.app.conductor.add(self)

    def _check_open(self) -> None:
        if not self.app.is_open:
            raise AppClosed(f"the app {self.app.id!r} is not open: use it in `async with app:`")

    @property
    def on_key_decode_error(self) -> DecodeErrorHook:
        """The hook that is awaited with (error, message) when a key cannot be decoded.

        By default it raises the error. If the hook returns, the message is acked and skipped.

        If the hook raises, its message stays unacked, and the caller of the iterator may ack it:
        `DecodeError.message`. If the hook raises another error, the DecodeError is the context of
        that error. If the hook is cancelled, the next iterator gets the message. In `batches()` the
        other messages of the batch are redelivered in both cases.
        """
        return self.channel.on_key_decode_error

    @on_key_decode_error.setter
    def on_key_decode_error(self, hook: DecodeErrorHook) -> None:
        function("on_key_decode_error", hook, "an async function of an error and a message")
        self.channel.on_key_decode_error = hook

    @property
    def on_value_decode_error(self) -> DecodeErrorHook:
        """The same as `on_key_decode_error`, for values."""
        return self.channel.on_value_decode_error

    @on_value_decode_error.setter
    def on_value_decode_error(self, hook: DecodeErrorHook) -> None:
        function("on_value_decode_error", hook, "an async function of an error and a message")
        self.channel.on_value_decode_error = hook

    # Writing

    async def send(
        self,
        *,
        key: K | None = None,
        value: V | None = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: HeadersArg = None,
        source: Source | InHand | None = IN_HAND,
    ) -> Delivery:
        """Encode a message by the topic's types and send it; see `Producer.send`.

        Args:
            source: with transactions, the message or batch from which this message is made. It is
                sent in that one's transaction. The default is the message or batch that the task
                handles. None: in no transaction.

        Raises what `Producer.send` raises, and with transactions what `TransactionManager.send`
        raises. TypeError, ValueError: the key or the value cannot be encoded.
        """
        try:
            writer, check, message = self.addressed(
                key, value, partition, timestamp, headers, source
            )
        except NotLoaded as missing:
            writer, check, message = await load_and_call(
                missing,
                lambda: self.addressed(key, value, partition, timestamp, headers, source),
            )
        await checkpoint_if_cancelled()
        # As `send_while`, without a second coroutine, because this runs for each message.
        if writer.accept_now(message, check) is None:
            await writer.send_while(check, message)
        elif message.gives_way:
            await cancel_shielded_checkpoint()
        return message

    async def send_many(
        self,
        messages: Iterable[tuple[K | None, V | None] | MessageArgs[K, V]],
        *,
        source: Source | InHand | None = IN_HAND,
    ) -> ManyDeliveries:
        """Send several messages in one call, and return the deliveries of all.

        The messages are accepted in order, and each partition gets its messages in that order. All
        are checked before the first is accepted: if one argument is wrong, no message is sent.
        If not all fit, the first messages are accepted and the others wait in turn, as in `send`.
        No message of another sender comes between those that wait.

        A checkpoint. Cancelled while it waits for room: the first messages are accepted and will be
        sent, and the others are not. Cancelled before that: none is accepted.

        Args:
            messages: each is a pair of key and value, or a mapping of the arguments of `send`
                (`key`, `value`, `partition`, `timestamp`, `headers`).
            source: as in `send`, for all messages.

        Raises what `send` raises. An error about one message has its number, counted from 0.
        """
        listed = await self.addressed_many_loaded(messages)
        writer, check = self.writer_for(source)
        return await writer.send_many_while(check, listed)

    def addressed(
        self,
        key: Any,
        value: Any,
        partition: int | None,
        timestamp: float | None,
        headers: HeadersArg,
        source: Source | InHand | None,
    ) -> tuple[Producer, Callable[[], None], Delivery]:
        """Return the producer, the check and the message for a call of `send`. Not a checkpoint.

        They are for `Producer.accept_now` and `send_while`. The check raises once nothing may be
        sent in the transaction of the source.
        """
        if self.pattern is not None:
            self._sent_to()  # raises
        # A plain key or value costs no call, because this runs for each message.
        if self._key is not None or type(key) is not bytes:
            key = _encode(self, "key", self._key, key)
        if self._value is not None or type(value) is not bytes:
            value = _encode(self, "value", self._value, value)
        if partition is None and timestamp is None and headers is None:
            message = Delivery(self.name, None, key, value, (), None)
        else:
            message = outgoing_of(self.name, key, value, partition, timestamp, headers)
        if source is IN_HAND and not self.app.consumer.in_transaction:
            return self.app.producer, always, message
        return *self.writer_for(source), message

    def addressed_many(
        self, messages: Iterable[tuple[K | None, V | None] | MessageArgs[K, V]]
    ) -> list[Delivery]:
        """Return the messages of `send_many`, encoded and checked. Not a checkpoint.

        They are for `Producer.accept_many_now` and `send_many_while`.
        """
        name = self._sent_to()
        if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
            raise wrong_type("messages", _MANY, messages)
        key: Any
        value: Any
        listed: list[Delivery] = []
        add, key_codec, value_codec = listed.append, self._key, self._value
        with numbered() as at:
            for at.number, item in enumerate(messages):
                others: Iterable[Any] | None = None
                if type(item) is tuple and len(item) == 2:
                    key, value = item
                else:
                    key, value, *others = _parts(item)
                # A plain key or value costs no call, because this runs for each message.
                if key_codec is not None or type(key) is not bytes:
                    key = _encode(self, "key", key_codec, key)
                if value_codec is not None or type(value) is not bytes:
                    value = _encode(self, "value", value_codec, value)
                if others is None:
                    add(Delivery(name, None, key, value, (), None))
                else:
                    add(outgoing_of(name, key, value, *others))
        return listed

    async def addressed_many_loaded(
        self,
        messages: Iterable[tuple[K | None, V | None] | MessageArgs[K, V]],
        loader: Loader = load_in_trio,
    ) -> list[Delivery]:
        """Return what `addressed_many` does, also if a schema must be loaded first.

        A checkpoint only if it loads. `messages` may be an iterator, which can be read once.
        """
        given = list(messages) if isinstance(messages, Iterator) else messages
        try:
            return self.addressed_many(given)
        except NotLoaded as missing:
            return await load_and_call(missing, lambda: self.addressed_many(given), loader)

    def writer_for(self, source: Source | InHand | None) -> tuple[Producer, Callable[[], None]]:
        """Return the producer for messages of a source, and a check for the acceptance of each.

        The check raises if the source is acked or belongs to an earlier epoch.
        """
        if source is not IN_HAND:
            check_source(source)
        consumer = self.app.consumer
        if source is None or not consumer.in_transaction:
            return self.app.producer, always
        return consumer.transactions.claim(source)

    def send_soon(
        self,
        *,
        key: K | None = None,
        value: V | None = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: HeadersArg = None,
        source: Source | InHand | None = IN_HAND,
    ) -> FutureMessage:
        """Queue a message, from code that cannot wait; see `Producer.send_soon`. Not a checkpoint.

        May be called from any thread, but with transactions only from trio's. A wrong argument
        raises here, as in `send`.
        """
        if source is not IN_HAND:
            check_source(source)
        message = PendingMessage(
            topic=self._sent_to(),
            key=_encode(self, "key", self._key, key),
            value=_encode(self, "value", self._value, value),
            partition=partition,
            timestamp=timestamp,
            headers=headers,
        )
        fut = FutureMessage(message)
        consumer = self.app.consumer
        if consumer.in_transaction:
            consumer.transactions.send_soon(fut, source=source)
        else:
            self.app.producer.send_soon(fut)
        return fut

    async def send_and_wait(
        self,
        *,
        key: K | None = None,
        value: V | None = None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: HeadersArg = None,
        source: Source | InHand | None = IN_HAND,
    ) -> RecordMetadata:
        """Send a message and wait for its outcome; see `Producer.send_and_wait`."""
        try:
            writer, check, message = self.addressed(
                key, value, partition, timestamp, headers, source
            )
        except NotLoaded as missing:
            writer, check, message = await load_and_call(
                missing,
                lambda: self.addressed(key, value, partition, timestamp, headers, source),
            )
        await writer.send_while(check, message)
        return await message.wait()

    def matches(self, name: str) -> bool:
        """Return whether this object receives the messages of the topic with this name."""
        return name == self.name if self.pattern is None else bool(self.pattern.fullmatch(name))

    def _sent_to(self) -> str:
        if self.pattern is not None:
            raise ValueError(
                f"nothing can be sent to the pattern {self.name!r}: send to a topic with a name"
            )
        return self.name

    def _listen(self, reader: R) -> R:
        self.listen()
        return reader

    def __repr__(self) -> str:
        return f"<Topic {self.name}>"


def _parts(item: Any) -> Iterable[Any]:
    """Return the arguments of `send` in a message of `send_many`, which must be a mapping."""
    if not isinstance(item, Mapping):
        raise wrong_type("it", _ONE, item)
    if unknown := [each for each in item if each not in _PARTS]:
        raise TypeError(
            f"a message has no argument {shown(unknown[0])}: use one of {', '.join(_PARTS)}"
        )
    return map(item.get, _PARTS)


def _encode(topic: Topic[Any, Any], part: str, codec: Codec[Any] | None, data: Any) -> bytes | None:
    """Return a key or a value as bytes. An error names the part and the topic."""
    if data is None:
        return None
    if codec is None:
        if type(data) is bytes:
            return data
        if isinstance(data, (bytes, bytearray, memoryview)):
            return bytes(data)
        raise _not_encoded(topic, part, "bytes or None (the topic has no type for it)", data)
    if codec.instances and not isinstance(data, codec.instances):
        raise _not_encoded(topic, part, f"{codec.expected} or None, the topic's type", data)
    try:
        encoded = codec.encode(data)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        what = f"the {part} of a message for {topic.name!r}"
        raise kind(f"{what} cannot be encoded: {shown(data)}: {error}") from error
    if not isinstance(encoded, (bytes, bytearray, memoryview)):
        raise wrong_type(f"the {part} that the codec of {topic.name!r} returns", "bytes", encoded)
    return bytes(encoded)


def _not_encoded(topic: Topic[Any, Any], part: str, expected: str, data: object) -> TypeError:
    return wrong_type(f"the {part} of a message for {topic.name!r}", expected, data)
