"""The intake of a handler of messages: it takes messages from the channel into the key order.

Look here for how many messages a handler takes in advance, for filters and computed keys, and for
when nothing is taken from a partition. `batch_intake.py` is the intake of a handler of batches.
"""

from __future__ import annotations

import enum
import functools
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from transport.codecs import DecodeError, NotLoaded
from transport.delivering.channel import Channel, Failure
from transport.delivering.ledger import Lane
from transport.excerpt import excerpt_of
from transport.handling.key_order import KeyOrder, Partition, Work
from transport.handling.observer import Events
from transport.handling.plan import Plan
from transport.handling.redelivery import Redelivery
from transport.log import Log
from transport.message import AnyMessage
from transport.types import TP

# The most turns of partitions to take at once, and the number of ready works that is enough.
_MOST_TURNS, _ENOUGH = 4, 64
# At most so many times the buffer's limit of offsets may lie beyond an unacked message.
_MOST_BEYOND = 8
# With order="partition" no more than this is taken from a partition in advance.
_MOST_PARKED = 64


def _no_key(message: AnyMessage) -> Hashable:
    return None


def _one_key(message: AnyMessage) -> Hashable:
    return True


def _key_of_record(message: AnyMessage) -> Hashable:
    return message.record.key


class _Hold(enum.Enum):
    """Why no messages are taken from a lane."""

    CROWD = "too many messages are parked behind their keys, or wait for their retry"
    LOAD = "the next message cannot be decoded before a load"
    REPLAY = "too many messages are done beyond one that is not, and a crash would repeat them"


_KEYS: dict[str, Callable[[AnyMessage], Hashable]] = {
    "none": _no_key,
    "partition": _one_key,
    "key": _key_of_record,
}


