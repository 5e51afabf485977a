"""A record in a handler's hands, and several of them at once.

A message belongs to the `Lane` it came through, and acking it is an entry there. Whether an ack
still counts is the lane's to say: a message from before a seek or a rebalance belongs to a lane
that is shut, so its ack can reach nothing that is alive.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any, Self, overload

from trio.lowlevel import enable_ki_protection

from transport.arguments import whole
from transport.source import in_hand
from transport.types import TP, Headers, Record

if TYPE_CHECKING:
    from transport.ledger import Lane, Ledger


class Message:
    """One record on its way through a handler.

    Attributes:
        offset: its offset in the partition.
        key, value: decoded by the topic's types; bytes or None where it has none.
        record: the record of the broker's client. All topic objects share it: do not change it.
        weight: its size in memory, in bytes.
        acked: whether an ack of it was counted.
        refcount: how many holders have still to let go of it; 1 when it is delivered.
    """

    __slots__ = ("_lane", "acked", "key", "offset", "record", "refcount", "value", "weight")

    def __init__(self, lane: Lane, record: Record, weight: int = 0) -> None:
        self._lane = lane
        self.weight = weight
        self.record = record
        self.offset = record.offset
        self.key: Any = record.key
        self.value: Any = record.value
        self.refcount = 1
        self.acked = False

    @property
    def tp(self) -> TP:
        return self._lane.ledger.tp

    @property
    def topic(self) -> str:
        return self._lane.ledger.tp.topic

    @property
    def partition(self) -> int:
        return self._lane.ledger.tp.partition

    @property
    def generation_id(self) -> int:
        """The group's generation in which the partition was assigned."""
        return self._lane.ledger.generation

    @property
    def epoch(self) -> int:
        """Rises whenever the partition is assigned or sought; acks count within one epoch."""
        return self._lane.ledger.epoch

    @property
    def ledger(self) -> Ledger:
        """The partition's books in the epoch of the message. For the transport."""
        return self._lane.ledger

    @property
    def lane(self) -> Lane:
        """The channel's part of the partition's ledger. For the transport."""
        return self._lane

    @property
    def is_open(self) -> bool:
        """Whether an ack of it would still count."""
        return self._lane.begun.get(self.offset) is self

    @property
    def headers(self) -> Headers:
        """The headers: pairs of a name and bytes or None, in their order."""
        return tuple(self.record.headers)

    @property
    def timestamp(self) -> float | None:
        """Seconds since 1970; None: the record has no time, as those of old formats may."""
        timestamp = self.record.timestamp
        return None if timestamp is None or timestamp < 0 else timestamp / 1000

    @property
    def timestamp_type(self) -> int:
        """0: the producer's clock; 1: the broker's."""
        return self.record.timestamp_type

    @property
    def serialized_key_size(self) -> int:
        return self.record.serialized_key_size

    @property
    def serialized_value_size(self) -> int:
        return self.record.serialized_value_size

    def incref(self, n: int = 1) -> None:
        """Share the message with `n` more holders; it is acked once all have let go.

        Raises ValueError: all have let go already. RuntimeError: the thread is not the app's.
        """
        if get_ident() != self._lane.thread:
            raise _foreign_thread(self)
        whole("n", n, least=1)
        if self.refcount <= 0:
            raise ValueError(f"{self!r} has no holder any more")
        self.refcount += n

    @enable_ki_protection
    def decref(self, n: int = 1) -> bool:
        """Let `n` holders go; acks when none is left. Returns whether that ack counted.

        Raises RuntimeError: the thread is not the app's.
        """
        if get_ident() != self._lane.thread:
            raise _foreign_thread(self)
        if n != 1 or n is True:
            whole("n", n, least=1)
        if self.refcount <= 0:
            self._lane.refuse(self)
            return False
        self.refcount -= n
        return self.refcount <= 0 and self._lane.ack(self)

    @enable_ki_protection
    def ack(self) -> bool:
        """Ack the message: its handler, or one of several holders, has finished with it.

        Return whether the ack counted. False while other holders have the message. False also for
        a second ack and for a stale one (after a seek, a rebalance or the end of the app), which
        change nothing. Not a checkpoint; safe against a KeyboardInterrupt in the middle.

        Acks belong to the thread of the app. In another thread, call
        `trio.from_thread.run_sync(message.ack)`. Raises RuntimeError there.
        """
        lane = self._lane
        if get_ident() != lane.thread:
            raise _foreign_thread(self)
        if self.refcount == 1:
            self.refcount = 0
            return lane.ack(self)
        return self.decref()

    async def __aenter__(self) -> Self:
        if self._lane.load.names_source:
            in_hand.set(self)
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        # Not a checkpoint: work that is done is acked, whatever is cancelled.
        if exc_type is None:
            self.ack()

    def __repr__(self) -> str:
        state = "acked" if self.acked else "unacked"
        return f"<Message {self.tp} {self.offset} {state}>"


class Batch(Sequence[Message]):
    """Messages of one partition, in offset order, to be acked as a whole. Never empty."""

    __slots__ = ("_lane", "messages")

    def __init__(self, lane: Lane, messages: list[Message]) -> None:
        self._lane = lane
        self.messages = messages

    @property
    def tp(self) -> TP:
        return self._lane.ledger.tp

    @enable_ki_protection
    def ack(self) -> bool:
        """Ack every message in it; returns whether all of them counted. Not a checkpoint.

        Raises RuntimeError: the thread is not the app's; see `Message.ack`.
        """
        if get_ident() != self._lane.thread:
            raise _foreign_thread(self)
        return self._lane.ack_all(self.messages)

    @property
    def ledger(self) -> Ledger:
        """The partition's books in the epoch of the batch. For the transport."""
        return self._lane.ledger

    @property
    def is_open(self) -> bool:
        """Whether an ack of it would still count, for any of its messages."""
        return any(message.is_open for message in self.messages)

    async def __aenter__(self) -> Self:
        if self._lane.load.names_source:
            in_hand.set(self)
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if exc_type is None:
            self.ack()

    def __len__(self) -> int:
        return len(self.messages)

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> list[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | list[Message]:
        return self.messages[index]

    def __repr__(self) -> str:
        return f"<Batch {self.tp} {self.messages[0].offset}..{self.messages[-1].offset}>"


def _foreign_thread(held: Message | Batch) -> RuntimeError:
    return RuntimeError(
        f"{held!r} can be acked or shared only in the thread of its app, not in the thread"
        f" {threading.current_thread().name!r}. Call trio.from_thread.run_sync(held.ack) there, or"
        " loop.call_soon_threadsafe(held.ack) if the app runs in an asyncio loop"
    )
