"""One call of a handler by a test: the message, the run of the app, and the result.

Look here for what a call changes in the handler and in the app, and for what its result is made
from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import trio

from transport.app import App
from transport.drivers.memory import MemoryBroker, MemoryDriver
from transport.handling.attempts import Attempts
from transport.handling.observer import Held, Observer
from transport.handling.plan import Plan
from transport.handling.retry import Retry
from transport.leaves import leaves
from transport.message import AnyMessage, Batch
from transport.settings import Settings
from transport.testing.invariants import Place
from transport.testing.outcomes import Failure
from transport.testing.replacement import replaced
from transport.testing.results import Outcome, Result, Sent, sent_from
from transport.topic import Topic
from transport.types import TP


class CallTimeout(AssertionError):
    """A handler has not finished its messages in time."""


@attrs.frozen(kw_only=True)
class _AtOnce(Retry):
    """The same retries, without their delays.

    Attributes:
        delays: the delays that were left out and not reported yet.
    """

    delays: list[float] = attrs.field(factory=list, eq=False)

    def delay(self, failed: int) -> float:
        self.delays.append(super().delay(failed))
        return 0.0


def _at_once(retry: Retry) -> _AtOnce:
    return _AtOnce(**{each.name: getattr(retry, each.name) for each in attrs.fields(Retry)})


@attrs.frozen
class HandlerCall:
    """One call of a handler.

    Attributes:
        plan: the plan of the handler in the app.
        messages: the arguments of `Topic.send` for each message.
        topic: the name of the topic of the messages.
    """

    app: App
    broker: MemoryBroker
    plan: Plan
    messages: Sequence[Mapping[str, Any]]
    topic: str
    timeout: float

    async def make(self) -> Result:
        """Open the app, send the messages, and close the app when they are finished.

        A checkpoint. Cancelled: the app is closed in order.
        """
        settings = self._begin_at_the_end()
        before = {tp: self.broker.log(tp).end for tp in self._partitions()}
        retry = _at_once(self.plan.retry)
        batch = None if self.plan.batch is None else attrs.evolve(self.plan.batch, linger=0.0)
        plan = attrs.evolve(self.plan, retry=retry, batch=batch)
        watch = _Watch(retry.delays)
        driver = MemoryDriver(broker=self.broker)
        with replaced(self.app, driver, [plan], settings):
            self.app.handlers.observers.append(watch)
            with _one_error():
                async with self.app:
                    places = await self._send()
                    with trio.move_on_after(self.timeout) as scope:
                        await watch.wait_for(places)
                    if scope.cancelled_caught:
                        raise CallTimeout(self._unfinished(watch, places))
        return await self._result(watch, places, before)

    def _begin_at_the_end(self) -> Settings:
        """Create the topic, and let the app begin at its end. Return the settings for that.

        So the first message is that of this call, whatever `auto_offset_reset` is.
        """
        settings = self.app.settings
        ends = {tp: self.broker.log(tp).end for tp in self.broker.partitions(self.topic)}
        if settings.client.is_member:
            self.broker.group(self.app.id).offsets.update(ends)
            return settings
        client = attrs.evolve(settings.client, partitions=ends, client_only=False)
        return attrs.evolve(settings, client=client)

    def _partitions(self) -> list[TP]:
        return [tp for topic in sorted(self.broker.topics) for tp in self.broker.partitions(topic)]

    async def _send(self) -> list[Place]:
        """Send the messages, and return their places."""
        key_codec, value_codec = self.plan.topic.channel.codecs
        deliveries = []
        for message in self.messages:
            topic: Topic[Any, Any] = Topic(
                self.app,
                self.topic,
                key_type=None if isinstance(message.get("key"), bytes) else key_codec,
                value_type=None if isinstance(message.get("value"), bytes) else value_codec,
            )
            deliveries.append(await topic.send(**message, source=None))
        written = [await delivery for delivery in deliveries]
        return [(TP(each.topic, each.partition), each.offset) for each in written]

    def _unfinished(self, watch: _Watch, places: Sequence[Place]) -> str:
        tp, offset = next(place for place in places if place not in watch.outcomes)
        return (
            f"the handler {self.plan.name} has not finished {tp} offset {offset} within"
            f" {self.timeout:g} s, after {len(watch.failures)} failed attempts"
        )

    async def _result(
        self, watch: _Watch, places: Sequence[Place], before: Mapping[TP, int]
    ) -> Result:
        sent: list[Sent[Any, Any]] = []
        letters: list[Sent[Any, Any]] = []
        topics = list(self.app._topics)
        for tp in self._partitions():
            for record in self.broker.log(tp).committed_records():
                if record.offset < before.get(tp, 0) or (tp, record.offset) in places:
                    continue
                names = {name for name, _ in record.headers}
                to = letters if self._has_letters(tp.topic) and "dead.topic" in names else sent
                to.append(await sent_from(record, tp, topics))
        return Result(
            outcomes=tuple(watch.outcomes[place] for place in places),
            acked=all(self._is_committed(watch, place) for place in places),
            failures=tuple(watch.failures),
            sent=tuple(sorted(sent, key=lambda each: each.timestamp)),
            dead_letters=tuple(sorted(letters, key=lambda each: each.timestamp)),
        )

    def _has_letters(self, topic: str) -> bool:
        letters = self.plan.dead_letters
        return isinstance(letters, Topic) and letters.name == topic

    def _is_committed(self, watch: _Watch, place: Place) -> bool:
        if not self.app.settings.client.is_member:
            return watch.messages[place].acked
        tp, offset = place
        return self.broker.committed(self.app.id).get(tp, 0) > offset


class _Watch(Observer):
    """The events of the called handler.

    Args:
        delays: the delays that were left out, each until its failure is reported.

    Attributes:
        outcomes: how each message has ended.
        messages: the finished messages.
        failures: the failed attempts, with the delays that they have in production.
    """

    def __init__(self, delays: list[float]) -> None:
        self.outcomes: dict[Place, Outcome] = {}
        self.messages: dict[Place, AnyMessage] = {}
        self.failures: list[Failure] = []
        self._delays = delays
        self._change = trio.Event()

    async def wait_for(self, places: Sequence[Place]) -> None:
        """Wait until these messages have ended."""
        while not all(place in self.outcomes for place in places):
            self._change = trio.Event()
            await self._change.wait()

    def on_handled(self, plan: Plan, held: Held) -> None:
        self._end(held, "handled")

    def on_filtered(self, plan: Plan, held: Held) -> None:
        self._end(held, "filtered")

    def on_skipped(self, plan: Plan, held: Held, attempts: Attempts) -> None:
        self._end(held, "skipped")

    def on_dead_letter(self, plan: Plan, held: Held, attempts: Attempts) -> None:
        self._end(held, "dead letter")

    def on_failed(self, plan: Plan, held: Held, attempts: Attempts, delay: float | None) -> None:
        if delay is not None and self._delays:
            delay = self._delays[-1]
        self._delays.clear()
        for message in _each(held):
            self.failures.append(
                Failure(
                    plan.name, message.tp, message.offset, attempts.failed, attempts.error, delay
                )
            )

    def _end(self, held: Held, outcome: Outcome) -> None:
        for message in _each(held):
            self.outcomes[message.tp, message.offset] = outcome
            self.messages[message.tp, message.offset] = message
        self._change.set()


def _each(held: Held) -> Iterable[AnyMessage]:
    return held if isinstance(held, Batch) else (held,)


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
    """If the app raises a group with one error, raise that error."""
    try:
        yield
    except BaseExceptionGroup as group:
        errors = list(leaves(group))
        if len(errors) > 1:
            raise
        raise errors[0] from None
