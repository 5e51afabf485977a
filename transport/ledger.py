"""From acks to the offset that may be committed. All rules about that are in this file.

**What is known.** A consumer sees the offsets of a partition in order. An offset that is missing
between two fetched ones does not exist any more (compaction), was aborted, or is a marker; it
will never come, and so nothing has to be remembered about it.

**One partition, one epoch: a `Ledger`.** Being assigned and being sought begin a new epoch, that
is a new ledger; the old one is shut. A message holds on to the lane it came through, so an
ack from an earlier epoch ends in a shut lane and can change nothing: no number has to be compared.

**One channel's share of it: a `Lane`.** Each record that is fetched goes into the lane of every
channel that listens to the topic, and from each of them to a handler:

    waiting  --take-->  begun  --ack-->  done

**The offset to commit** is the least, over the lanes, of the oldest begun message, the first
waiting record and, with neither, the position: the offset after all that was fetched. Begun
messages are kept in a dict in the order in which they were taken, that is in offset order, so the
oldest is its first key. An ack takes its entry out, in constant time; a commit looks at the first
key of each lane. A message that was taken, and that no handler has got, waits again
(`Ledger.give_back`); from then on the lane looks for the least offset. At the end of a log the
position may be moved past markers, which are never fetched (`Ledger.advance`), so that lag
reaches 0.

Nothing here knows trio or Kafka.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from threading import get_ident
from typing import Any

import attrs

from transport.message import Batch, Message
from transport.types import TP, Record
from transport.weights import Held, weights


@attrs.define
class Tally:
    """Acks that changed nothing, counted for a consumer's whole life."""

    doubled: int = 0
    stale: int = 0


@attrs.define(eq=False)
class Load:
    """How much of a channel's buffer is in use, in messages, over all of its lanes.

    Attributes:
        limit: most messages begun; from that many held on, the channel is full.
        names_source: whether a message in a handler's hands is what is sent then belongs to.
        held: fetched and not acked, waiting or begun.
        begun: delivered and not acked.
        memory: the weight of the messages held by all channels of the app.
        alarm: `on_fall` is called at each ack, because a caller waits for the load to fall.
    """

    limit: int
    names_source: bool = False
    held: int = 0
    begun: int = 0
    memory: Held = attrs.field(factory=Held)
    alarm: bool = False
    on_fall: Callable[[], None] = lambda: None


def _offset(weighed: tuple[Record, int]) -> int:
    return weighed[0].offset


@attrs.define(eq=False)
class _Waiter:
    """A wait until some messages of a lane are done.

    Attributes:
        left: the offsets of those messages that are still begun.
    """

    call: Callable[[], None]
    left: set[int]


