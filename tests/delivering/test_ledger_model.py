"""The ledger in any order of events, against a model that remembers every record.

The model does what the ledger avoids: it keeps, for each channel, a set of what it waits for, what
it has begun and what it has done, and looks through all of them. It shares no code with the ledger.
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
from transport.weights import Held

ORDERS = TP("orders", 0)
LIMIT = 1000
index = st.integers(min_value=0, max_value=10**6)


@attrs.define
class Channel:
    """What one channel has had in one epoch, offset by offset."""

    lane: Lane
    listens: bool = True
    due: list[int] = attrs.field(factory=list)  # what it is to be given, in order, no more, no less
    given: list[int] = attrs.field(factory=list)
    begun: set[int] = attrs.field(factory=set)

    @property
    def waits_for(self) -> list[int]:
        return self.due[len(self.given) :]


@attrs.define
class Given:
    """A message in a handler's hands, what it was given for, and what has become of it.

    A batch makes its messages when one of them is asked for.
    """

    offset: int
    make: Callable[[], Message]
    channel: Channel
    epoch: int
    holders: int = 1
    was_acked: bool = False
    is_back: bool = False  # no handler has got it after all

    @property
    def message(self) -> Message:
        return self.make()


def weight_in(lane: Lane) -> int:
    """What a lane holds, added up from its parts: what waits, and what is begun."""
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
        self.memory = Held()
        self.loads = [BufferUsage(LIMIT, memory=self.memory) for _ in range(3)]
        self.listeners = {0}
        self.assignment.assign([ORDERS], self.generation)
        self.begin_epoch(position=start, known=False)

    def begin_epoch(self, position: int, *, known: bool) -> None:
        self.client_position = position
        self.entered: int | None = position if known else None  # all before it was for somebody
        self.committed: int | None = None
        self.missed: int | None = None  # the first that came, and nobody has had or will have
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
        wanted = self.ledger.refetching
        if self.missed is not None and self.open_channels:
            assert self.is_same_place(wanted, self.missed)
            assert wanted is not None
            self.ledger.sought_back()
            self.client_position = self.entered = wanted
            self.missed = None
        else:
            assert wanted is None

    def is_same_place(self, offset: int | None, expected: int | None) -> bool:
        """Whether reading on at either offset brings the same records, and none is skipped."""
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
        """Some records, in portions.

        The header of a fetch tells the offsets around the records, and a number of records, but
        neither exactly.
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
        new = self.ledger.fetched(Encoded(*parts, first=first, end=end, count=count, weight=weight))
        if not self.open_channels:
            assert not new
            if self.missed is None:
                self.missed = first if self.entered is None else self.entered
        else:
            assert new
            self.entered = end
            for channel in self.open_channels.values():
                channel.due += found
            assert all(self.ledger.is_behind(offset) for offset in found)
            assert not self.ledger.is_behind(self.entered)

    @precondition(lambda self: not self.draining)
    @rule()
    def reach_the_end(self) -> None:
        """The client has read to the end and knows that only markers are left."""
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
            channel = Channel(self.ledger.open_lane(self.loads[who]))
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
            # Nobody else has it, and it must come again.
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
        assert offset == channel.waits_for[0]  # I6: in order, none twice, none left out
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
        """Of any message that was ever given: late, twice or from an epoch long ago."""
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
        """Some messages of a channel, which no handler has got after all."""
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
        """What comes back to a channel that gets nothing any more."""
        channel.due = channel.given[:]
        if channel in self.open_channels.values() or not self.open_channels:
            self.miss(min(back))

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
    def let_go_and_get_back(self, lost: bool, later: int, somewhere: int) -> None:
        self.drain_model()
        safe = self.expected_safe()
        old = self.ledger
        assert self.assignment.let_go([ORDERS], lost=lost) == [old]
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
        """I4: when all that was fetched is acked, the next commit reaches the end of the log."""
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
    def what_is_safe_is_what_nobody_has_yet_to_do(self) -> None:
        assert self.is_same_place(self.ledger.safe, self.expected_safe())

    @invariant()
    def no_commit_passes_a_message_that_is_fetched_and_not_acked(self) -> None:
        due = self.ledger.due  # I1
        for channel in self.channels:
            for offset in [*channel.begun, *channel.waits_for]:
                assert due is None or due <= offset
                assert self.committed is None or self.committed <= offset

    @rule()
    def look_at_the_unacked(self) -> None:
        """No invariant: it makes the messages of all batches."""
        expected = sorted(offset for channel in self.channels for offset in channel.begun)
        assert sorted(message.offset for message in self.ledger.unacked) == expected

    @invariant()
    def idle_means_that_nothing_waits_and_nothing_is_begun(self) -> None:
        idle = not any(channel.begun or channel.waits_for for channel in self.channels)
        assert self.ledger.is_idle == idle

    @invariant()
    def the_load_is_what_is_in_hand(self) -> None:
        assert sum(load.begun for load in self.loads) == sum(len(c.begun) for c in self.channels)
        held = sum(load.held for load in self.loads)
        waiting = sum(channel.lane.waiting for channel in self.channels)
        assert held == sum(len(c.begun) for c in self.channels) + waiting
        if not any(channel.waits_for for channel in self.channels):
            assert waiting == 0, "nothing is counted that is not there"

    @invariant()
    def what_is_not_held_weighs_nothing(self) -> None:
        assert self.memory.bytes >= 0
        if not any(channel.begun or channel.waits_for for channel in self.channels):
            assert self.memory.bytes == 0

    @invariant()
    def the_weight_in_memory_is_that_of_what_the_lanes_hold(self) -> None:
        lanes = [channel.lane for channel in self.channels]
        assert self.memory.bytes == sum(map(weight_in, lanes))

    @invariant()
    def acks_that_change_nothing_are_counted(self) -> None:
        tally = self.assignment.tally
        assert (tally.doubled, tally.stale) == (self.doubled, self.stale)

    @invariant()
    def a_drain_ends_when_nothing_is_begun(self) -> None:
        ends: list[bool] = []
        self.ledger.when_empty(lambda: ends.append(True))
        assert bool(ends) == (not any(channel.begun for channel in self.channels))


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(stateful_step_count=50)
