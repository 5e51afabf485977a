"""From acks to the offset that may be committed. All rules about that are in this file.

**What is known.** A consumer sees the offsets of a partition in order. An offset that is missing
between two fetched ones does not exist any more (compaction), was aborted, or is a marker; it
will never come, and so nothing has to be remembered about it.

**One partition, one epoch: a `Ledger`.** Being assigned and being sought begin a new epoch, that
is a new ledger; the old one is shut. A message holds on to the lane it came through, so an
ack from an earlier epoch ends in a shut lane and can change nothing: no number has to be compared.

**One channel's share of it: a `Lane`.** What is fetched goes into the lane of every channel that
listens to the topic, and from each of them, record by record, to a handler:

    encoded  --read-->  waiting  --take-->  begun  --ack-->  done

A fetch enters a lane encoded, with its offsets and a count. The lane decodes a portion of it when
the records before are taken, so it never holds more than one decoded portion that waits.

**The offset to commit** is the least, over the lanes, of the oldest begun message, the first
waiting offset and, with neither, the position: the offset after all that was fetched. What is begun
is kept in a dict in the order in which it was taken, that is in offset order, so the oldest is its
first entry. A batch is one entry, until all of its messages are acked. An ack takes an entry out,
in constant time; a commit looks at the first entry of each lane. A message that was taken, and that
no handler has got, waits again (`Ledger.give_back`); from then on the lane looks for the least
offset. At the end of a log the position may be moved past markers, which are never fetched
(`Ledger.advance`), so that lag reaches 0.

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
from transport.message import Batch, Message
from transport.types import TP, Record
from transport.weights import Held


@attrs.define
class Tally:
    """Acks that changed nothing, counted for a consumer's whole life."""

    doubled: int = 0
    stale: int = 0


@attrs.define(eq=False)
class BufferUsage:
    """A channel as its lanes see it: how much of its buffer is in use, and what it wants to know.

    The numbers are of messages, over all lanes of the channel.

    Attributes:
        limit: most messages begun; from that many held on, the channel is full.
        names_source: whether a message in a handler's hands is what is sent then belongs to.
        held: fetched and not acked, waiting or begun.
        begun: delivered and not acked.
        memory: the weight of the messages held by all channels of the app.
        mark: `on_fall` is called at each ack that leaves so many held, or fewer; -1: at none. A
            number rather than a flag: while the channel is full, nothing is called for most acks.
        on_filled: called when something was fetched into a lane.
        on_suspended: called when nothing more of a lane may be taken for now.
        on_gone: called when a lane brings nothing any more.
    """

    limit: int
    names_source: bool = False
    held: int = 0
    begun: int = 0
    memory: Held = attrs.field(factory=Held)
    mark: float = -1
    on_fall: Callable[[], None] = lambda: None
    on_filled: Callable[[Lane], None] = lambda lane: None
    on_suspended: Callable[[Lane], None] = lambda lane: None
    on_gone: Callable[[Lane], None] = lambda lane: None


def _offset(record: Record) -> int:
    return record.offset


class _Reading:
    """The fetch that a lane reads from.

    Attributes:
        at: the offset after the last record that was read.
        unread: how many more records its headers claim.
        weight: the bytes of the fetch that are still in memory.
        error: why the rest cannot be read.
    """

    __slots__ = ("_portions", "at", "error", "unread", "weight")

    def __init__(self, fetched: Fetched) -> None:
        self.at = fetched.first
        self.unread = fetched.count
        self.weight = fetched.weight
        self.error: UnreadableBatch | None = None
        self._portions = fetched.read()

    def next(self) -> Portion | None:
        """Decode the next portion; None: there is none, or `error` is set."""
        try:
            return next(self._portions, None)
        except UnreadableBatch as error:
            self.error = error
        return None


@attrs.define(eq=False)
class _Waiter:
    """A wait until what is begun of a lane is done.

    Attributes:
        left: the keys of those entries that are still begun.
    """

    call: Callable[[], None]
    left: set[int]


