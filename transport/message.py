"""Messages and batches: what your handler receives and acks.

Each belongs to the `Lane` that it came through, and the lane enters its ack. A message from before
a seek or a rebalance belongs to a lane that is shut, so its ack changes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from threading import get_ident
from typing import Any, Generic, Protocol, Self, TypeAlias, overload

from trio.lowlevel import enable_ki_protection

from transport.arguments import whole
from transport.types import TP, Headers, K_co, Record, V_co


class Epoch(Protocol):
    """The attributes of a ledger that messages show."""

    @property
    def tp(self) -> TP: ...

    @property
    def epoch(self) -> int: ...

    @property
    def generation(self) -> int: ...


class Owner(Protocol):
    """The part of a lane that its messages and batches use."""

    @property
    def ledger(self) -> Epoch: ...

    @property
    def begun(self) -> Mapping[int, AnyMessage | AnyBatch]:
        """The unacked messages and batches, by first offset."""

    @property
    def thread(self) -> int:
        """The only thread that may ack."""

    def ack(self, message: AnyMessage) -> bool:
        """Enter the ack of a message; return whether it counted."""

    def ack_batch(self, batch: AnyBatch) -> bool:
        """Enter the ack of a batch; return whether all of it counted."""

    def refuse(self, message: AnyMessage) -> None:
        """Count an ack that changes nothing."""

    def put_in_hand(self, held: AnyMessage | AnyBatch) -> None:
        """Make a message or batch the source of what this task sends, if sources are in use."""


class Message(Generic[K_co, V_co]):
    """One delivered record, to be acked by your handler.

    Attributes:
        offset: its offset in the partition.
        key, value: decoded by the topic's types. Without a type: bytes. A record without a key or a
            value has None, although the type does not say so; see `App.topic`.
        record: the record of the broker's client. All topic objects share it: do not change it.
        weight: its size in memory, in bytes: an equal share of what was decoded together.
        batch: the batch that it was taken with, while it is unacked. None: it was taken alone, or
            it is done. A reference cycle would keep both in memory until the garbage collector
            runs. For the transport.
        acked: whether an ack of it was counted.
        lane: the lane that enters its acks. For the transport.
        refcount: the number of holders that have not acked it yet; 1 when it is delivered.
    """

    __slots__ = (
        "acked",
        "batch",
        "key",
        "lane",
        "offset",
        "record",
        "refcount",
        "value",
        "weight",
    )

    key: K_co
    value: V_co

    def __init__(
        self, lane: Owner, record: Record, weight: int, batch: AnyBatch | None = None
    ) -> None:
        self.lane = lane
        self.weight = weight
        self.batch = batch
        self.record = record
        self.offset = record.offset
        self.key = record.key  # type: ignore[assignment] # the channel decodes it
        self.value = record.value  # type: ignore[assignment]
        self.refcount = 1
        self.acked = False

    @property
    def tp(self) -> TP:
        return self.lane.ledger.tp

    @property
    def topic(self) -> str:
        return self.lane.ledger.tp.topic

    @property
    def partition(self) -> int:
        return self.lane.ledger.tp.partition

    @property
    def generation_id(self) -> int:
        """The group's generation in which the partition was assigned."""
        return self.lane.ledger.generation

    @property
    def epoch(self) -> int:
        """The number of its epoch. It rises at each assignment and seek of a partition.

        Acks count only within the same epoch.
        """
        return self.lane.ledger.epoch

    @property
    def is_open(self) -> bool:
        """Whether an ack of it would still count."""
        return self.batch is not None or self.lane.begun.get(self.offset) is self

    @property
    def oldest(self) -> int:
        """Its offset; see `Batch.oldest`. For the transport."""
        return self.offset

    def open_messages(self) -> Iterable[Self]:
        """Return the message itself; see `Batch.open_messages`. For the transport."""
        return (self,)

    def give_up(self) -> tuple[int, int]:
        """Return 1 and the weight; see `Batch.give_up`. For the transport."""
        return 1, self.weight

    @property
    def headers(self) -> Headers:
        """The headers: pairs of a name and bytes or None, in their order."""
        return tuple(self.record.headers)

    @property
    def timestamp(self) -> float | None:
        """Seconds since 1970; None: the record has no time, as is possible in old formats."""
        timestamp = self.record.timestamp
        return None if timestamp is None or timestamp < 0 else timestamp / 1000

    @property
    def timestamp_type(self) -> int:
        """The clock of the timestamp. 0: the producer's; 1: the broker's."""
        return self.record.timestamp_type or 0

    @property
    def serialized_key_size(self) -> int:
        """The size of the encoded key, in bytes; -1: there is no key."""
        key = self.record.key
        return -1 if key is None else len(key)

    @property
    def serialized_value_size(self) -> int:
        """The size of the encoded value, in bytes; -1: there is no value."""
        value = self.record.value
        return -1 if value is None else len(value)

    def incref(self, n: int = 1) -> None:
        """Add `n` holders. The message is acked once each holder has called `ack` or `decref`.

        Raises ValueError: it has no holder left. RuntimeError: the thread is not the app's.
        Not a checkpoint.
        """
        if get_ident() != self.lane.thread:
            raise _foreign_thread(self)
        whole("n", n, least=1)
        if self.refcount <= 0:
            raise ValueError(f"{self!r} has no holder left: call incref before the last ack")
        self.refcount += n

    @enable_ki_protection
    def decref(self, n: int = 1) -> bool:
        """Remove `n` holders; ack if no holder is left. Return whether that ack counted.

        Raises RuntimeError: the thread is not the app's. Not a checkpoint.
        """
        if get_ident() != self.lane.thread:
            raise _foreign_thread(self)
        if n != 1 or n is True:
            whole("n", n, least=1)
        if self.refcount <= 0:
            self.lane.refuse(self)
            return False
        self.refcount -= n
        return self.refcount <= 0 and self.lane.ack(self)

    @enable_ki_protection
    def ack(self) -> bool:
        """Ack the message: its handler, or one of several holders, is done with it.

        Return whether the ack counted. It does not count:

        - while the message has other holders
        - if the message was acked before
        - if the ack is stale: after a seek, a rebalance or the end of the app

        A second or stale ack changes nothing. Not a checkpoint. A KeyboardInterrupt cannot
        interrupt an ack.

        Raises RuntimeError: the thread is not the app's. In another thread, call
        `trio.from_thread.run_sync(message.ack)`.
        """
        lane = self.lane
        if get_ident() != lane.thread:
            raise _foreign_thread(self)
        if self.refcount == 1:
            self.refcount = 0
            return lane.ack(self)
        return self.decref()

    async def __aenter__(self) -> Self:
        self.lane.put_in_hand(self)
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        # Not a checkpoint: finished work must be acked even if the task is cancelled.
        if exc_type is None:
            self.ack()

    def __repr__(self) -> str:
        state = "acked" if self.acked else "unacked"
        return f"<Message {self.tp} {self.offset} {state}>"


