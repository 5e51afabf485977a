"""The calls from the parts of an app to its monitor.

The parts report batches, commits and rebalances, never single messages. Without a monitor nothing
is called. A monitor is the user's code, and its error must not interrupt a change of state. So the
`Probe` catches the error and ends the app with it.
"""

from __future__ import annotations

import contextlib
import operator
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar, overload, runtime_checkable

import trio

from nurseries import Service
from transport.drivers.base import Outcome, Rebalance, RebalanceKind
from transport.types import TP, RecordMetadata

_DELAY_INTERVAL = 1.0  # seconds
_topic_of, _size_of = operator.attrgetter("topic"), operator.attrgetter("size")

P = ParamSpec("P")
T = TypeVar("T")


@runtime_checkable
class Points(Protocol):
    """The calls that a monitor receives. `transport.Sensor`, its base class, documents them.

    Each body returns, so that a subclass inside the library overrides only what it needs.
    """

    def on_open(self, app: Any) -> None:
        return

    def on_close(self, app: Any) -> None:
        return

    def on_messages_in(self, tp: TP, count: int) -> None:
        return

    def on_bytes_in(self, tp: TP, count: int) -> None:
        return

    def on_poll(self, seconds: float, count: int) -> None:
        return

    def on_messages_out(self, tp: TP, count: int) -> None:
        return

    def on_topic_buffer_full(self, tp: TP) -> None:
        return

    def on_offset_reset(self, tp: TP, old: int | None, new: int, skipped: int) -> None:
        return

    def on_commit_initiated(self, consumer: Any) -> Any:
        return

    def on_commit_completed(self, consumer: Any, state: Any, moved: bool) -> None:
        return

    def on_commit_error(self, consumer: Any, state: Any, error: Exception) -> None:
        return

    def on_sends_initiated(self, producer: Any, count: int) -> None:
        return

    def on_sends_completed(self, producer: Any, written: Sequence[RecordMetadata]) -> None:
        return

    def on_bytes_sent(self, producer: Any, topic: str, count: int) -> None:
        return

    def on_send_latency(self, producer: Any, seconds: float) -> None:
        return

    def on_sends_error(self, producer: Any, errors: Sequence[Exception]) -> None:
        return

    def on_assignment_start(self, consumer: Any, assigned: frozenset[TP]) -> Any:
        return

    def on_assignment_completed(self, consumer: Any, state: Any) -> None:
        return

    def on_assignment_error(self, consumer: Any, state: Any, error: BaseException) -> None:
        return

    def on_rebalance_start(self, app: Any, kind: str, partitions: frozenset[TP]) -> Any:
        return

    def on_rebalance_return(self, app: Any, state: Any) -> None:
        return

    def on_rebalance_end(self, app: Any, state: Any) -> None:
        return

    def on_attempts(self, handler: str, outcome: str, seconds: Sequence[float]) -> None:
        return

    def on_handler_failure(self, handler: str, tp: TP, treatment: str, error: Exception) -> None:
        return

    def on_loop_delay(self, seconds: float) -> None:
        return


class Acks(Protocol):
    """The part of a ledger that a monitor needs."""

    @property
    def tp(self) -> TP: ...

    def newly_acked(self) -> int:
        """Return how many messages were acked since the last call."""


class Sent(Protocol):
    """The part of a message that was sent, and has an outcome, that a monitor needs."""

    @property
    def topic(self) -> str: ...

    @property
    def size(self) -> int:
        """The bytes that the message takes of the send buffer."""

    @property
    def outcome(self) -> Outcome | None: ...


class Metadata(Sequence[RecordMetadata]):
    """The metadata of written messages. The metadata of each message is made when it is read."""

    def __init__(self, written: Sequence[Sent]) -> None:
        self._written = written

    def __len__(self) -> int:
        return len(self._written)

    @overload
    def __getitem__(self, at: int) -> RecordMetadata: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[RecordMetadata]: ...
    def __getitem__(self, at: int | slice) -> RecordMetadata | Sequence[RecordMetadata]:
        if isinstance(at, slice):
            return Metadata(self._written[at])
        outcome = self._written[at].outcome
        assert isinstance(outcome, RecordMetadata)
        return outcome

    def counts(self) -> Mapping[str, int]:
        """Return the number of messages of each topic, without their metadata."""
        return Counter(map(_topic_of, self._written))

    def sizes(self) -> Mapping[str, int]:
        """Return the bytes of the messages of each topic, without their metadata."""
        first, *others = set(map(_topic_of, self._written))
        if not others:  # the usual case, without a loop over the messages
            return {first: sum(map(_size_of, self._written))}
        sizes: dict[str, int] = {}
        for message in self._written:
            sizes[message.topic] = sizes.get(message.topic, 0) + message.size
        return sizes

    def __repr__(self) -> str:
        return repr(list(self))


class Attempt(Protocol):
    """The part of an ended commit attempt that a monitor needs."""

    @property
    def error(self) -> Exception | None: ...

    @property
    def moved(self) -> bool:
        """Whether an offset moved."""