class Lane:
    """One partition's messages on their way through one channel, during one epoch.

    Attributes:
        begun: the messages and batches that were taken and are not done, by their first offset.
        thread: the thread that acks belong to, which is that of the app.
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
        "_waiters",
        "begun",
        "ledger",
        "load",
        "taken",
        "thread",
    )

    def __init__(self, ledger: Ledger, load: BufferUsage) -> None:
        self.ledger = ledger
        self.load = load
        self.begun: dict[int, Message | Batch] = {}
        self.taken = 0  # how many messages were ever taken ...
        self._given_up = 0  # ... and not acked when the epoch ended
        self._in_batches = 0  # begun messages that are in batches, less one for each batch
        # The portion that is being taken from. Taken records are removed at once: otherwise each
        # partition would keep acked records in memory, ...
        self._records: list[Any] = []
        self._share = 0  # ... what each record of it weighs, ...
        self._next = 0  # ... and the index of its first waiting record
        self._reading: _Reading | None = None  # the fetch that the next portion comes from
        self._queue: deque[Fetched] = deque()  # the fetches behind it
        self._waiters: list[_Waiter] = []
        self._is_disordered = False  # `begun` may be out of order, and ahead of what waits
        self.thread = get_ident()

    @property
    def safe(self) -> int | None:
        """The offset to commit as far as this lane goes; None: not known yet."""
        begun, first = self.oldest_begun, self.first_waiting
        if begun is not None:
            return min(begun, first) if self._is_disordered and first is not None else begun
        return self.ledger.position if first is None else first

    @property
    def oldest_begun(self) -> int | None:
        """The least offset of the messages that are begun."""
        if self._is_disordered:
            return min((entry.oldest for entry in self.begun.values()), default=None)
        for entry in self.begun.values():
            return entry.oldest
        return None

    @property
    def first_waiting(self) -> int | None:
        """The offset from which on nothing was taken; None: all that was fetched is taken."""
        if self._next < len(self._records):
            record: Record = self._records[self._next]
            return record.offset
        if self._reading is not None:
            return self._reading.at
        return self._queue[0].first if self._queue else None

    @property
    def waiting(self) -> int:
        """How many records are fetched and not taken, as far as their headers tell."""
        unread = 0 if self._reading is None else self._reading.unread
        return len(self._records) - self._next + unread + sum(each.count for each in self._queue)

    @property
    def acked(self) -> int:
        """How many messages were ever acked."""
        return self.taken - self._given_up - len(self.begun) - self._in_batches

    @property
    def error(self) -> UnreadableBatch | None:
        """Why nothing more can be taken: the next batch cannot be decoded."""
        if self._reading is None or self._next < len(self._records):
            return None
        return self._reading.error

    def put(self, fetched: Fetched) -> None:
        """Add what one fetch has brought, after all that was fetched before."""
        self._queue.append(fetched)
        self.load.held += fetched.count
        self.load.memory.add(fetched.weight)

    def ready(self) -> int:
        """How many messages can be taken one by one; 0: none waits, or none may be taken now."""
        if self.ledger.is_suspended:
            return 0
        if self._next == len(self._records):
            self._open_next()
        return self._allowed()

    def take(self) -> Message | None:
        """The next message of the portion that `ready` has opened; None at its end."""
        try:
            record = self._records[self._next]
        except IndexError:
            return None
        message = Message(self, record, self._share)
        self._records[self._next] = None
        self._next += 1
        self.taken += 1
        self.load.begun += 1
        self.begun[message.offset] = message
        if self._next == len(self._records):
            self._read()
        return message

    def take_batch(self, most: int) -> Batch:
        """Up to `most` records, at least one; `ready` has said that there is one.

        Over the ends of fetches: who comes seldom is to find all that waits for it.
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
        self.load.begun += len(records)
        batch = Batch(self, records, weight)
        self.begun[batch.first] = batch
        self._in_batches += len(records) - 1
        return batch

    def _open_next(self) -> None:
        """Decode the next portion if there is one, of the next fetch if need be."""
        self._read()
        while self._reading is None and self._queue:
            self._reading = _Reading(self._queue.popleft())
            self._read()

    def _read(self) -> None:
        """Decode the next portion of the fetch that is being read, if there is one.

        It replaces a portion of which all was taken, at once: so when the last record of a fetch is
        taken, the lane knows that nothing waits.
        """
        reading = self._reading
        if reading is None:
            return
        load, portion = self.load, reading.next()
        if portion is None:
            if reading.error is None:
                self._reading = None
                load.held -= reading.unread  # there are fewer than the headers claim
                load.memory.bytes -= reading.weight
                if reading.unread and load.held <= load.mark:
                    load.on_fall()
                self._after_fall()
            return
        records = list(portion.records)
        self._records, self._next = records, 0
        self._share = portion.weight // len(records)
        load.memory.add(self._share * len(records) - portion.freed)
        reading.weight -= portion.freed
        reading.at = records[-1].offset + 1
        reading.unread -= len(records)
        if reading.unread < 0:  # there are more than the headers claim
            load.held -= reading.unread
            reading.unread = 0

    def _allowed(self) -> int:
        """How many records of the portion may be taken before a commit that delivery waits for."""
        first = self.ledger.must_commit
        if first is None:
            return len(self._records) - self._next
        return sum(record.offset < first for record in self._records[self._next :])

    def ack(self, message: Message) -> bool:
        """The work on a message is done; False, and nothing changes, if the lane is shut."""
        key = message.offset
        if message.batch is not None:
            key = self._let_go(message, message.batch)
        elif self.begun.pop(key, None) is None:
            self.refuse(message)
            return False
        message.acked = True
        load = self.load
        load.held -= 1
        load.begun -= 1
        memory = load.memory
        memory.bytes -= message.weight
        if load.held <= load.mark or memory.is_full or self._waiters:
            self._after((key,))
        return True

    def _let_go(self, message: Message, batch: Batch) -> int:
        """Take a message out of the batch that it is begun in.

        Return the key of the batch if that is done now, and else the message's own offset.
        """
        assert batch.left is not None  # it was made by asking the batch for its messages
        del batch.left[message.offset]
        message.batch = None
        if batch.left:
            self._in_batches -= 1
            return message.offset
        del self.begun[batch.first]
        return batch.first

    def ack_batch(self, batch: Batch) -> bool:
        """Let one holder of each message go, as `Message.ack` does; whether all acks counted."""
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

    def _ack_opened(self, batch: Batch, left: dict[int, Message]) -> bool:
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

    def _end(self, batch: Batch, count: int, weight: int) -> None:
        """A batch with so many messages left is done as a whole."""
        del self.begun[batch.first]
        self._in_batches -= count - 1
        self.load.held -= count
        self.load.begun -= count
        self.load.memory.bytes -= weight
        self._after((batch.first,))

    def enter_hands(self, held: Source) -> None:
        """Note that the task has begun to handle a message or a batch."""
        if self.load.names_source:
            in_hand.set(held)

    def refuse(self, message: Message) -> None:
        """Count an ack that changes nothing."""
        if message.acked:
            self.ledger.tally.doubled += 1
        else:
            self.ledger.tally.stale += 1

    def drop_waiting(self) -> int | None:
        """Forget what is fetched and not taken; returns the first offset of it."""
        first = self.first_waiting
        count = self.waiting
        weight = self._share * (len(self._records) - self._next)
        weight += sum(each.weight for each in self._queue)
        if self._reading is not None:
            weight += self._reading.weight
        self._records, self._next, self._reading = [], 0, None
        self._queue.clear()
        self.load.held -= count
        self.load.memory.bytes -= weight
        self._after_fall()
        return first

    def give_back(self, messages: Sequence[Message]) -> None:
        """Let these messages wait again, before those that wait already; an ack of them is stale.

        Messages that are no longer begun are skipped.
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
        self.load.begun -= len(given)
        # Only what was taken is behind what waits in the portion, and all of it was taken before
        # what is not read yet.
        waiting = [message.record for message in given] + self._records[self._next :]
        weight = sum(message.weight for message in given)
        weight += self._share * (len(waiting) - len(given))
        waiting.sort(key=_offset)
        self._records, self._next = waiting, 0
        self._share = weight // len(waiting)
        self.load.memory.bytes -= weight - self._share * len(waiting)
        self._is_disordered = bool(self.begun)
        self._after([message.offset for message in given])

    def _dissolve(self, batch: Batch) -> None:
        """Let the open messages of a batch be begun by themselves: some of them wait again, and may
        be taken in another batch that begins at the same offset."""
        left = batch.dissolve()
        del self.begun[batch.first]
        self._in_batches -= len(left) - 1
        self.begun.update(left)
        for waiter in self._waiters:
            if batch.first in waiter.left:
                waiter.left.remove(batch.first)
                waiter.left.update(left)

    def when_empty(self, call: Callable[[], None]) -> None:
        """Call once when all messages that are begun now are done.

        That is now, after an ack, or when the lane is shut. Messages that begin later do not count.
        """
        if self.begun:
            self._waiters.append(_Waiter(call, set(self.begun)))
        else:
            call()

    def forget(self, call: Callable[[], None]) -> None:
        """Cancel a call of `when_empty` that was not made yet."""
        self._waiters = [waiter for waiter in self._waiters if waiter.call != call]

    def shut(self) -> None:
        """The end of the epoch: nothing waits, nothing is begun, acks from now on are stale."""
        self.drop_waiting()
        keys = list(self.begun)
        for entry in self.begun.values():
            count, weight = entry.give_up()
            self.load.held -= count
            self.load.begun -= count
            self.load.memory.bytes -= weight
            self._given_up += count
        self.begun.clear()
        self._in_batches = 0
        self._after(keys)
        self.load.on_gone(self)

    def _after_fall(self) -> None:
        memory = self.load.memory
        if memory.is_full:
            memory.has_fallen()
            if not self.load.held and memory.is_full:
                memory.on_fall()  # an empty channel is always fetched for

    def _after(self, keys: Sequence[int]) -> None:
        """Note that the entries of these keys are no longer begun, or fewer of their messages."""
        if self.load.held <= self.load.mark:
            self.load.on_fall()
        self._after_fall()
        if self._waiters:
            self._tell_waiters(keys)

    def _tell_waiters(self, keys: Sequence[int]) -> None:
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
    """What is fetched, begun and done of one partition in one epoch.

    Args:
        epoch: number of this epoch, for people; the object itself is what counts.
        generation: the group's generation in which the partition was assigned.
        position: where the epoch starts, None while only the broker knows.
        committed: what the group has committed, as far as this consumer knows.

    Attributes:
        must_commit: no message from this offset on is delivered before the group has committed
            the offset. None: all may be delivered.
        is_proven: the position was found in the log. A sought position need not be in the log, and
            is not committed before that is known.
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
        self.lanes: list[Lane] = []  # of the channels that listen
        self._left: list[Lane] = []  # of those that did, and have messages begun
        self._acked_of_gone = 0  # acked in those that had none
        self._acked_before = 0  # as of the last `newly_acked`
        self.is_shut = False
        self.is_draining = False
        self.is_suspended = False  # what waits stays where it is, and none of it is taken
        self.start = position  # where the epoch began; None as long as only the broker knows
        self.must_commit: int | None = None
        self.is_proven = True
        self.must_refetch = False  # the client is ahead of the position: seek it back first

    def open_lane(self, load: BufferUsage) -> Lane:
        """A share for one more channel; it gets what is fetched from now on."""
        lane = Lane(self, load)
        self.lanes.append(lane)
        return lane

    def close_lane(self, lane: Lane) -> None:
        """The channel listens no more; what it has begun still holds the offset back."""
        self.lanes.remove(lane)
        first = lane.drop_waiting()
        lane.load.on_gone(lane)
        if not self.lanes:
            self._rewind(first)  # nobody has had it
        left = (*self._left, lane)
        self._acked_of_gone += sum(lane.acked for lane in left if not lane.begun)
        self._left = [lane for lane in left if lane.begun]

    def close_lanes_of(self, load: BufferUsage) -> None:
        """Close the lane of a channel, if it has one."""
        for lane in [lane for lane in self.lanes if lane.load is load]:
            self.close_lane(lane)

    def suspend(self) -> None:
        """Let none of the waiting messages be taken, until `is_suspended` is False again."""
        self.is_suspended = True
        for lane in self.lanes:
            lane.load.on_suspended(lane)

    def give_back(self, lane: Lane, messages: Sequence[Message]) -> None:
        """Let messages wait again that were taken out of the lane and reached no handler.

        After `drain` and `close_lane` they are dropped.
        """
        lane.give_back(messages)
        is_closed = lane not in self.lanes
        if self.is_draining or is_closed:
            first = lane.drop_waiting()
            if not is_closed or not self.lanes:
                self._rewind(first)

    def fetched(self, fetched: Fetched) -> bool:
        """Enter what was fetched into every lane; returns whether it was entered.

        Without lanes none is, and it has to be fetched again once there is one; nor is what the
        client brings before it was sought to where it has to fetch again.
        """
        if not self.must_refetch:
            self.is_proven = True
        if not self.lanes or self.must_refetch:
            if self.position is None:
                self.position = self.start = fetched.first
            self.must_refetch = True
            return False
        if self.start is None:
            self.start = fetched.first
        for lane in self.lanes:
            lane.put(fetched)
        self.position = fetched.end
        for lane in self.lanes:
            lane.load.on_filled(lane)
        return True

    def is_behind(self, offset: int) -> bool:
        """Whether the client, which brings what begins at this offset, was reset to a place before
        the position: that cannot be entered into the same epoch (I6)."""
        return not self.must_refetch and self.position is not None and offset < self.position

    def advance(self, position: int) -> None:
        """Nothing more comes before `position`: gaps, markers, aborted data at the end."""
        if not self.must_refetch and (self.position is None or position > self.position):
            self.position = position
            self.is_proven = True
            if self.start is None:
                self.start = position

    def prove(self, end: int) -> None:
        """Note that the log reaches up to `end`."""
        if self.position is not None and self.position <= end:
            self.is_proven = True

    def may_go_on(self) -> bool:
        """Whether the commit that delivery waited for has been made; True once."""
        if self.must_commit is None or self.committed is None or self.committed < self.must_commit:
            return False
        self.must_commit = None
        return True

    @property
    def refetching(self) -> int | None:
        """Where the client has to be sought to before the next fetch; None: nowhere."""
        return self.position if self.must_refetch and self.lanes else None

    def sought_back(self) -> None:
        """The client was sought to where it has to fetch again."""
        self.must_refetch = False

    def _rewind(self, first: int | None) -> None:
        """Records from `first` on were fetched, and dropped undelivered."""
        if first is not None and (self.position is None or first < self.position):
            self.position = first
            self.must_refetch = True

    @property
    def safe(self) -> int | None:
        """The offset that may be committed; None while nothing is known (I1, I4)."""
        safe = self.position
        for lane in self._all_lanes:
            offset = lane.safe
            if offset is not None and safe is not None and offset < safe:
                safe = offset
        return safe

    @property
    def due(self) -> int | None:
        """The offset that a commit would move to; None if there is nothing to commit (I2)."""
        safe = self.safe
        if safe is None or self.is_shut or not self.is_proven:
            return None
        return safe if self.committed is None or safe > self.committed else None

    @property
    def uncommitted(self) -> int | None:
        """Where the work begins that is not committed; None while nothing is known."""
        return self.start if self.committed is None else self.committed

    @property
    def is_idle(self) -> bool:
        """Whether all that was fetched is done."""
        return all(not lane.begun and lane.first_waiting is None for lane in self._all_lanes)

    @property
    def unacked(self) -> Iterator[Message]:
        """The messages that are begun and not acked."""
        for lane in self._all_lanes:
            for entry in lane.begun.values():
                yield from entry.open_messages()

    @property
    def oldest_begun(self) -> int | None:
        """The offset of the first message that is begun and not acked."""
        oldest = (lane.oldest_begun for lane in self._all_lanes)
        return min((offset for offset in oldest if offset is not None), default=None)

    @property
    def waiting(self) -> int:
        """How many messages are fetched and not taken, over the lanes."""
        return sum(lane.waiting for lane in self.lanes)

    @property
    def acked(self) -> int:
        """How many messages of this epoch were acked, over the lanes."""
        return self._acked_of_gone + sum(lane.acked for lane in self._all_lanes)

    def newly_acked(self) -> int:
        """How many of them since the last call."""
        before, self._acked_before = self._acked_before, self.acked
        return self._acked_before - before

    def drain(self) -> None:
        """Deliver nothing more: what is not begun is dropped, and will be fetched again."""
        self.is_draining = True
        for first in [lane.drop_waiting() for lane in self.lanes]:
            self._rewind(first)

    def when_empty(self, call: Callable[[], None]) -> Callable[[], None]:
        """Call once when all messages that are begun now are done, in all lanes.

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
        """End the epoch; the ledger keeps its numbers for who still looks at them."""
        self.is_shut = True
        for lane in self._all_lanes:
            lane.shut()

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
