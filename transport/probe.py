"""The way from the parts of an app to its monitor.

The parts tell a monitor about batches, commits and rebalances, never about single messages. Without
a monitor nothing is called. A monitor is the user's code, and its error must not come out in the
middle of a change of ours: the `Probe` catches the error and ends the app with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable

import trio

from nurseries import Service
from transport.drivers.base import Outcome, Rebalance, RebalanceKind
from transport.types import TP, RecordMetadata

P = ParamSpec("P")
T = TypeVar("T")


@runtime_checkable
class Points(Protocol):
    """The calls that a monitor gets. `transport.Sensor` says when, and users inherit from it."""

    def on_open(self, app: Any) -> None: ...
    def on_messages_in(self, tp: TP, count: int) -> None: ...
    def on_messages_out(self, tp: TP, count: int) -> None: ...
    def on_topic_buffer_full(self, tp: TP) -> None: ...
    def on_offset_reset(self, tp: TP, old: int | None, new: int, skipped: int) -> None: ...
    def on_commit_initiated(self, consumer: Any) -> Any: ...
    def on_commit_completed(self, consumer: Any, state: Any, moved: bool) -> None: ...
    def on_commit_error(self, consumer: Any, state: Any, error: Exception) -> None: ...
    def on_sends_initiated(self, producer: Any, count: int) -> None: ...
    def on_sends_completed(self, producer: Any, written: Sequence[RecordMetadata]) -> None: ...
    def on_sends_error(self, producer: Any, errors: Sequence[Exception]) -> None: ...
    def on_assignment_start(self, consumer: Any, assigned: frozenset[TP]) -> Any: ...
    def on_assignment_completed(self, consumer: Any, state: Any) -> None: ...
    def on_assignment_error(self, consumer: Any, state: Any, error: BaseException) -> None: ...
    def on_rebalance_start(self, app: Any, kind: str, partitions: frozenset[TP]) -> Any: ...
    def on_rebalance_return(self, app: Any, state: Any) -> None: ...
    def on_rebalance_end(self, app: Any, state: Any) -> None: ...


class Acks(Protocol):
    """A partition's ledger, as far as a monitor asks for it."""

    @property
    def tp(self) -> TP: ...

    def newly_acked(self) -> int:
        """Return how many messages were acked since the last call."""


class Attempt(Protocol):
    """A commit that has ended, as far as a monitor asks for it."""

    @property
    def error(self) -> Exception | None: ...

    @property
    def moved(self) -> bool:
        """Whether an offset moved."""


class Probe(Service):
    """Calls an app's monitor, and ends the app with its first error."""

    def __init__(self, sensor: Points) -> None:
        super().__init__("Monitor")
        self.sensor = sensor
        self._rebalances: list[Any] = []  # their states, until the poll that ends them
        self._error: Exception | None = None
        self._failed = trio.Event()

    def __call__(self, point: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call one of the sensor's points. Never raises; not a checkpoint."""
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

    async def _end_the_app(self) -> None:
        await self._failed.wait()
        assert self._error is not None
        raise self._error

    # What several points have in common

    def acked(self, ledgers: Iterable[Acks]) -> None:
        """Tell what was acked of these since the last time."""
        for ledger in ledgers:
            if count := ledger.newly_acked():
                self(self.sensor.on_messages_out, ledger.tp, count)

    def delivered(self, producer: object, outcomes: Iterable[Outcome | None]) -> None:
        """Tell the outcomes of messages that a producer has sent."""
        outcomes = list(outcomes)
        written = [outcome for outcome in outcomes if isinstance(outcome, RecordMetadata)]
        if written:
            self(self.sensor.on_sends_completed, producer, written)
        if errors := [outcome for outcome in outcomes if isinstance(outcome, Exception)]:
            self(self.sensor.on_sends_error, producer, errors)

    @contextlib.contextmanager
    def commit(self, consumer: object, ledgers: Iterable[Acks], attempt: Attempt) -> Iterator[None]:
        """Tell of a commit, around the making of it."""
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
        """Tell of a rebalance, around the serving of it. Its end is told by `polled`."""
        sensor = self.sensor
        state = self(sensor.on_rebalance_start, app, event.kind.value, event.partitions)
        comes = event.kind is RebalanceKind.ASSIGNED
        coming = self(sensor.on_assignment_start, consumer, event.partitions) if comes else None
        try:
            yield
        except BaseException as exc:  # cancelled by the end of the app as well: it is told, too
            if comes:
                self(sensor.on_assignment_error, consumer, coming, exc)
            raise
        else:
            if comes:
                self(sensor.on_assignment_completed, consumer, coming)
        finally:
            self(sensor.on_rebalance_return, app, state)
            self._rebalances.append(state)

    def polled(self, app: object) -> None:
        """Tell the end of the rebalances before a poll that has ended."""
        states, self._rebalances = self._rebalances, []
        for state in states:
            self(self.sensor.on_rebalance_end, app, state)
