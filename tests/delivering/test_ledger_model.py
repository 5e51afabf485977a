"""The ledger in random orders of events, compared with a model that remembers every record.

For each channel, the model keeps the offsets that wait, are unacked and are done, and searches all
of them, which the ledger avoids. The model shares no code with the ledger.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.records import Encoded
from transport.delivering.assignment import Assignment
from transport.delivering.ledger import BufferUsage, Lane, Ledger, ledger_of
from transport.message import Batch, Message
from transport.types import TP
from transport.weights import MemoryUsage

ORDERS = TP("orders", 0)
LIMIT = 1000
index = st.integers(min_value=0, max_value=10**6)


@attrs.define
class Channel:
    """The offsets that one channel has received in one epoch.

    Attributes:
        due: all offsets that it must deliver, in order.
        given: those that it has delivered, in order.
        begun: those that are unacked.
        who: the number of its usage.
        earlier: the channels of the same usage in this epoch that have been closed.
    """

    lane: Lane
    who: int
    earlier: list[Channel]
    listens: bool = True
    due: list[int] = attrs.field(factory=list)
    given: list[int] = attrs.field(factory=list)
    begun: set[int] = attrs.field(factory=set)

    @property
    def waits_for(self) -> list[int]:
        return self.due[len(self.given) :]

    @property
    def before(self) -> set[int]:
        """The offsets that earlier channels have delivered."""
        return {offset for channel in self.earlier for offset in channel.given}


@attrs.define
class Given:
    """A delivered message, and its state in the model.

    Attributes:
        make: returns the message. A batch makes its messages when one of them is used.
        is_back: whether it was given back because it reached no handler.
    """

    offset: int
    make: Callable[[], Message]
    channel: Channel
    epoch: int
    holders: int = 1
    was_acked: bool = False
    is_back: bool = False

    @property
    def message(self) -> Message:
        return self.make()


def weight_in(lane: Lane) -> int:
    """Return the weight of a lane: the sum over its waiting records and its unacked messages."""
    weight = lane._share * (len(lane._records) - lane._next)
    weight += sum(fetched.weight for fetched in lane._queue)
    if lane._reading is not None:
        weight += lane._reading.weight
    for entry in lane.begun.values():
        if isinstance(entry, Message) or entry.left is None:
            weight += entry.weight
        else:
            weight += sum(message.weight for message in entry.left.values())
    return weight


class LedgerMachine(RuleBasedStateMachine):
    """One partition of a log with gaps, its client, and up to three channels."""

    @initialize(start=st.integers(0, 3))
    def begin(self, start: int) -> None:
        self.log: list[int] = []  # the offsets that exist
        self.end = start
        self.write(0, 5, 0)
        self.generation = 1
        self.assignment = Assignment()
        self.doubled = self.stale = 0
        self.hands: list[Given] = []
        self.batches: list[tuple[Batch, list[Given]]] = []
        self.memory = MemoryUsage()
        self.usages = [BufferUsage(LIMIT, memory=self.memory) for _ in range(3)]
        self.listeners = {0}
        self.assignment.assign([ORDERS], self.generation)
        self.begin_epoch(position=start, known=False)

    def begin_epoch(self, position: int, *, known: bool) -> None:
        self.client_position = position
        self.entered: int | None = position if known else None  # where entered fetches end
        self.committed: int | None = None
        self.missed: int | None = None  # the first offset that must be fetched again
        self.draining = False
        self.epoch = self.ledger.epoch
        self.channels: list[Channel] = []
        self.open_channels: dict[int, Channel] = {}
        for who in sorted(self.listeners):
            self.listen(who)

    @property
    def ledger(self) -> Ledger:
        return self.assignment[ORDERS]

    # The log

    @rule(gap=st.integers(0, 3), count=st.integers(1, 9), gap_after=st.integers(0, 2))
    def write(self, gap: int, count: int, gap_after: int) -> None:
        self.end += gap
        self.log += range(self.end, self.end + count)
        self.end += count + gap_after

    # The client

    def seek_back_if_asked(self) -> None:
        wanted = self.ledger.refetch_from
        if self.missed is not None and self.open_channels:
            assert self.is_same_place(wanted, self.missed)
            assert wanted is not None
            self.ledger.end_refetch()
            self.client_position = self.entered = wanted
            self.missed = None
        else:
            assert wanted is None

    def is_same_place(self, offset: int | None, expected: int | None) -> bool:
        """Return whether a fetch from either offset returns the same records."""
        if offset is None or expected is None:
            return offset is expected
        return offset <= expected and not any(offset <= at < expected for at in self.log)

    @precondition(lambda self: not self.draining)
    @rule(
        most=st.integers(1, 6),
        portion=st.integers(1, 4),
        early=st.booleans(),
        to_the_next=st.booleans(),
        claim=st.integers(-1, 2),
        weight=st.integers(0, 9),
    )
    def fetch(
        self,
        most: int,
        portion: int = 2,
        early: bool = False,
        to_the_next: bool = False,
        claim: int = 0,
        weight: int = 5,
    ) -> None:
        """Fetch some records, in portions.

        The offsets and the number of records in the header of a fetch may be inexact.
        """
        self.seek_back_if_asked()
        rest = [offset for offset in self.log if offset >= self.client_position]
        found, rest = rest[:most], rest[most:]
        if not found:
            return
        first = self.client_position if early else found[0]
        end = rest[0] if to_the_next and rest else found[-1] + 1
        parts = [found[at : at + portion] for at in range(0, len(found), portion)]
        count = len(found) + claim
        self.client_position = end
        new = self.ledger.put(Encoded(*parts, first=first, end=end, count=count, weight=weight))
        if not self.open_channels:
            assert not new
            if self.missed is None:
                self.missed = first if self.entered is None else self.entered
        else:
            assert new
            self.entered = end
            for channel in self.open_channels.values():
                channel.due += [offset for offset in found if offset not in channel.before]
            assert all(self.ledger.is_behind(offset) for offset in found)
            assert not self.ledger.is_behind(self.entered)

    @precondition(lambda self: not self.draining)
    @rule()
    def reach_the_end(self) -> None:
        """Advance the position to the end of the log if only markers are left."""
        self.seek_back_if_asked()
        if all(offset < self.client_position for offset in self.log):
            self.client_position = max(self.end, self.client_position)
            if self.ledger.is_idle:
                self.ledger.advance(self.client_position)
                if self.missed is None:
                    self.entered = self.client_position

    # Channels

    @precondition(lambda self: not self.draining)
    @rule(who=st.integers(0, 2))
    def listen(self, who: int) -> None:
        self.listeners.add(who)
        if who not in self.open_channels:
            earlier = [channel for channel in self.channels if channel.who == who]
            channel = Channel(self.ledger.open_lane(self.usages[who]), who, earlier)
            self.channels.append(channel)
            self.open_channels[who] = channel

    @rule(who=st.integers(0, 2))
    def listen_no_more(self, who: int) -> None:
        self.listeners.discard(who)
        channel = self.open_channels.pop(who, None)
        if channel is None:
            return
        self.ledger.close_lane(channel.lane)
        if not self.open_channels and channel.waits_for and not self.draining:
            # No other channel has these records, so they must be fetched again.
            self.miss(channel.waits_for[0])
        self.stop_giving(channel)

    def miss(self, offset: int) -> None:
        self.missed = offset if self.missed is None else min(offset, self.missed)

    def stop_giving(self, channel: Channel) -> None:
        channel.listens = False
        channel.due = channel.given[:]

    # Handlers

    @rule(who=st.integers(0, 2))
    def take(self, who: int) -> None:
        channel = self.open_channels.get(who)
        if channel is None:
            return
        if not channel.lane.ready():
            assert not channel.waits_for
            return
        message = channel.lane.take()
        assert message is not None
        self.hand_over(channel, message.offset, lambda: message)

    @rule(who=st.integers(0, 2), most=st.integers(1, 4))
    def take_batch(self, who: int, most: int) -> None:
        channel = self.open_channels.get(who)
        if channel is None or not channel.lane.ready():
            return
        batch = channel.lane.take_batch(most)
        assert 1 <= len(batch) <= most
        offsets = [record.offset for record in batch.records]
        given = [
            self.hand_over(channel, offset, functools.partial(batch.__getitem__, index))
            for index, offset in enumerate(offsets)
        ]
        self.batches.append((batch, given))

    def hand_over(self, channel: Channel, offset: int, make: Callable[[], Message]) -> Given:
        assert offset == channel.waits_for[0]  # I6: in order, without duplicates or gaps
        channel.given.append(offset)
        channel.begun.add(offset)
        given = Given(offset, make, channel, self.epoch)
        self.hands.append(given)
        return given

    @precondition(lambda self: self.hands)
    @rule(which=index)
    def share(self, which: int) -> None:
        given = self.hands[which % len(self.hands)]
        if given.holders:
            given.message.incref()
            given.holders += 1

    @precondition(lambda self: self.hands)
    @rule(which=index)
    def ack(self, which: int) -> None:
        """Ack any message that was ever delivered: also late, twice or from an old epoch."""
        given = self.hands[which % len(self.hands)]
        assert given.message.ack() == self.expect_ack(given)

    @precondition(lambda self: self.batches)
    @rule(which=index)
    def ack_batch(self, which: int) -> None:
        batch, all_given = self.batches[which % len(self.batches)]
        left = [given for given in all_given if not given.was_acked]
        expected = [self.expect_ack(given) for given in left or all_given]
        assert batch.ack() == all(expected)

    def expect_ack(self, given: Given) -> bool:
        if given.holders > 1:
            given.holders -= 1
            return False
        given.holders = 0
        if given.was_acked:
            self.doubled += 1
            return False
        if given.epoch != self.epoch or given.is_back:
            self.stale += 1
            return False
        given.channel.begun.discard(given.offset)
        given.was_acked = True
        return True

    @precondition(lambda self: self.hands)
    @rule(which=st.lists(index, min_size=1, max_size=4))
    def give_back(self, which: list[int]) -> None:
        """Give back some messages of a channel, as if they had reached no handler."""
        chosen = {number % len(self.hands) for number in which}
        channel = self.hands[min(chosen)].channel
        hands = [self.hands[number] for number in sorted(chosen)]
        hands = [given for given in hands if given.channel is channel]
        ledger = ledger_of(hands[0].message)
        ledger.give_back(channel.lane, [given.message for given in hands])
        back = []
        for given in hands:
            is_done = given.was_acked or given.is_back or given.epoch != self.epoch
            if not is_done and given.offset in channel.begun:
                given.is_back = True
                given.holders = 0
                back.append(given.offset)
        if not back:
            return
        channel.begun.difference_update(back)
        channel.given = [offset for offset in channel.given if offset not in back]
        waits_for = channel.due[len(channel.given) + len(back) :]
        if channel in self.open_channels.values() and not self.draining:
            channel.due = channel.given + sorted(back + waits_for)
        else:
            self.stop_giving_back(channel, back)

    def stop_giving_back(self, channel: Channel, back: list[int]) -> None:
        """Drop messages given back to a channel that delivers no more, and note what is missed."""
        channel.due = channel.given[:]
        again = self.open_channels.get(channel.who)
        if not self.open_channels or (again and (self.draining or self.missed is not None)):
            self.miss(min(back))
        elif again is not None:
            again.due = again.given + sorted(back + again.waits_for)

    # Ownership

    def something_was_given(self) -> bool:
        return any(channel.given for channel in self.channels)

    @precondition(something_was_given)
    @rule(somewhere=index)
    def seek(self, somewhere: int) -> None:
        offset = somewhere % (self.end + 2)
        self.assignment.seek(ORDERS, offset)
        self.begin_epoch(offset, known=True)

    @precondition(lambda self: not self.draining and self.something_was_given())
    @rule()
    def drain(self) -> None:
        self.drain_model()
        self.ledger.drain()

    def drain_model(self) -> None:
        waiting = [offset for channel in self.channels for offset in channel.waits_for]
        if waiting:
            self.miss(min(waiting))
        for channel in self.channels:
            self.stop_giving(channel)
        self.draining = True

    @precondition(something_was_given)
    @rule(lost=st.booleans(), later=st.integers(1, 2), somewhere=index)
    def revoke_and_assign_again(self, lost: bool, later: int, somewhere: int) -> None:
        self.drain_model()
        safe = self.expected_safe()
        old = self.ledger
        assert self.assignment.remove([ORDERS], lost=lost) == [old]
        assert ORDERS not in self.assignment
        assert old.due is None
        self.generation += later
        starts = self.assignment.assign([ORDERS], self.generation)
        if later == 1 and not lost and safe is not None:
            assert self.is_same_place(starts[ORDERS], safe)
            self.begin_epoch(starts[ORDERS], known=True)
        else:
            assert starts == {}
            self.begin_epoch(somewhere % (self.end + 2), known=False)

    # Commits

    def expected_safe(self) -> int | None:
        begun = [offset for channel in self.channels for offset in channel.begun]
        waiting = [offset for channel in self.channels for offset in channel.waits_for]
        front = self.entered if self.missed is None else self.missed
        if front is None:
            assert not begun
            assert not waiting
            return None
        return min([front, *begun, *waiting])

    @rule()
    def commit(self) -> None:
        for ledger, offset in self.assignment.due().items():
            assert self.committed is None or offset > self.committed  # I2
            ledger.committed = self.committed = offset

    @precondition(lambda self: not self.draining)
    @rule()
    def finish_everything(self) -> None:
        """I4: when everything fetched is acked, the next commit reaches the end of the log."""
        self.listen(0)
        self.fetch(10**6)
        for who in list(self.open_channels):
            while self.open_channels[who].waits_for:
                self.take(who)
        for given in self.hands:
            while given.epoch == self.epoch and not (given.was_acked or given.is_back):
                assert given.message.ack() == self.expect_ack(given)
        self.reach_the_end()
        self.commit()
        assert self.committed == max(self.end, self.client_position)

    # After each step

    @invariant()
    def safe_offset_is_the_first_offset_that_is_not_done(self) -> None:
        assert self.is_same_place(self.ledger.safe, self.expected_safe())

    @invariant()
    def no_commit_passes_a_message_that_is_fetched_and_not_acked(self) -> None:
        due = self.ledger.due  # I1
        for channel in self.channels:
            for offset in [*channel.begun, *channel.waits_for]:
                assert due is None or due <= offset
                assert self.committed is None or self.committed <= offset

    @rule()
    def match_unacked_messages(self) -> None:
        """Compare `Ledger.unacked`. An invariant would make the messages of every batch."""
        expected = sorted(offset for channel in self.channels for offset in channel.begun)
        assert sorted(message.offset for message in self.ledger.unacked) == expected

    @invariant()
    def ledger_is_idle_without_waiting_and_unacked_messages(self) -> None:
        idle = not any(channel.begun or channel.waits_for for channel in self.channels)
        assert self.ledger.is_idle == idle

    @invariant()
    def buffer_usage_counts_waiting_and_unacked_messages(self) -> None:
        assert sum(usage.begun for usage in self.usages) == sum(len(c.begun) for c in self.channels)
        held = sum(usage.held for usage in self.usages)
        waiting = sum(channel.lane.waiting for channel in self.channels)
        assert held == sum(len(c.begun) for c in self.channels) + waiting
        if not any(channel.waits_for for channel in self.channels):
            assert waiting == 0, "no record waits, so none may be counted"

    @invariant()
    def memory_is_0_when_no_message_is_held(self) -> None:
        assert self.memory.bytes >= 0
        if not any(channel.begun or channel.waits_for for channel in self.channels):
            assert self.memory.bytes == 0

    @invariant()
    def memory_is_the_sum_of_the_weights_of_the_lanes(self) -> None:
        lanes = [channel.lane for channel in self.channels]
        assert self.memory.bytes == sum(map(weight_in, lanes))

    @invariant()
    def acks_that_change_nothing_are_counted(self) -> None:
        tally = self.assignment.tally
        assert (tally.doubled, tally.stale) == (self.doubled, self.stale)

    @invariant()
    def when_empty_calls_at_once_only_without_unacked_messages(self) -> None:
        ends: list[bool] = []
        self.ledger.when_empty(lambda: ends.append(True))
        assert bool(ends) == (not any(channel.begun for channel in self.channels))


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(stateful_step_count=50)