class Batch(Sequence[Message[K_co, V_co]], Generic[K_co, V_co]):
    """Messages of one partition, in offset order, to be acked as a whole.

    A delivered batch is never empty. It is one entry in its ledger. Its messages are made when they
    are first used, for example by iteration. `values`, `keys` and `records` do not make them.

    Each message can also be acked by itself. The batch is done when all of its messages are, and
    `ack` acks those that are left.

    Attributes:
        first: the offset of its first record.
        weight: its size in memory, in bytes.
        is_acked: whether it was acked as a whole before its messages were made.
        left: its unacked messages by offset; None: its messages are not made yet.
        lane: the lane that enters its acks. For the transport.
    """

    __slots__ = ("_messages", "_records", "first", "is_acked", "lane", "left", "weight")

    def __init__(self, lane: Owner, records: Sequence[Record], weight: int) -> None:
        self.lane = lane
        self._records = records
        self._messages: list[Message[K_co, V_co]] | None = None
        self.first = records[0].offset
        self.weight = weight
        self.is_acked = False
        self.left: dict[int, Message[K_co, V_co]] | None = None

    @property
    def tp(self) -> TP:
        return self.lane.ledger.tp

    @property
    @enable_ki_protection
    def messages(self) -> list[Message[K_co, V_co]]:
        """Its messages, in offset order."""
        if self._messages is None:
            records = self._records
            share, rest = divmod(self.weight, len(records))
            is_open = self.is_open
            batch = self if is_open else None
            messages: list[Message[K_co, V_co]] = [
                Message(self.lane, record, share, batch) for record in records
            ]
            messages[0].weight += rest
            self.left = {message.offset: message for message in messages} if is_open else {}
            if self.is_acked:
                for message in messages:
                    message.refcount, message.acked = 0, True
            self._messages = messages
        return self._messages

    @messages.setter
    def messages(self, messages: Sequence[AnyMessage]) -> None:
        """Replace the list of messages, to leave out those that are handled one by one.

        `ack` does not ack messages that are left out.
        """
        self._messages = list(messages)

    @property
    def records(self) -> Sequence[Record]:
        """The records of the broker's client. All topic objects share them: do not change them."""
        if self._messages is None:
            return self._records
        return [message.record for message in self._messages]

    def values(self) -> list[V_co]:
        """Return the value of each message, decoded by the topic's type."""
        if self._messages is None:
            values: list[Any] = [record.value for record in self._records]
            return values
        return [message.value for message in self._messages]

    def keys(self) -> list[K_co]:
        """Return the key of each message, decoded by the topic's type."""
        if self._messages is None:
            keys: list[Any] = [record.key for record in self._records]
            return keys
        return [message.key for message in self._messages]

    @enable_ki_protection
    def ack(self) -> bool:
        """Ack every message in it, each for one holder; return whether all acks counted.

        Raises RuntimeError: the thread is not the app's; see `Message.ack`. Not a checkpoint.
        """
        if get_ident() != self.lane.thread:
            raise _foreign_thread(self)
        return self.lane.ack_batch(self)

    @property
    def is_open(self) -> bool:
        """Whether an ack of it would still count for any of its messages."""
        if self.left is None:
            return self.lane.begun.get(self.first) is self
        return bool(self.left)

    @property
    def oldest(self) -> int:
        """The offset of its first unacked message. For the transport."""
        return self.first if self.left is None else next(iter(self.left), self.first)

    def open_messages(self) -> Iterable[Message[K_co, V_co]]:
        """Return its unacked messages. For the transport."""
        messages = self.messages  # making them finds out which are unacked
        return list(messages if self.left is None else self.left.values())

    def dissolve(self) -> Mapping[int, Message[K_co, V_co]]:
        """Detach its unacked messages from it; return them by offset. For the transport."""
        assert self.left is not None  # one of its messages is given back
        left, self.left = self.left, {}
        for message in left.values():
            message.batch = None
        return left

    def give_up(self) -> tuple[int, int]:
        """Make later acks stale; return the number and the weight of its unacked messages.

        For the transport.
        """
        if self.left is None:
            return len(self._records), self.weight
        given_up = list(self.left.values())
        self.left.clear()
        for message in given_up:
            message.batch = None
        return len(given_up), sum(message.weight for message in given_up)

    async def __aenter__(self) -> Self:
        self.lane.put_in_hand(self)
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if exc_type is None:
            self.ack()

    def __len__(self) -> int:
        return len(self._records if self._messages is None else self._messages)

    def __iter__(self) -> Iterator[Message[K_co, V_co]]:
        return iter(self.messages)

    @overload
    def __getitem__(self, index: int) -> Message[K_co, V_co]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Message[K_co, V_co]]: ...
    def __getitem__(self, index: int | slice) -> Message[K_co, V_co] | list[Message[K_co, V_co]]:
        return self.messages[index]

    def __repr__(self) -> str:
        records = self.records
        where = f"{records[0].offset}..{records[-1].offset}" if records else f"{self.first}, empty"
        return f"<Batch {self.tp} {where}>"