class Lane:
    """One partition's messages on their way through one channel, during one epoch.

    Attributes:
        thread: the thread that acks belong to, which is that of the app.
    """

    __slots__ = (
        "_given_up",
        "_is_disordered",
        "_next",
        "_queue",
        "_records",
        "_waiters",
        "_weights",
        "begun",
        "ledger",
        "load",
        "taken",
        "thread",
    )

    def __init__(self, ledger: Ledger, load: Load) -> None:
        self.ledger = ledger
        self.load = load
        self.begun: dict[int, Message] = {}
        self.taken = 0  # how many were ever taken ...
        self._given_up = 0  # ... and not acked when the epoch ended
        # The batch that is being taken from, which is this lane's own. Taken records are removed
        # at once: otherwise each partition would keep a whole acked batch in memory, ...
        self._records: list[Any] = []
        self._weights: Sequence[int] = ()  # ... what each record of it weighs, ...
        self._next = 0  # ... and the index of its first waiting record
        # The batches behind it, with their weights.
        self._queue: deque[tuple[Sequence[Record], Sequence[int]]] = deque()
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
            return min(self.begun, default=None)
        return next(iter(self.begun), None)

    @property
    def first_waiting(self) -> int | None:
        """The offset of the first record that is fetched and not taken."""
        if self._next < len(self._records):
            record: Record = self._records[self._next]
            return record.offset
        return self._queue[0][0][0].offset if self._queue else None

    @property
    def waiting(self) -> int:
        """How many records are fetched and not taken."""
        return len(self._records) - self._next + sum(len(records) for records, _ in self._queue)

    @property
    def acked(self) -> int:
        """How many messages were ever acked."""
        return self.taken - self._given_up - len(self.begun)

    def put(self, records: Sequence[Record], weights: Sequence[int]) -> None:
        """Add fetched records, in offset order, with the weight of each."""
        self._queue.append((records, weights))
        self.load.held += len(records)
        self.load.memory.add(sum(weights))

    def ready(self) -> int:
        """How many messages can be taken one by one; 0: none waits, or none may be taken now."""
        if self.ledger.is_held:
            return 0
        if self._next == len(self._records):
            if not self._queue:
                return 0
            self._open_next()
        if self._waits_for_commit(self._records[self._next].offset):
            return 0
        return len(self._records) - self._next

    def take(self) -> Message | None:
        """The next message of the batch that `ready` has opened; None at its end."""
        try:
            record = self._records[self._next]
        except IndexError:
            return None
        message = Message(self, record, self._weights[self._next])
        self._records[self._next] = None
        self._next += 1
        self.taken += 1
        self.load.begun += 1
        self.begun[message.offset] = message
        return message

    def take_batch(self, most: int) -> Batch:
        """Up to `most` messages, at least one; `ready` has said that there is one.

        Over the ends of fetches: who comes seldom is to find all that waits for it.
        """
        messages = self._take_of_fetch(most)
        while (
            len(messages) < most
            and self._queue
            and not self._waits_for_commit(self._queue[0][0][0].offset)
        ):
            self._open_next()
            messages += self._take_of_fetch(most - len(messages))
        self.taken += len(messages)
        self.load.begun += len(messages)
        self.begun.update((message.offset, message) for message in messages)
        return Batch(self, messages)

    def _open_next(self) -> None:
        records, self._weights = self._queue.popleft()
        self._records, self._next = list(records), 0

    def _waits_for_commit(self, offset: int) -> bool:
        first = self.ledger.must_commit
        return first is not None and offset >= first

    def _take_of_fetch(self, most: int) -> list[Message]:
        part = slice(self._next, self._next + most)
        records = self._records[part]
        self._records[part] = [None] * len(records)
        self._next += len(records)
        weighed = zip(records, self._weights[part], strict=True)
        return [Message(self, record, weight) for record, weight in weighed]

    def ack(self, message: Message) -> bool:
        """The work on a message is done; False, and nothing changes, if the lane is shut."""
        if self.begun.pop(message.offset, None) is None:
            self.refuse(message)
            return False
        message.acked = True
        load = self.load
        load.held -= 1
        load.begun -= 1
        memory = load.memory
        memory.bytes -= message.weight
        if load.alarm or memory.is_full or self._waiters:
            self._after((message,))
        return True

    def ack_all(self, messages: Sequence[Message]) -> bool:
        """Let one holder of each message go, as `Message.ack` does; whether all acks counted."""
        if self.ledger.is_shut or any(message.refcount != 1 for message in messages):
            left = [message for message in messages if not message.acked]
            return all([message.decref() for message in left or messages])
        weight = 0
        for message in messages:
            message.refcount = 0
            message.acked = True
            weight += message.weight
            del self.begun[message.offset]
        self.load.held -= len(messages)
        self.load.begun -= len(messages)
        self.load.memory.bytes -= weight
        self._after(messages)
        return True

    def refuse(self, message: Message) -> None:
        """Count an ack that changes nothing."""
        if message.acked:
            self.ledger.tally.doubled += 1
        else:
            self.ledger.tally.stale += 1

    def drop_waiting(self) -> int | None:
        """Forget what is fetched and not taken; returns the first offset of it."""
        first = self.first_waiting
        self.load.held -= self.waiting
        self.load.memory.bytes -= sum(self._weights[self._next :])
        self.load.memory.bytes -= sum(sum(weights) for _, weights in self._queue)
        self._records, self._weights, self._next = [], (), 0
        self._queue.clear()
        self._after_fall()
        return first

    def give_back(self, messages: Sequence[Message]) -> None:
        """Let these messages wait again, before those that wait already; an ack of them is stale.

        Messages that are no longer begun are skipped.
        """
        given = [message for message in messages if message.is_open]
        for message in given:
            message.refcount = 0
            del self.begun[message.offset]
        self.taken -= len(given)
        self.load.begun -= len(given)
        # Only what was taken is behind what waits, and all of it was taken before the batches of
        # the queue.
        waiting = [(message.record, message.weight) for message in given]
        waiting += zip(self._records[self._next :], self._weights[self._next :], strict=True)
        waiting.sort(key=_offset)
        self._records = [record for record, _ in waiting]
        self._weights = [weight for _, weight in waiting]
        self._next = 0
        self._is_disordered = self._is_disordered or bool(self.begun)
        self._after(given)

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
        given_up = list(self.begun.values())
        self.load.held -= len(given_up)
        self.load.begun -= len(given_up)
        self.load.memory.bytes -= sum(message.weight for message in given_up)
        self._given_up += len(given_up)
        self.begun.clear()
        self._after(given_up)

    def _after_fall(self) -> None:
        memory = self.load.memory
        if memory.is_full:
            memory.has_fallen()
            if not self.load.held and memory.is_full:
                memory.on_fall()  # an empty channel is always fetched for

    def _after(self, messages: Sequence[Message]) -> None:
        """Note that these messages are no longer begun."""
        if self.load.alarm:
            self.load.on_fall()
        self._after_fall()
        if self._waiters:
            self._tell_waiters(messages)

    def _tell_waiters(self, messages: Sequence[Message]) -> None:
        waiters: list[_Waiter] = []
        done: list[_Waiter] = []
        for waiter in self._waiters:
            for message in messages:
                waiter.left.discard(message.offset)
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
        self.is_held = False  # what waits stays where it is, and none of it is taken
        self.start = position  # where the epoch began; None as long as only the broker knows
        self.must_commit: int | None = None
        self.is_proven = True
        self.must_refetch = False  # the client is ahead of the position: seek it back first

    def open_lane(self, load: Load) -> Lane:
        """A share for one more channel; it gets what is fetched from now on."""
        lane = Lane(self, load)
        self.lanes.append(lane)
        return lane

    def close_lane(self, lane: Lane) -> None:
        """The channel listens no more; what it has begun still holds the offset back."""
        self.lanes.remove(lane)
        first = lane.drop_waiting()
        if not self.lanes:
            self._rewind(first)  # nobody has had it
        left = (*self._left, lane)
        self._acked_of_gone += sum(lane.acked for lane in left if not lane.begun)
        self._left = [lane for lane in left if lane.begun]

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

    def fetched(self, records: Sequence[Record]) -> int:
        """Enter a batch into every lane; returns how many records were entered.

        Without lanes none is, and it has to be fetched again once there is one; nor is what the
        client brings before it was sought to where it has to fetch again.
        """
        if not self.must_refetch:
            self.is_proven = True
        if not self.lanes or self.must_refetch:
            if self.position is None:
                self.position = self.start = records[0].offset
            self.must_refetch = True
            return 0
        if self.start is None:
            self.start = records[0].offset
        weighed = weights(records)
        for lane in self.lanes:
            lane.put(records, weighed)
        self.position = records[-1].offset + 1
        return len(records)

    def is_behind(self, offset: int) -> bool:
        """Whether the client, which brings a record of this offset, was reset to a place before
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
            yield from lane.begun.values()

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
