"""The set of topic objects: which channels receive which topics, and which topics to subscribe.

Look here for `app.conductor`, for topic patterns, and for the way from a fetch to the channels.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Collection, Iterator, MutableSet
from typing import Any, Protocol, runtime_checkable

import trio

from nurseries import Service
from transport.arguments import instance, topic_name
from transport.codecs import Codec
from transport.consuming.host import Host
from transport.delivering.channel import Channel
from transport.delivering.decoding import Codecs, Decoded
from transport.delivering.ledger import Ledger
from transport.errors import AppClosed
from transport.fetched import Fetched, FetchedRecords
from transport.log import Log
from transport.types import TP, Record
from transport.weights import MemoryUsage

# The numbers of topic objects of one name that cause a warning: of objects with the same types, and
# of all objects.
_MANY_ALIKE, _MANY = 3, 8


@runtime_checkable
class Listener(Protocol):
    """A topic object, as far as the conductor uses it."""

    @property
    def name(self) -> str: ...

    @property
    def pattern(self) -> re.Pattern[str] | None:
        """The pattern that the names of its topics match. None: it has one topic, by name."""

    @property
    def channel(self) -> Channel:
        """The channel that receives its messages."""

    def matches(self, topic: str) -> bool:
        """Return whether the object receives the messages of a topic with this name."""


class Conductor(Service, MutableSet["Listener"]):
    """A mutable set of topic objects; each fetch goes to the channels of its topic.

    A change of the set while the app runs changes the subscription. A burst of changes causes one
    change of the subscription.

    Attributes:
        memory: the weight of the messages in all channels.
        on_change: called when topics are added or discarded, and when fetching may resume.
    """

    def __init__(self, app: Host) -> None:
        super().__init__("Conductor")
        self.app = app
        self._log = Log("transport.consumer", app.id)
        self.memory = MemoryUsage(app.settings.buffer_bytes, on_fall=lambda: self.on_change())
        self._channels: dict[str, dict[Listener, Channel]] = {}
        self._patterns: dict[Listener, None] = {}
        # All channels that have ever listened: iterators of a discarded topic must end as well.
        self._known: weakref.WeakKeyDictionary[Channel, None] = weakref.WeakKeyDictionary()
        self._subscribed: frozenset[str] = frozenset()
        self._found: frozenset[str] = frozenset()  # all names ever subscribed to
        self._multiplied: set[str] = set()  # the names that had a warning
        self._end = trio.Event()  # delivery has ended permanently
        self._change = trio.Event()  # set and replaced at each change of the above
        self.on_change: Callable[[], None] = lambda: None

    # The set

    @trio.lowlevel.enable_ki_protection
    def add(self, topic: Listener) -> None:
        """Listen to a topic from now on; a second call does nothing. Not a checkpoint.

        Raises RuntimeError: with transactions, another topic object listens to the topic already.
        ValueError: the setting `partitions` has no partition of the topic to read from.
        """
        _check_topic(topic)
        named = self.app.settings.client.partitions
        if named is not None and not any(topic.matches(tp.topic) for tp in named):
            raise ValueError(
                f"the setting partitions names no partition of {topic.name!r}: add one, as"
                f" TP({topic.name!r}, 0)"
            )
        if topic in self:
            return
        self._known[topic.channel] = None
        if self.has_ended:
            topic.channel.end()
        if topic.pattern is None:
            self._listen(topic, topic.name)
        else:
            self._patterns[topic] = None
        self._changed()

    @trio.lowlevel.enable_ki_protection
    def discard(self, topic: Listener) -> None:
        """Stop listening to a topic; unacked messages may still be acked. Not a checkpoint."""
        _check_topic(topic)
        if topic in self:
            self._patterns.pop(topic, None)
            for name in [name for name, channels in self._channels.items() if topic in channels]:
                self._ignore(topic, name)
            self._changed()

    def clear(self) -> None:
        """Stop listening to all topics."""
        for topic in list(self):
            self.discard(topic)

    def __contains__(self, topic: object) -> bool:
        return topic in self._patterns or any(topic in each for each in self._channels.values())

    def __iter__(self) -> Iterator[Listener]:
        named = {topic: None for channels in self._channels.values() for topic in channels}
        return iter(named | self._patterns)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    # MutableSet compares by content, but a conductor equals only itself.
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    # The subscription

    @property
    def wanted(self) -> frozenset[str]:
        """The names of the topics with at least one channel."""
        return frozenset(self._channels)

    @property
    def may_be_gone(self) -> frozenset[str]:
        """The wanted topics that have existed before, so that their absence is no error.

        The consumer was subscribed to them, or a pattern has found them.
        """
        return frozenset(
            name
            for name, channels in self._channels.items()
            if name in self._found or all(topic.pattern is not None for topic in channels)
        )

    @property
    def subscribed(self) -> frozenset[str]:
        """The names of the topics that the consumer is subscribed to."""
        return self._subscribed

    def on_subscribed(self, topics: frozenset[str]) -> None:
        """Note that the consumer is subscribed to exactly these topics."""
        self._subscribed = topics
        self._found |= topics
        self._notify()

    async def wait_until_wanted(self) -> None:
        """Wait until there is a topic or a pattern in the set. A checkpoint."""
        await trio.lowlevel.checkpoint()
        while not self._channels and not self._patterns:
            await self._change.wait()

    # Patterns

    async def wait_for_patterns(self) -> None:
        """Wait until there is a pattern in the set. A checkpoint."""
        await trio.lowlevel.checkpoint()
        while not self._patterns:
            await self._change.wait()

    async def wait_for_change(self) -> None:
        """Wait until the set or the subscription changes, or delivery ends."""
        await self._change.wait()

    @trio.lowlevel.enable_ki_protection
    def on_topics(self, names: Collection[str]) -> None:
        """Listen to those of all existing topics that match the patterns, and to no others."""
        before = self.wanted
        for topic in self._patterns:
            had = {name for name, channels in self._channels.items() if topic in channels}
            matching = {name for name in names if topic.matches(name)}
            for name in sorted(matching - had):
                self._listen(topic, name)
            for name in sorted(had - matching):
                self._ignore(topic, name)
        if self.wanted != before:
            self._changed()

    async def wait_for_subscriptions(self) -> None:
        """Wait until the consumer is subscribed to the current, non-empty set.

        A checkpoint; cancelling changes nothing. Raises AppClosed: delivery has ended, so no
        subscription will follow.
        """
        await trio.lowlevel.checkpoint()
        while not self._channels or self.wanted != self._subscribed:
            if self.has_ended:
                raise AppClosed("the app is closing")
            await self._change.wait()

    async def maybe_wait_for_subscriptions(self) -> None:
        """Wait as `wait_for_subscriptions` does; return at once if there is no topic."""
        if self._channels:
            await self.wait_for_subscriptions()
        else:
            await trio.lowlevel.checkpoint()

    async def on_client_only_start(self) -> None:
        """Wait until an app without a group (`client_only`) is subscribed to its topics, if any.

        Called when such an app begins to read. A subclass may override it. A checkpoint; cancelling
        changes nothing. Raises AppClosed.
        """
        await self.maybe_wait_for_subscriptions()

    # Messages

    def new_channel(
        self,
        name: str,
        key: Codec[Any] | None,
        value: Codec[Any] | None,
        on_full: Callable[[Channel], None] | None = None,
    ) -> Channel:
        """Return a channel for a topic object, which does not listen yet."""
        consumer, settings = self.app.consumer, self.app.settings
        return Channel(
            name,
            consumer.flow,
            limit=settings.buffer_size,
            key=key,
            value=value,
            on_full=on_full or self._on_full,
            on_unreadable=consumer.on_unreadable,
            scheduler=consumer.scheduler(),
            names_source=consumer.in_transaction,
            memory=self.memory,
        )

    def _on_full(self, channel: Channel) -> None:
        """Notify the consumer that the buffer of a channel is full, or wants messages again."""
        for tp in self.app.consumer.assignment:
            if channel in self._channels.get(tp.topic, {}).values():
                self._on_full_for(tp, channel)

    def _on_full_for(self, tp: TP, channel: Channel) -> None:
        consumer = self.app.consumer
        if channel.is_full and not channel.is_starved:
            consumer.on_buffer_full(tp)
        else:
            consumer.on_buffer_drop(tp)

    @trio.lowlevel.enable_ki_protection
    def add_split(self, topic: Listener) -> None:
        """Listen to a topic as `add` does, with a branch of its channel for each partition.

        Raises RuntimeError: the topic object listens already, and not in this way.
        """
        _check_topic(topic)
        channel = topic.channel
        if not channel.is_split:
            if topic in self:
                raise RuntimeError(
                    f"this topic object of {topic.name!r} is not read by partition: make another"
                    " one with app.topic(), and call partitions() before any other iterator"
                )
            channel.split(lambda tp: self._new_branch(channel, tp))
        self.add(topic)

    def _new_branch(self, channel: Channel, tp: TP) -> Channel:
        return self.new_channel(
            channel.name, *channel.codecs, lambda branch: self._on_full_for(tp, branch)
        )

    def on_records(self, ledger: Ledger, fetched: Fetched) -> None:
        """Enter a fetch into the ledger, and so into the channels. Not a checkpoint.

        Call this in the order of the polls.
        """
        if ledger.put(fetched) and (probe := self.app.probe) is not None:
            probe.fetched(ledger.tp, fetched.count, fetched.weight)

    def on_message(self, ledger: Ledger, record: Record) -> None:
        """Enter one fetched record: the same as `on_records` with a fetch of one record."""
        self.on_records(ledger, FetchedRecords((record,)))

    def channels(self) -> list[Channel]:
        """Return the channels that listen, in the order of their topics."""
        return [channel for channels in self._channels.values() for channel in channels.values()]

    def next_changes(self) -> list[trio.Event]:
        """Return events, one of which is set by a message, a new channel or the end."""
        return [self._change, *(channel.next_change() for channel in self.channels())]

    def is_held_back(self, tp: TP) -> bool:
        """Return whether the partition's topic has no channel, or one that wants no messages.

        The app always fetches for an empty channel, because handlers of other topics may wait for
        its handler.
        """
        channels = self._channels.get(tp.topic)
        return not channels or not all(each.of(tp).wants(tp) for each in channels.values())

    @property
    def acking_topics(self) -> set[str]:
        """The names of the topics whose messages must be acked: all topics with a channel."""
        return set(self._channels)

    def acks_enabled_for(self, topic: str) -> bool:
        """Return whether the messages of a topic must be acked."""
        topic_name("topic", topic)
        return topic in self._channels

    async def commit(self, topics: Collection[str | TP]) -> bool:
        """Commit the safe offsets of some topics or partitions: see `Consumer.commit`."""
        return await self.app.consumer.commit(topics)

    # Ownership

    async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
        """Do nothing about newly assigned partitions; a subclass may override this hook.

        Nothing is fetched from the partitions before the return, so the hook may seek their start
        offsets. `assigned` may be empty. The hook is cancelled when `drain_timeout` has passed.
        """

    def open_lanes(self, ledger: Ledger) -> None:
        """Open a lane for each channel: the partition is assigned, or begins a new epoch."""
        self.forget_decoded(ledger.tp)
        for channel in self._channels.get(ledger.tp.topic, {}).values():
            channel.open_lane(ledger)

    def on_removed(self, tp: TP) -> None:
        """Forget a partition that is not assigned any more."""
        self.forget_decoded(tp)
        for channel in self._channels.get(tp.topic, {}).values():
            channel.close_branch(tp)

    def forget_decoded(self, tp: TP) -> None:
        """Forget the decoded records of the partition: its epoch has ended."""
        for channel in self._channels.get(tp.topic, {}).values():
            if tp.topic in channel.decoded:
                channel.decoded[tp.topic].forget(tp)

    def resume(self, ledgers: Collection[Ledger]) -> None:
        """Resume delivery of these ledgers."""
        for ledger in ledgers:
            ledger.is_suspended = False
        self.reschedule(ledgers)

    def reschedule(self, ledgers: Collection[Ledger]) -> None:
        """Let the channels retry partitions from which they could deliver nothing."""
        for topic in {ledger.tp.topic for ledger in ledgers}:
            for channel in self._channels.get(topic, {}).values():
                channel.reschedule()

    def notify_iterators(self) -> None:
        """Let all iterators try to take a message: flow was resumed."""
        for topic in self:
            topic.channel.notify_all()

    @property
    def has_ended(self) -> bool:
        """Whether delivery has ended permanently."""
        return self._end.is_set()

    async def wait_until_ended(self) -> None:
        """Wait until delivery has ended permanently. A checkpoint."""
        await self._end.wait()

    @trio.lowlevel.enable_ki_protection
    def end(self) -> None:
        """End delivery permanently: all iterators end, also those of discarded topics.

        A later iterator ends at once. Not a checkpoint; a second call changes nothing.
        """
        if self.has_ended:
            return
        self._end.set()
        self._notify()
        for channel in list(self._known):
            channel.end()

    @property
    def label(self) -> str:
        """The name for logs, with the names of the topics."""
        return f"Conductor({', '.join(sorted(self._channels))})"

    @property
    def shortlabel(self) -> str:
        return "Conductor"

    def _listen(self, topic: Listener, name: str) -> None:
        if self.app.consumer.in_transaction and self._channels.get(name):
            # The output of one object could be committed, while an unacked message of the other
            # holds back the offset.
            raise RuntimeError(
                f"with transactions only one topic object may listen to {name!r}: share that object"
            )
        self._channels.setdefault(name, {})[topic] = topic.channel
        self._warn_of_many(topic, name)
        self._share_decoding(name)
        for tp, ledger in self.app.consumer.assignment.items():
            if tp.topic == name and not ledger.is_draining:
                topic.channel.open_lane(ledger)

    def _warn_of_many(self, topic: Listener, name: str) -> None:
        """Warn once about a name with many topic objects: each worker may have made its own.

        The topic objects of handlers do not count: the workers of a handler share one.
        """
        channels = [each for each in self._channels[name].values() if each.holder is None]
        alike = sum(channel.codecs == topic.channel.codecs for channel in channels)
        if name in self._multiplied or (alike < _MANY_ALIKE and len(channels) < _MANY):
            return
        self._multiplied.add(name)
        self._log.warning(
            "many_topic_objects",
            "%d topic objects listen to %r now, and each of them gets every message. If"
            " your workers share the messages, call app.topic(%r) once and iterate over that object"
            " in each worker. app.conductor.discard(topic) removes an object that is no longer"
            " needed",
            len(channels),
            name,
            name,
            topic=name,
            count=len(channels),
        )

    def _ignore(self, topic: Listener, name: str) -> None:
        channels = self._channels[name]
        channel = channels.pop(topic)
        for tp, ledger in self.app.consumer.assignment.items():
            if tp.topic == name:
                channel.close_lane(ledger)
        topic.channel.decoded.pop(name, None)
        self._share_decoding(name)
        if not channels:
            del self._channels[name]

    def _share_decoding(self, name: str) -> None:
        """Let channels of the topic with the same codecs decode each record once.

        The channels share only immutable values.
        """
        by_codecs: dict[Codecs, list[Channel]] = {}
        for channel in self._channels[name].values():
            by_codecs.setdefault(channel.codecs, []).append(channel)
        for channels in by_codecs.values():
            decoded = Decoded(len(channels), self.app.settings.buffer_size)
            for channel in channels:
                channel.decoded.pop(name, None)
                if channel.must_decode and len(channels) > 1:
                    channel.decoded[name] = decoded

    def _changed(self) -> None:
        self._notify()
        self.on_change()

    def _notify(self) -> None:
        self._change.set()
        self._change = trio.Event()


def _check_topic(topic: object) -> None:
    instance("topic", topic, Listener, "a Topic, made by app.topic(name)")
