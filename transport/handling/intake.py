"""The intake of a handler of messages: it takes messages from the channel into the key order.

Look here for how many messages a handler takes in advance, for filters and computed keys, and for
when nothing is taken from a partition. `batch_intake.py` is the intake of a handler of batches.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable
from typing import Any

import trio

from transport.codecs import DecodeError, NotLoaded
from transport.delivering.channel import Channel, Failure
from transport.delivering.ledger import Lane, lane_of
from transport.excerpt import excerpt_of
from transport.handling.attempts import AttemptMemory, Attempts
from transport.handling.key_order import KeyOrder, Partition, Work
from transport.handling.observer import Events
from transport.handling.plan import Plan
from transport.handling.timers import Timers
from transport.message import AnyMessage
from transport.types import TP

logger = logging.getLogger("transport.handler")

# The most turns of partitions to take at once, and the number of ready works that is enough.
_MOST_TURNS, _ENOUGH = 4, 64
# With order="partition" no more than this is taken from a partition in advance.
_MOST_PARKED = 64


def _no_key(message: AnyMessage) -> Hashable:
    return None


def _one_key(message: AnyMessage) -> Hashable:
    return True


def _key_of_record(message: AnyMessage) -> Hashable:
    return message.record.key


_KEYS: dict[str, Callable[[AnyMessage], Hashable]] = {
    "none": _no_key,
    "partition": _one_key,
    "key": _key_of_record,
}


class MessageIntake:
    """The intake of one handler of messages.

    Args:
        memory: the attempts of messages that are redelivered.
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
        retries: Timers[Work[Any]],
        memory: AttemptMemory,
        events: Events,
        on_change: Callable[[], None],
        load: Callable[[Lane, Failure, AnyMessage], None],
    ) -> None:
        self.may_take = False
        self.lanes: dict[TP, Lane] = {}
        self._plan = plan
        self._channel = channel
        self._order = order
        self._retries = retries
        self._memory = memory
        self._events = events
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
        self._held: dict[Partition[AnyMessage], Lane] = {}  # nothing is taken from them now
        self._waited_for: set[Lane] = set()  # held back until a redelivered message begins
        self._window = _MOST_PARKED

    def take(self) -> None:
        """Take waiting messages, until enough of them may begin. Not a checkpoint."""
        channel, order = self._channel, self._order
        is_simple = not self._decodes and not self._memory
        for _ in range(_MOST_TURNS):
            if not (messages := channel.take_some(_ENOUGH if is_simple else 1)):
                self.listen()
                return
            if messages[0].lane is not self._lane:
                self._enter(lane_of(messages[0]))
            partition = self._partition
            assert partition is not None
            if is_simple:
                key_of, put = self._key_of, order.put
                for message in messages:
                    put(Work(message, message.offset, key_of(message)), partition)
            else:
                self._admit(messages[0], partition)
            if partition.parked >= self._window:
                self._hold(partition)
            if len(order.ready) >= _ENOUGH:
                return

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
        # Messages behind busy keys take at most half of the buffer.
        share = self._channel.usage.limit // 2 // len(self.lanes)
        most = _MOST_PARKED if self._plan.order == "partition" else share
        self._window = max(1, min(share, most))

    def _admit(self, message: AnyMessage, partition: Partition[AnyMessage]) -> None:
        """Put a message that needs more than its key: a decoded value, or its earlier attempts."""
        # If the key function fails, the message has the place that it has without that function.
        place = _KEYS[self._plan.order](message)
        work: Work[AnyMessage] = Work(message, message.offset, place)
        failure = self._channel.try_decode(message) if self._decodes else None
        refused = self._refused.pop((partition.tp, message.offset), None)
        if failure is not None and isinstance(failure[1], NotLoaded) and refused is None:
            self._channel.give_back([message])
            self._hold(partition)
            self._load(self.lanes[partition.tp], failure, message)
            return
        attempts = self._memory.find(partition.tp, message.offset)
        if attempts is not None and not self._redeliver(work, attempts, partition):
            return
        try:
            if self._decodes:
                if failure is not None:
                    raise refused or self._channel.decode_error(message, failure)
                if self._plan.filter is not None and not self._plan.filter(message):
                    message.ack()
                    self._events.filtered(message)
                    return
            key = self._key_of(message)
            hash(key)
            work.key = work if key is None else key
        except Exception as error:  # noqa: BLE001 - it is a failure of the message
            failed = work.fail(error, time.time())
            failed.is_spent = True
            self._events.failed(message, failed)
        self._order.put(work, partition, waits=self._waits(work))

    def loaded(self, lane: Lane, error: DecodeError | None) -> None:
        """Take the messages of a lane again, after the load for its next message.

        Args:
            error: the message can never be decoded.
        """
        if error is not None:
            self._refused[error.message.tp, error.message.offset] = error
        self.release(lane)
        self._on_change()

    def _waits(self, work: Work[AnyMessage]) -> bool:
        """Enter a redelivered message into the retries; return whether it has to wait."""
        attempts = work.attempts
        if attempts is None or attempts.is_spent or attempts.due <= trio.current_time():
            return False
        self._retries.add(work, attempts.due)
        return True

    def _redeliver(
        self, work: Work[AnyMessage], attempts: Attempts, partition: Partition[AnyMessage]
    ) -> bool:
        """Prepare a message that has failed in an aborted transaction; False: it waits again.

        All messages below it are committed first, and no message above it begins before it.
        """
        message = work.held
        ledger = lane_of(message).ledger
        uncommitted = ledger.uncommitted
        if uncommitted is not None and uncommitted < message.offset:
            ledger.must_commit = message.offset
            self._channel.give_back([message])
            return False
        self._memory.remove(partition.tp, message.offset)
        work.attempts = attempts
        if not attempts.is_spent and attempts.due > trio.current_time():
            lane = lane_of(message)
            self._hold(partition)
            self._waited_for.add(lane)
        return True

    def _hold(self, partition: Partition[AnyMessage]) -> None:
        """Take no more messages of a partition for now."""
        if partition in self._held:
            return
        lane = self.lanes[partition.tp]
        self._held[partition] = lane
        self._channel.hold(lane)
        failed = [head for head in partition.heads.values() if head.attempts is not None]
        if failed and len(self.lanes) > 1:
            self._channel.block(lane)
        if failed and self._plan.order == "key" and partition.parked >= self._window:
            blocking = min(failed, key=lambda head: head.offset)
            logger.warning(
                "handler %s: %d messages of %s wait behind keys whose message has failed, such as"
                " the key %s at offset %d. Nothing more of this partition begins until fewer wait",
                *(self._plan.name, partition.parked, partition.tp),
                *(excerpt_of(blocking.held.record.key), blocking.offset),
            )

    def block(self, lane: Lane) -> None:
        """React to a message of a lane that waits for its retry. Not a checkpoint.

        With order="partition", nothing of the lane can begin meanwhile. Otherwise other keys go on,
        until too many messages are parked (`_hold`).
        """
        if self._plan.order == "partition" and len(self.lanes) > 1:
            self._channel.block(lane)

    def unblock(self, lane: Lane) -> None:
        """React to a message of a lane whose retry is due. Not a checkpoint."""
        self._channel.unblock(lane)
        if lane in self._waited_for:
            self._waited_for.discard(lane)
            self.release(lane)

    def done(self, partition: Partition[Any]) -> None:
        """Take messages of a partition again, if few enough of them are parked."""
        if self._held and partition in self._held and partition.parked <= self._window // 2:
            self.release(self._held[partition])

    def release(self, lane: Lane) -> None:
        """Take messages of a lane again, if it was held back."""
        for partition, held in list(self._held.items()):
            if held is lane:
                del self._held[partition]
                self._channel.unblock(lane)
                self._channel.release(lane)
                self.may_take = True

    def forget(self, lane: Lane) -> None:
        """Forget a lane that has ended."""
        if self.lanes.get(lane.ledger.tp) is lane:
            del self.lanes[lane.ledger.tp]
        for partition in [each for each, held in self._held.items() if held is lane]:
            del self._held[partition]
        self._waited_for.discard(lane)
