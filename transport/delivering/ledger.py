"""The rules from acks to the offset that may be committed. All of them are in this file.

**Gaps.** A consumer receives the records of a partition in offset order. If an offset is missing
between two fetched ones, its record was compacted or aborted, or it is a marker. It will never
arrive, so the ledger keeps nothing about it.

**One partition, one epoch: a `Ledger`.** An assignment and a seek each begin a new epoch with a new
ledger, and the old ledger is shut. A message keeps a reference to the lane that it came through. So
an ack from an earlier epoch reaches a shut lane and changes nothing, and no numbers are compared.

**The part of one channel: a `Lane`.** A fetch is put into the lane of every channel that listens to
the topic. From each lane, its records go one by one to a handler:

    encoded  --read-->  waiting  --take-->  begun  --ack-->  done

A fetch enters a lane encoded, with its offsets and a count. The lane decodes the next portion of it
when all records before are taken. So a lane holds at most one decoded portion of waiting records.

**The safe offset** is the least safe offset of all lanes. That of a lane is the offset of its
oldest unacked message, or else of its first waiting message, or else the position: the offset after
everything fetched. The dict `begun` has the unacked messages in the order in which they were taken,
which is offset order, so its first entry is the oldest. A batch is one entry until all of its
messages are acked. An ack removes an entry in constant time, and a commit reads the first entry of
each lane.

`Ledger.give_back` returns messages that were taken and reached no handler to the waiting ones.
After that, `begun` may be out of order or beyond waiting messages, so the lane searches both for
the least offset. At the end of a log, `Ledger.advance` moves the position past markers, which are
never fetched, so that lag reaches 0.

Nothing here knows trio or Kafka.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from threading import get_ident
from typing import Any

import attrs

from transport.delivering.in_hand import Source, in_hand
from transport.errors import UnreadableBatch
from transport.fetched import Fetched, Portion
from transport.message import AnyBatch, AnyMessage, Batch, Message
from transport.types import TP, Record
from transport.weights import MemoryUsage


@attrs.define
class Tally:
    """The number of acks that changed nothing, over a consumer's whole life.

    Attributes:
        doubled: acks of messages that were acked before.
        stale: acks after the message's epoch ended, or after the message was given back.
    """

    doubled: int = 0
    stale: int = 0


@attrs.define(eq=False)
class BufferUsage:
    """The use of a channel's buffer, and the channel's callbacks for its lanes.

    The numbers count messages, over all lanes of the channel.

    Attributes:
        limit: the most unacked messages. At this number of held messages, the channel is full.
        names_source: whether the message that a task handles is the source of what the task sends.
        held: fetched and not acked: waiting or unacked.
        begun: delivered and not acked.
        memory: the weight of the messages held by all channels of the app.
        mark: `on_fall` is called at each ack that leaves at most this many messages held; -1: at
            none. It is a number and not a flag because a full channel needs no call at most acks.
        on_filled: called when a fetch was put into a lane.
        on_suspended: called when delivery from a lane is suspended, and when its partition drains.
        on_gone: called when a lane is closed or shut.
        due_of: returns when the next or present attempt to handle an unacked message is due, if an
            attempt has failed; None: none has failed.
    """

    limit: int
    names_source: bool = False
    held: int = 0
    begun: int = 0
    memory: MemoryUsage = attrs.field(factory=MemoryUsage)
    mark: float = -1
    on_fall: Callable[[], None] = lambda: None
    on_filled: Callable[[Lane], None] = lambda lane: None
    on_suspended: Callable[[Lane], None] = lambda lane: None
    on_gone: Callable[[Lane], None] = lambda lane: None
    due_of: Callable[[Lane, int], float | None] = lambda lane, offset: None


def _offset(record: Record) -> int:
    return record.offset


class _Reading:
    """The fetch that a lane reads from.

    Attributes:
        at: the offset after the last record that was read.
        unread: the number of records that its headers claim and that are not read yet.
        weight: the bytes of the fetch that are still in memory.
        error: why the next batch cannot be decoded; None: no error so far.
    """

    __slots__ = ("_portions", "at", "error", "unread", "weight")

    def __init__(self, fetched: Fetched) -> None:
        self.at = fetched.first
        self.unread = fetched.count
        self.weight = fetched.weight
        self.error: UnreadableBatch | None = None
        self._portions = fetched.read()

    def next(self) -> Portion | None:
        """Decode and return the next portion; None at the end and where `error` is set."""
        try:
            return next(self._portions, None)
        except UnreadableBatch as error:
            self.error = error
        return None


@attrs.define(eq=False)
class _Waiter:
    """A callback for the moment when all entries that were unacked at its start are done.

    Attributes:
        left: the keys in `Lane.begun` of those entries that are not done yet.
    """

    call: Callable[[], None]
    left: set[int]


@attrs.define(eq=False)
class _Span:
    """The messages that one channel got, until its topic object stopped listening.

    Attributes:
        start: the offset of the first message that it may have got.
        end: the offset from which on it got none.
        missing: the offsets in between of messages that it did not get, or gave back.
    """

    usage: BufferUsage
    start: int
    end: int
    missing: set[int]

    def has(self, offset: int) -> bool:
        return self.start <= offset < self.end and offset not in self.missing


class Lane:
    """The messages of one partition and one epoch on their way through one channel.

    A channel may have several lanes of an epoch, one after the other: its topic object stopped
    listening, and listens again. Then messages may be fetched again. The new lane drops those that
    the channel got before (I6).

    Args:
        spans: the messages that the channel got through earlier lanes of the epoch.

    Attributes:
        begun: the messages and batches that were taken and are not done, by first offset.
        taken: the number of messages ever taken.
        thread: the only thread that may ack: that of the app.
    """

    __slots__ = (
        "_given_up",
        "_in_batches",
        "_is_disordered",
        "_next",
        "_queue",
        "_reading",
        "_records",
        "_share",
        "_spans",
        "_start",
        "_waiters",
        "begun",
        "ledger",
        "span",
        "taken",
        "thread",
        "usage",
    )

    def __init__(self, ledger: Ledger, usage: BufferUsage, spans: Sequence[_Span] = ()) -> None:
        self.ledger = ledger
        self.span: _Span | None = None  # set when the lane is closed
        self._spans = spans
        self._start: int | None = None  # where the first fetch began
        self.usage = usage
        self.begun: dict[int, AnyMessage | AnyBatch] = {}
        self.taken = 0
        self._given_up = 0  # taken messages that were not acked when the epoch ended
        self._in_batches = 0  # unacked messages in batches, less one for each batch
        # The current portion. Taken records are removed from it at once. Otherwise each partition
        # would keep acked records in memory.
        self._records: list[Any] = []
        self._share = 0  # the weight of each record of the portion
        self._next = 0  # the index of its first waiting record
        self._reading: _Reading | None = None  # the fetch that the next portion comes from
        self._queue: deque[Fetched] = deque()  # the fetches after that one
        self._waiters: list[_Waiter] = []
        self._is_disordered = False  # `begun` may be out of order, or beyond waiting messages
        self.thread = get_ident()

    @property
    def safe(self) -> int | None:
        """The offset that this lane allows to commit; None: it is not known yet."""
        begun, first = self.oldest_begun, self.first_waiting
        if begun is not None:
            return min(begun, first) if self._is_disordered and first is not None else begun
        return self.ledger.position if first is None else first

    @property
    def oldest_begun(self) -> int | None:
        """The least offset of the unacked messages; None: there are none."""
        if self._is_disordered:
            return min((entry.oldest for entry in self.begun.values()), default=None)
        for entry in self.begun.values():
            return entry.oldest
        return None

    @property
    def first_waiting(self) -> int | None:
        """The offset from which on nothing was taken; None: everything fetched is taken."""
        if self._next < len(self._records):
            record: Record = self._records[self._next]
            return record.offset
        return self._first_unread

    @property
    def _first_unread(self) -> int | None:
        """The offset from which on nothing was decoded; None: everything fetched is decoded."""
        if self._reading is not None:
            return self._reading.at
        return self._queue[0].first if self._queue else None

    @property
    def waiting(self) -> int:
        """The number of waiting messages. For encoded ones, it is the number in the headers."""
        unread = 0 if self._reading is None else self._reading.unread
        return len(self._records) - self._next + unread + sum(each.count for each in self._queue)

    @property
    def acked(self) -> int:
        """The number of messages ever acked."""
        return self.taken - self._given_up - len(self.begun) - self._in_batches

    @property
    def error(self) -> UnreadableBatch | None:
        """Why nothing more can be taken: the next batch cannot be decoded. None: no error."""
        if self._reading is None or self._next < len(self._records):
            return None
        return self._reading.error

    def put(self, fetched: Fetched) -> None:
        """Append a fetch to those that were put before."""
        if self._start is None:
            self._start = fetched.first
        self._queue.append(fetched)
        self.usage.held += fetched.count
        self.usage.memory.add(fetched.weight)

    def ready(self) -> int:
        """Open a portion if none is open; return how many of its messages may be taken now.

        0: no message waits or can be decoded, or delivery is suspended or waits for a commit.
        """
        if self.ledger.is_suspended:
            return 0
        if self._next == len(self._records):
            self._open_next()
        return self._allowed()

    def take(self) -> AnyMessage | None:
        """Take the next message of the portion that `ready` opened; None at the portion's end."""
        try:
            record = self._records[self._next]
        except IndexError:
            return None
        message = Message(self, record, self._share)
        self._records[self._next] = None
        self._next += 1
        self.taken += 1
        self.usage.begun += 1
        self.begun[message.offset] = message
        if self._next == len(self._records):
            self._read()
        return message

    def take_some(self, most: int) -> list[AnyMessage]:
        """Take up to `most` messages of the portion that `ready` opened, as `take` does."""
        start = self._next
        records = self._records[start : start + most]
        stop = self._next = start + len(records)
        self._records[start:stop] = [None] * len(records)
        share, begun = self._share, self.begun
        messages = [Message(self, record, share) for record in records]
        for message in messages:
            begun[message.offset] = message
        self.taken += len(messages)
        self.usage.begun += len(messages)
        if stop == len(self._records):
            self._read()
        return messages

    def take_batch(self, most: int) -> AnyBatch:
        """Take from 1 to `most` messages as a batch, after `ready` has returned at least 1.

        A batch may span several fetches, so a slow handler receives all messages that wait for it.
        """
        records: list[Record] = []
        weight = 0
        while True:
            part = slice(self._next, self._next + min(most - len(records), self._allowed()))
            taken = self._records[part]
            self._records[part] = [None] * len(taken)
            self._next += len(taken)
            records += taken
            weight += self._share * len(taken)
            if self._next < len(self._records):
                break
            if len(records) == most:
                self._read()
                break
            self._open_next()
            if not self._allowed():
                break
        self.taken += len(records)
        self.usage.begun += len(records)
        batch = Batch(self, records, weight)
        self.begun[batch.first] = batch
        self._in_batches += len(records) - 1
        return batch

    def _open_next(self) -> None:
        """Decode the next portion, from the next fetch if the current one is read."""
        self._read()
        while self._reading is None and self._queue:
            self._reading = _Reading(self._queue.popleft())
            self._read()

    def _read(self) -> None:
        """Decode the next portion of the fetch that is being read, if there is one.

        Call this as soon as all of the current portion is taken. So the lane knows that nothing
        waits when the last record of a fetch is taken.
        """
        reading = self._reading
        if reading is None:
            return
        usage, portion = self.usage, reading.next()
        if portion is None:
            if reading.error is None:
                self._reading = None
                usage.held -= reading.unread  # the headers claimed more records than there are
                usage.memory.bytes -= reading.weight
                if reading.unread and usage.held <= usage.mark:
                    usage.on_fall()
                self._after_fall()
            return
        records = list(portion.records)
        self._records, self._next = records, 0
        self._share = portion.weight // len(records)
        usage.memory.add(self._share * len(records) - portion.freed)
        reading.weight -= portion.freed
        reading.at = records[-1].offset + 1
        reading.unread -= len(records)
        if reading.unread < 0:  # the headers claimed fewer records than there are
            usage.held -= reading.unread
            reading.unread = 0
        if self._spans:
            self._drop_repeated(records)

    def _drop_repeated(self, records: list[Any]) -> None:
        """Drop the records of the portion that the channel got through an earlier lane."""
        new = [r for r in records if not any(span.has(r.offset) for span in self._spans)]
        if count := len(records) - len(new):
            self._records = new
            self.usage.held -= count
            self.usage.memory.bytes -= self._share * count
            self._after(())
        if not new:
            self._read()

    def _allowed(self) -> int:
        """Return how many waiting records of the portion come before `Ledger.must_commit`."""
        first = self.ledger.must_commit
        if first is None:
            return len(self._records) - self._next
        return sum(record.offset < first for record in self._records[self._next :])

    def ack(self, message: AnyMessage) -> bool:
        """Enter the ack of a message. If the lane is shut, count a stale ack and return False."""
        key = message.offset
        if message.batch is not None:
            key = self._remove_from_batch(message, message.batch)
        elif self.begun.pop(key, None) is None:
            self.refuse(message)
            return False
        message.acked = True
        usage = self.usage
        usage.held -= 1
        usage.begun -= 1
        memory = usage.memory
        memory.bytes -= message.weight
        if usage.held <= usage.mark or memory.is_full or self._waiters:
            self._after((key,))
        return True

    def _remove_from_batch(self, message: AnyMessage, batch: AnyBatch) -> int:
        """Remove an acked message from its batch.

        Return the key of the batch if this was its last unacked message, and otherwise the offset
        of the message.
        """
        assert batch.left is not None  # `Batch.messages` set it when it made the message
        del batch.left[message.offset]
        message.batch = None
        if batch.left:
            self._in_batches -= 1
            return message.offset
        del self.begun[batch.first]
        return batch.first

    def ack_batch(self, batch: AnyBatch) -> bool:
        """Ack each message of a batch as `Message.ack` does; return whether all acks counted."""
        if batch.left is not None:
            return self._ack_opened(batch, batch.left)
        count = len(batch)
        if self.begun.get(batch.first) is not batch:
            if batch.is_acked:
                self.ledger.tally.doubled += count
            else:
                self.ledger.tally.stale += count
            return False
        batch.is_acked = True
        self._end(batch, count, batch.weight)
        return True

    def _ack_opened(self, batch: AnyBatch, left: dict[int, AnyMessage]) -> bool:
        messages = batch.messages
        if len(left) != len(messages) or any(message.refcount != 1 for message in messages):
            unacked = [message for message in messages if not message.acked]
            return all([message.decref() for message in unacked or messages])
        weight = 0
        for message in messages:
            message.refcount = 0
            message.acked = True
            message.batch = None
            weight += message.weight
        left.clear()
        self._end(batch, len(messages), weight)
        return True

    def _end(self, batch: AnyBatch, count: int, weight: int) -> None:
        """Remove a batch of which the last `count` messages were acked together."""
        del self.begun[batch.first]
        self._in_batches -= count - 1
        self.usage.held -= count
        self.usage.begun -= count
        self.usage.memory.bytes -= weight
        self._after((batch.first,))

    def put_in_hand(self, held: Source) -> None:
        """Make a message or batch the source of what this task sends, if sources are in use."""
        if self.usage.names_source:
            in_hand.set(held)

    def refuse(self, message: AnyMessage) -> None:
        """Count an ack that changes nothing."""
        if message.acked:
            self.ledger.tally.doubled += 1
        else:
            self.ledger.tally.stale += 1

    def close(self) -> int | None:
        """Note which messages the channel got, and drop the waiting ones; see `drop_waiting`."""
        if self._start is not None:
            missing = {record.offset for record in self._records[self._next :]}
            first = self._first_unread
            end = self.ledger.position if first is None else first
            assert end is not None
            self.span = _Span(self.usage, self._start, end, missing)
        return self.drop_waiting()

    def drop_waiting(self) -> int | None:
        """Drop the waiting messages; return the offset of the first, or None without any."""
        first = self.first_waiting
        count = self.waiting
        weight = self._share * (len(self._records) - self._next)
        weight += sum(each.weight for each in self._queue)
        if self._reading is not None:
            weight += self._reading.weight
        self._records, self._next, self._reading = [], 0, None
        self._queue.clear()
        self.usage.held -= count
        self.usage.memory.bytes -= weight
        self._after_fall()
        return first

    def give_back(self, messages: Sequence[AnyMessage]) -> None:
        """Return taken messages to the waiting ones, in offset order. Acks of them are stale.

        Messages that are not unacked are skipped.
        """
        given = [message for message in messages if message.is_open]
        if not given:
            return
        for batch in {message.batch: None for message in given if message.batch is not None}:
            self._dissolve(batch)
        for message in given:
            message.refcount = 0
            del self.begun[message.offset]
        self.taken -= len(given)
        self.usage.begun -= len(given)
        weight = sum(message.weight for message in given)
        self._wait_again([message.record for message in given], weight)
        self._after([message.offset for message in given])

    def insert(self, records: Sequence[Record], weight: int) -> None:
        """Let records wait that were given back to an earlier lane of the channel.

        Those that are not read yet are skipped.
        """
        unread = self._first_unread
        new = [each for each in records if unread is None or each.offset < unread]
        if new:
            weight = weight * len(new) // len(records)
            self.usage.held += len(new)
            self.usage.memory.add(weight)
            self._wait_again(new, weight)

    def _wait_again(self, records: list[Record], weight: int) -> None:
        """Add records to the current portion, of which they are: they lie below the unread ones."""
        waiting = records + self._records[self._next :]
        weight += self._share * (len(waiting) - len(records))
        waiting.sort(key=_offset)
        self._records, self._next = waiting, 0
        self._share = weight // len(waiting)
        self.usage.memory.bytes -= weight - self._share * len(waiting)
        self._is_disordered = bool(self.begun)

    def _dissolve(self, batch: AnyBatch) -> None:
        """Replace the entry of a batch by an entry for each of its unacked messages.

        Some of them will wait again, and a new batch may begin at the same offset.
        """
        left = batch.dissolve()
        del self.begun[batch.first]
        self._in_batches -= len(left) - 1
        self.begun.update(left)
        for waiter in self._waiters:
            if batch.first in waiter.left:
                waiter.left.remove(batch.first)
                waiter.left.update(left)

    def when_empty(self, call: Callable[[], None]) -> None:
        """Call `call` once, when all messages that are unacked now are done.

        The call is made at once, after an ack, after `give_back`, or when the lane is shut.
        Messages that are taken later do not delay it.
        """
        if self.begun:
            self._waiters.append(_Waiter(call, set(self.begun)))
        else:
            call()

    def forget(self, call: Callable[[], None]) -> None:
        """Cancel a call that `when_empty` has not made yet."""
        self._waiters = [waiter for waiter in self._waiters if waiter.call != call]

    def shut(self) -> None:
        """End the epoch: drop the waiting messages, give up the unacked. Later acks are stale."""
        self.drop_waiting()
        keys = list(self.begun)
        for entry in self.begun.values():
            count, weight = entry.give_up()
            self.usage.held -= count
            self.usage.begun -= count
            self.usage.memory.bytes -= weight
            self._given_up += count
        self.begun.clear()
        self._in_batches = 0
        self._after(keys)
        self.usage.on_gone(self)

    def _after_fall(self) -> None:
        memory = self.usage.memory
        if memory.is_full:
            memory.has_fallen()
            if not self.usage.held and memory.is_full:
                memory.on_fall()  # an empty channel is fetched for even if the memory is full

    def _after(self, keys: Sequence[int]) -> None:
        """Make the calls that are due after the entries of these keys changed or were removed."""
        if self.usage.held <= self.usage.mark:
            self.usage.on_fall()
        self._after_fall()
        if self._waiters:
            self._call_waiters(keys)

    def _call_waiters(self, keys: Sequence[int]) -> None:
        gone = [key for key in keys if key not in self.begun]
        waiters: list[_Waiter] = []
        done: list[_Waiter] = []
        for waiter in self._waiters:
            waiter.left.difference_update(gone)
            (waiters if waiter.left else done).append(waiter)
        self._waiters = waiters
        for waiter in done:
            waiter.call()