class Probe(Service):
    """The caller of an app's monitor. It ends the app with the first error of the monitor."""

    def __init__(self, sensor: Points) -> None:
        super().__init__("Monitor")
        self.sensor = sensor
        self._app: object = None  # until `opened`
        self._rebalances: list[Any] = []  # the states of rebalances, until the next poll has ended
        # When batches were passed to the client, by the `id` of their first message. The producer
        # keeps a message until its outcome, so no two have the same.
        self._sent_at: dict[int, float] = {}
        self._error: Exception | None = None
        self._failed = trio.Event()

    def __call__(self, point: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call a method of the sensor. Return its result, or None after an error.

        After the first error no method is called any more. Raises nothing. Not a checkpoint.
        """
        if not self._failed.is_set():
            try:
                return point(*args, **kwargs)
            except Exception as exc:  # noqa: BLE001 - whatever a user's sensor raises
                self._error = exc
                self._failed.set()
        return None

    @trio.lowlevel.enable_ki_protection
    async def on_start(self) -> None:
        self.spawn("errors", self._end_the_app)
        self.spawn("loop delay", self._measure_delay)

    @trio.lowlevel.enable_ki_protection
    async def on_stop(self) -> None:
        """Report that the app has closed. An error of the sensor is the service's own."""
        if self._app is not None and not self._failed.is_set():
            self.sensor.on_close(self._app)
        await super().on_stop()

    async def _measure_delay(self) -> None:
        while True:
            due = trio.current_time() + _DELAY_INTERVAL
            await trio.sleep_until(due)
            self(self.sensor.on_loop_delay, max(0.0, trio.current_time() - due))

    async def _end_the_app(self) -> None:
        await self._failed.wait()
        assert self._error is not None
        raise self._error

    def opened(self, app: object) -> None:
        """Report that the app is being opened. Call it before every other report."""
        self._app = app
        self(self.sensor.on_open, app)

    # Reports that call several methods

    def acked(self, ledgers: Iterable[Acks]) -> None:
        """Report how many messages of each ledger were acked since the last report."""
        for ledger in ledgers:
            if count := ledger.newly_acked():
                self(self.sensor.on_messages_out, ledger.tp, count)

    def fetched(self, tp: TP, count: int, size: int) -> None:
        """Report a fetch of one partition, with its size in bytes."""
        self(self.sensor.on_messages_in, tp, count)
        self(self.sensor.on_bytes_in, tp, size)

    def sending(self, producer: object, batch: Sequence[object]) -> None:
        """Report messages that are about to be passed to the client."""
        self(self.sensor.on_sends_initiated, producer, len(batch))
        self._sent_at[id(batch[0])] = trio.current_time()

    def delivered(
        self, producer: object, ended: Sequence[Sent], failed: Collection[Sent] = ()
    ) -> None:
        """Report the outcomes of messages that a producer has sent, some of which have failed."""
        written = ended
        if failed:
            without = set(failed)
            written = [each for each in ended if each not in without]
        sent_at = self._sent_at
        for first in sent_at.keys() & set(map(id, ended)) if sent_at else ():
            seconds = trio.current_time() - sent_at.pop(first)
            self(self.sensor.on_send_latency, producer, seconds)
        if written:
            metadata = Metadata(written)
            self(self.sensor.on_sends_completed, producer, metadata)
            for topic, size in metadata.sizes().items():
                self(self.sensor.on_bytes_sent, producer, topic, size)
        if failed:
            errors = [each.outcome for each in failed if isinstance(each.outcome, Exception)]
            self(self.sensor.on_sends_error, producer, errors)

    @contextlib.contextmanager
    def commit(self, consumer: object, ledgers: Iterable[Acks], attempt: Attempt) -> Iterator[None]:
        """Report the commit that is made in the block: its begin and its end."""
        state = self(self.sensor.on_commit_initiated, consumer)
        try:
            yield
        finally:
            self.acked(ledgers)
            if attempt.error is not None:
                self(self.sensor.on_commit_error, consumer, state, attempt.error)
            else:
                self(self.sensor.on_commit_completed, consumer, state, attempt.moved)

    @contextlib.contextmanager
    def rebalance(self, app: object, consumer: object, event: Rebalance) -> Iterator[None]:
        """Report the rebalance that is served in the block. `polled` reports its end."""
        sensor = self.sensor
        state = self(sensor.on_rebalance_start, app, event.kind.value, event.partitions)
        assigns = event.kind is RebalanceKind.ASSIGNED
        assignment = (
            self(sensor.on_assignment_start, consumer, event.partitions) if assigns else None
        )
        try:
            yield
        except BaseException as exc:  # also Cancelled, by the end of the app
            if assigns:
                self(sensor.on_assignment_error, consumer, assignment, exc)
            raise
        else:
            if assigns:
                self(sensor.on_assignment_completed, consumer, assignment)
        finally:
            self(sensor.on_rebalance_return, app, state)
            self._rebalances.append(state)

    def polled(self, app: object) -> None:
        """Report the end of the rebalances since the poll before, because a poll has ended."""
        states, self._rebalances = self._rebalances, []
        for state in states:
            self(self.sensor.on_rebalance_end, app, state)