class MessageIntake:
    """The intake of one handler of messages.

    Args:
        redelivery: the messages that have failed in aborted transactions.
        on_change: called when the channel may have messages again, or has ended.
        load: loads what a message needs to be decoded, and then calls `loaded`.

    Attributes:
        may_take: whether the channel may have messages to take.
        lanes: the lanes of the partitions from which messages were taken.
    """

    def __init__(
        self,
        plan: Plan,
        channel: Channel,
        order: KeyOrder[Any],
        redelivery: Redelivery,
        events: Events,
        log: Log,
        on_change: Callable[[], None],
        load: Callable[[Lane, Failure, AnyMessage], None],
    ) -> None:
        self.may_take = False
        self.lanes: dict[TP, Lane] = {}
        self._plan = plan
        self._channel = channel
        self._order = order
        self._redelivery = redelivery
        self._events = events
        self._log = log
        self._on_change = on_change
        self._load = load
        self._refused: dict[tuple[TP, int], DecodeError] = {}  # errors that a load has found
        self._is_listening = False  # the channel will call `_listen_again`
        # A filter, and a key that is computed, need the decoded message.
        self._decodes = plan.decodes_early
        self._key_of = _KEYS[plan.order] if plan.key is None else plan.key
        # The lane from which messages were taken last, and the works of its partition.
        self._lane: Lane | None = None
        self._partition: Partition[AnyMessage] | None = None
        self._holds: dict[Lane, set[_Hold]] = {}  # of the lanes from which nothing is taken now
        self._reported: set[Lane] = set()  # the crowded lanes of which a warning was given
        self._window = _MOST_PARKED
        # Messages that are taken long before they begin cost time in the garbage collector.
        self._enough = min(_ENOUGH, plan.concurrency)
        self._most_beyond = _MOST_BEYOND * channel.usage.limit
        # For lanes with too many messages beyond an unacked one: the offset that it must reach.
        self._must_reach: dict[Lane, int] = {}

    def take(self) -> None:
        """Take waiting messages, until enough of them may begin. Not a checkpoint."""
        channel, order = self._channel, self._order
        is_simple = not self._decodes and not self._redelivery
        self._set_window()
        for _ in range(_MOST_TURNS):
            if (lane := channel.turn()) is None:
                self.listen()
                return
            if lane is not self._lane:
                self._enter(lane)
            partition = self._partition
            assert partition is not None
            most = min(_ENOUGH, self._window - partition.held_up)
            messages = channel.take_some(most) if most > 0 else []
            if not messages:
                pass
            elif is_simple:
                key_of, put = self._key_of, order.put
                for message in messages:
                    put(Work(message, message.offset, key_of(message)), partition)
            else:
                self._admit_all(messages, lane, partition)
            self._bound_crowd(lane, partition)
            if messages:
                self._bound_replay(lane, messages[-1].offset)
            if len(order.ready) >= self._enough:
                return

    def _bound_replay(self, lane: Lane, last: int) -> None:
        """Take nothing more from a lane if a crash would repeat too many acked messages.

        Args:
            last: the offset of the last message that was taken.
        """
        oldest = lane.oldest_begun
        if oldest is None or last - oldest <= self._most_beyond:
            return
        self._must_reach[lane] = last - self._most_beyond // 2
        self._hold(lane, _Hold.REPLAY)
        # `done` is not called if another holder of the message acks it.
        lane.when_empty(functools.partial(self._end_replay, lane))
        self._log.warning(
            "replay_bounded",
            "handler %s: %s offset %d is not done, and %d offsets beyond it have begun. Nothing"
            " more of its partition begins until it is done: a crash would repeat all of them",
            *(self._plan.name, lane.ledger.tp, oldest, last - oldest),
            handler=self._plan.name,
            partitions=[lane.ledger.tp],
            offset=oldest,
            count=last - oldest,
        )

    def filled(self, lane: Lane) -> None:
        """Do nothing about new messages: the channel wakes the handler."""

    def listen(self) -> None:
        """Note that there is nothing to take until the channel calls. Not a checkpoint."""
        self.may_take = False
        if not self._is_listening:
            self._is_listening = True
            self._channel.call_at_change(self._listen_again)

    def _listen_again(self) -> None:
        self._is_listening = False
        self.may_take = True
        self._on_change()

    def _enter(self, lane: Lane) -> None:
        """Note the lane from which messages are taken now."""
        tp = lane.ledger.tp
        self._lane, self._partition = lane, self._order.partition(tp)
        self.lanes[tp] = lane

    def _set_window(self) -> None:
        """Set the most messages of a partition that may be held up.

        They take at most half of the buffer, also if those of all assigned partitions are held up.
        """
        share = self._channel.usage.limit // 2 // max(1, len(self._channel.lanes))
        most = _MOST_PARKED if self._plan.order == "partition" else share
        self._window = max(1, min(share, most))

    def _admit_all(
        self, messages: Sequence[AnyMessage], lane: Lane, partition: Partition[AnyMessage]
    ) -> None:
        """Put messages that need more than their keys; return those that must wait in the lane."""
        for index, message in enumerate(messages):
            failure = self._channel.try_decode(message) if self._decodes else None
            if not self._can_admit(message, lane, failure):
                self._channel.give_back(messages[index:])
                return
            self._admit(message, lane, partition, failure)

    def _can_admit(self, message: AnyMessage, lane: Lane, failure: Failure | None) -> bool:
        """Return whether a message may be put now, and hold back its lane if it may not."""
        if lane in self._holds:  # for the message before it
            return False
        must_load = failure is not None and isinstance(failure[1], NotLoaded)
        if failure is not None and must_load and (message.tp, message.offset) not in self._refused:
            self._hold(lane, _Hold.LOAD)
            self._load(lane, failure, message)
            return False
        return True

    def _admit(
        self,
        message: AnyMessage,
        lane: Lane,
        partition: Partition[AnyMessage],
        failure: Failure | None,
    ) -> None:
        """Put a message that needs a decoded value, or that has failed in an aborted transaction.

        A message that the filter refuses is acked.
        """
        # If the key function fails, the message has the place that it has without that function.
        work: Work[AnyMessage] = Work(message, message.offset, _KEYS[self._plan.order](message))
        waits = self._redelivery.recall(work)
        is_spent = work.attempts is not None and work.attempts.is_spent
        try:
            if failure is not None:
                refused = self._refused.pop((partition.tp, message.offset), None)
                raise refused or self._channel.decode_error(message, failure)
            # A message without further attempts is given up, whatever the filter returns now.
            keep = None if is_spent else self._plan.filter
            if keep is not None and not keep(message):
                message.ack()
                self._events.filtered(message)
                return
            key = self._key_of(message)
            hash(key)
            work.key = work if key is None else key
        except Exception as error:  # noqa: BLE001 - it is a failure of the message
            if not is_spent:  # it was counted in an aborted transaction
                failed = work.fail(error, time.time())
                failed.is_spent = True
                self._events.failed(message, failed)
        self._order.put(work, partition, waits=waits)

    def loaded(self, lane: Lane, error: DecodeError | None) -> None:
        """Take the messages of a lane again, after the load for its next message.

        Args:
            error: the message can never be decoded.
        """
        if error is not None:
            self._refused[error.message.tp, error.message.offset] = error
        self._unhold(lane, _Hold.LOAD)
        self._on_change()

    def _hold(self, lane: Lane, why: _Hold) -> None:
        """Take no more messages of a lane for now."""
        self._holds.setdefault(lane, set()).add(why)
        self._channel.hold(lane)

    def _unhold(self, lane: Lane, *why: _Hold) -> None:
        """Take messages of a lane again, unless another reason to hold it back is left."""
        if (holds := self._holds.get(lane)) is None:
            return
        holds.difference_update(why)
        if _Hold.CROWD in why:
            self._reported.discard(lane)
        if not holds:
            del self._holds[lane]
            self._channel.release(lane)
            self.may_take = True

    def _report_crowd(self, lane: Lane, partition: Partition[AnyMessage]) -> None:
        """Warn if messages are parked behind keys whose message has failed."""
        if self._plan.order != "key" or lane in self._reported:
            return
        failed = [head for head in partition.heads.values() if head.attempts is not None]
        if failed:
            self._reported.add(lane)
            blocking = min(failed, key=lambda head: head.offset)
            self._log.warning(
                "keys_wait",
                "handler %s: %d messages of %s wait behind keys whose message has failed, such as"
                " the key %s at offset %d. Nothing more of this partition begins until fewer wait",
                *(self._plan.name, partition.held_up, partition.tp),
                *(excerpt_of(blocking.key), blocking.offset),
                handler=self._plan.name,
                partitions=[partition.tp],
                offset=blocking.offset,
                count=partition.held_up,
            )

    def held_up(self, lane: Lane) -> None:
        """React to a message of a lane that waits for its retry. Not a checkpoint."""
        if (partition := self._order.partitions.get(lane.ledger.tp)) is not None:
            self._bound_crowd(lane, partition)

    def _bound_crowd(self, lane: Lane, partition: Partition[Any]) -> None:
        """Take nothing more from a lane if too many of its messages are held up."""
        if partition.held_up >= self._window:
            self._hold(lane, _Hold.CROWD)
            self._report_crowd(lane, partition)

    def done(self, partition: Partition[Any]) -> None:
        """Take messages of a partition again, if few enough of them are held up."""
        if not self._holds or (lane := self.lanes.get(partition.tp)) is None:
            return
        if partition.held_up <= self._window // 2:
            self._unhold(lane, _Hold.CROWD)
        if (goal := self._must_reach.get(lane)) is not None:
            oldest = lane.oldest_begun
            if oldest is None or oldest >= goal:
                self._end_replay(lane)

    def _end_replay(self, lane: Lane) -> None:
        """Take messages of a lane again: a crash would repeat few enough."""
        self._must_reach.pop(lane, None)
        self._unhold(lane, _Hold.REPLAY)

    def release(self, lane: Lane) -> None:
        """Take messages of a lane again after all of them were returned. Not a checkpoint."""
        self._must_reach.pop(lane, None)
        self._unhold(lane, _Hold.CROWD, _Hold.REPLAY)

    def forget(self, lane: Lane) -> None:
        """Forget a lane that has ended."""
        tp = lane.ledger.tp
        if self.lanes.get(tp) is lane:
            del self.lanes[tp]
        self._holds.pop(lane, None)
        self._must_reach.pop(lane, None)
        self._reported.discard(lane)
        for place in [place for place in self._refused if place[0] == tp]:
            del self._refused[place]