class Ledger:
    """The record of everything fetched, delivered and acked of one partition in one epoch.

    Args:
        epoch: the number of this epoch, for display. No code compares it.
        generation: the group's generation in which the partition was assigned.
        position: the offset where the epoch starts; None: only the broker knows it so far.
        committed: the offset that the group has committed, as far as this consumer knows.

    Attributes:
        must_commit: no message from this offset on is delivered until the group has committed
            this offset. None: all messages may be delivered.
        is_proven: whether the position is known to lie in the log. A sought position may lie
            outside, so it is not committed before that is known.
    """

    def __init__(
        self,
        tp: TP,
        epoch: int,
        generation: int,
        tally: Tally,
        *,
        position: int | None = None,
        committed: int | None = None,
    ) -> None:
        self.tp = tp
        self.epoch = epoch
        self.generation = generation
        self.tally = tally
        self.position = position
        self.committed = committed
        self.lanes: list[Lane] = []  # the open lanes
        self._left: list[Lane] = []  # closed lanes that have unacked messages
        self._spans: list[_Span] = []  # of closed lanes
        self._acked_of_gone = 0  # acks in closed lanes that have no unacked messages
        self._acked_before = 0  # the value of `acked` at the last `newly_acked`
        self.is_shut = False
        self.is_draining = False
        self.is_suspended = False  # waiting messages stay in the lanes, and none is taken
        self.start = position  # where the epoch began; None: only the broker knows it so far
        self.must_commit: int | None = None
        self.is_proven = True
        self.must_refetch = False  # the client is ahead of the position and must seek back first
        self._locating: list[Callable[[], None]] = []  # the calls of `when_located`

    def open_lane(self, usage: BufferUsage) -> Lane:
        """Return a new lane for one more channel; it receives all fetches from now on.

        It drops the messages that the channel got through an earlier lane.
        """
        lane = Lane(self, usage, [span for span in self._spans if span.usage is usage])
        self.lanes.append(lane)
        return lane

    def close_lane(self, lane: Lane) -> None:
        """Close the lane of a channel. Its unacked messages still hold the safe offset back."""
        self.lanes.remove(lane)
        first = lane.close()
        if lane.span is not None:
            self._spans.append(lane.span)
        lane.usage.on_gone(lane)
        if not self.lanes:
            self._rewind(first)  # no other lane has the dropped messages
        left = (*self._left, lane)
        self._acked_of_gone += sum(lane.acked for lane in left if not lane.begun)
        self._left = [lane for lane in left if lane.begun]
        if (safe := self.safe) is not None:
            self._spans = [span for span in self._spans if span.end > safe]

    def close_lanes_of(self, usage: BufferUsage) -> None:
        """Close the lane of a channel, if it has one."""
        for lane in [lane for lane in self.lanes if lane.usage is usage]:
            self.close_lane(lane)

    def suspend(self) -> None:
        """Let no waiting message be taken until `is_suspended` is set to False."""
        self.is_suspended = True
        for lane in self.lanes:
            lane.usage.on_suspended(lane)

    def give_back(self, lane: Lane, messages: Sequence[AnyMessage]) -> None:
        """Return messages that reached no handler to the waiting ones of their lane.

        After `drain` or `close_lane`, all waiting messages of the lane are then dropped. If the
        topic object listens again, its new lane gets those that were given back.
        """
        given = [message for message in messages if message.is_open]
        records, weight = [each.record for each in given], sum(each.weight for each in given)
        lane.give_back(given)
        is_closed = lane not in self.lanes
        if lane.span is not None:
            lane.span.missing.update(record.offset for record in records)
        if not self.is_draining and not is_closed:
            return
        first = lane.drop_waiting()
        listening = [each for each in self.lanes if each.usage is lane.usage]
        if not self.lanes or (listening and (self.is_draining or self.must_refetch)):
            self._rewind(first)
        elif listening and records:
            (again,) = listening
            again.usage.on_suspended(again)  # what was taken and has not begun comes after these
            again.insert(records, weight)
            again.usage.on_filled(again)

    def put(self, fetched: Fetched) -> bool:
        """Put a fetch into every lane; return whether it was put.

        Without lanes, the fetch is discarded, and the records must be fetched again once there is a
        lane. Until the client has sought back for that, further fetches are discarded too.
        """
        if not self.must_refetch:
            self.is_proven = True
        if not self.lanes or self.must_refetch:
            if self.position is None:
                self.position = self.start = fetched.first
                self._call_located()
            self.must_refetch = True
            return False
        if self.start is None:
            self.start = fetched.first
        for lane in self.lanes:
            lane.put(fetched)
        self.position = fetched.end
        self._call_located()
        for lane in self.lanes:
            lane.usage.on_filled(lane)
        return True

    def is_behind(self, offset: int) -> bool:
        """Return whether a fetch that begins at this offset lies before the position.

        The client was then reset to an earlier offset. Such a fetch cannot be put into the same
        epoch (I6).
        """
        return not self.must_refetch and self.position is not None and offset < self.position

    def advance(self, position: int) -> None:
        """Move the position forward over gaps, markers and aborted records at the log's end."""
        if not self.must_refetch and (self.position is None or position > self.position):
            self.position = position
            self.is_proven = True
            if self.start is None:
                self.start = position
            self._call_located()

    def prove(self, end: int) -> None:
        """Set `is_proven` if the log, which ends at `end`, reaches the position."""
        if self.position is not None and self.position <= end:
            self.is_proven = True

    def clear_must_commit(self) -> bool:
        """Clear `must_commit` if the group has committed that offset; return whether it did."""
        if self.must_commit is None or self.committed is None or self.committed < self.must_commit:
            return False
        self.must_commit = None
        return True

    @property
    def refetch_from(self) -> int | None:
        """The offset to which the client must seek before the next fetch; None: no seek."""
        return self.position if self.must_refetch and self.lanes else None

    def end_refetch(self) -> None:
        """Put fetches into lanes again: the client has sought to `refetch_from`."""
        self.must_refetch = False

    def _rewind(self, first: int | None) -> None:
        """Move the position back to `first`, from where undelivered messages were dropped."""
        if first is not None and (self.position is None or first < self.position):
            self.position = first
            self.must_refetch = True

    @property
    def next_offset(self) -> int | None:
        """The offset from which on no channel has taken a message; None: not known yet."""
        waiting = (lane.first_waiting for lane in self.lanes)
        first = min((offset for offset in waiting if offset is not None), default=None)
        return self.position if first is None else first

    def when_located(self, call: Callable[[], None]) -> None:
        """Call `call` once, when the position is known or the epoch has ended."""
        if self.position is not None or self.is_shut:
            call()
        else:
            self._locating.append(call)

    def _call_located(self) -> None:
        if self._locating:
            calls, self._locating = self._locating, []
            for call in calls:
                call()

    @property
    def safe(self) -> int | None:
        """The offset that may be committed; None: the position is not known yet (I1, I4)."""
        safe = self.position
        for lane in self._all_lanes:
            offset = lane.safe
            if offset is not None and safe is not None and offset < safe:
                safe = offset
        return safe

    @property
    def due(self) -> int | None:
        """The safe offset, if it is beyond the committed one; None: nothing to commit (I2)."""
        offset = self.committable
        return None if offset == self.committed else offset

    @property
    def committable(self) -> int | None:
        """The safe offset, if it is not before the committed one; None: do not commit (I2)."""
        safe = self.safe
        if safe is None or self.is_shut or not self.is_proven:
            return None
        return safe if self.committed is None or safe >= self.committed else None

    @property
    def uncommitted(self) -> int | None:
        """The first offset that is not committed; None: neither start nor commit is known."""
        return self.start if self.committed is None else self.committed

    @property
    def is_idle(self) -> bool:
        """Whether everything fetched is done."""
        return all(not lane.begun and lane.first_waiting is None for lane in self._all_lanes)

    @property
    def unacked(self) -> Iterator[AnyMessage]:
        """The messages that were delivered and not acked, in all lanes."""
        for lane in self._all_lanes:
            for entry in lane.begun.values():
                yield from entry.open_messages()

    @property
    def oldest_begun(self) -> int | None:
        """The least offset of the unacked messages in all lanes; None: there are none."""
        oldest = (lane.oldest_begun for lane in self._all_lanes)
        return min((offset for offset in oldest if offset is not None), default=None)

    @property
    def oldest_due(self) -> float | None:
        """When the next or present attempt to handle the oldest unacked message is due.

        None: no attempt has failed, or another holder of the message has not acked it.
        """
        oldest = self.oldest_begun
        if oldest is None:
            return None
        lanes = [lane for lane in self._all_lanes if lane.oldest_begun == oldest]
        times = [lane.usage.due_of(lane, oldest) for lane in lanes]
        due = [time for time in times if time is not None]
        return min(due) if len(due) == len(times) else None

    @property
    def waiting(self) -> int:
        """The number of waiting messages in all open lanes."""
        return sum(lane.waiting for lane in self.lanes)

    @property
    def acked(self) -> int:
        """The number of messages acked in this epoch, in all lanes."""
        return self._acked_of_gone + sum(lane.acked for lane in self._all_lanes)

    def newly_acked(self) -> int:
        """Return the number of messages acked since the last call."""
        before, self._acked_before = self._acked_before, self.acked
        return self._acked_before - before

    def drain(self) -> None:
        """Drop all waiting messages. The position moves back, so they will be fetched again."""
        self.is_draining = True
        for first in [lane.drop_waiting() for lane in self.lanes]:
            self._rewind(first)
        for lane in self.lanes:
            lane.usage.on_suspended(lane)

    def when_empty(self, call: Callable[[], None]) -> Callable[[], None]:
        """Call `call` once, when all messages that are unacked now are done in all lanes.

        Return a function that cancels the call.
        """
        lanes = list(self._all_lanes)
        left = len(lanes)
        if not left:
            call()

        def one_less() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                call()

        def forget() -> None:
            for lane in lanes:
                lane.forget(one_less)

        for lane in lanes:
            lane.when_empty(one_less)
        return forget

    def shut(self) -> None:
        """End the epoch. The ledger's numbers stay readable."""
        self.is_shut = True
        for lane in self._all_lanes:
            lane.shut()
        self._call_located()

    @property
    def _all_lanes(self) -> list[Lane]:
        return [*self.lanes, *self._left] if self._left else self.lanes


def lane_of(held: Source) -> Lane:
    """Return the lane that a message or a batch came through."""
    assert isinstance(held.lane, Lane)
    return held.lane


def ledger_of(held: Source) -> Ledger:
    """Return the ledger that a message or a batch belongs to."""
    return lane_of(held).ledger