# For code that handles keys and values of every type.
class Part(Batch[K_co, V_co]):
    """Some messages of a batch, to be handled and acked together.

    Args:
        messages: one message or more, in offset order.
    """

    __slots__ = ()

    def __init__(self, messages: Sequence[Message[K_co, V_co]]) -> None:
        super().__init__(
            messages[0].lane,
            [message.record for message in messages],
            sum(message.weight for message in messages),
        )
        self._messages = list(messages)
        self.left = {}  # so that an ack of the part acks each message by itself

    @property
    def is_open(self) -> bool:
        """Whether an ack of it would still count for any of its messages."""
        return any(message.is_open for message in self.messages)

    def open_messages(self) -> Iterable[Message[K_co, V_co]]:
        """Return its unacked messages. For the transport."""
        return [message for message in self.messages if message.is_open]


AnyMessage: TypeAlias = Message[Any, Any]
AnyBatch: TypeAlias = Batch[Any, Any]


def _foreign_thread(held: AnyMessage | AnyBatch) -> RuntimeError:
    return RuntimeError(
        f"{held!r} can be acked or shared only in the thread of its app, not in the thread"
        f" {threading.current_thread().name!r}. Call trio.from_thread.run_sync(held.ack) there, or"
        " loop.call_soon_threadsafe(held.ack) if the app runs in an asyncio loop"
    )
