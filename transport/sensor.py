"""Where an app tells what happens, as it happens.

A `Sensor` is told by the batch, the commit and the rebalance, never by the message; where an app
has none, nothing is called. A sensor is the user's code, and its error must not come out in the
middle of a change of ours: so it is caught at the `Probe`, which ends the app with it like any
other crash.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import trio

from nurseries import Service
from transport.drivers.base import Rebalance, RebalanceKind
from transport.ledger import Ledger
from transport.rounds import Round
from transport.types import TP, RecordMetadata

if TYPE_CHECKING:
    from transport.app import App
    from transport.consumer import Consumer
    from transport.delivery import Delivery
    from transport.producer import Producer

P = ParamSpec("P")
T = TypeVar("T")


class Sensor:
    """The points at which an app tells what happens. A subclass overrides those that it wants.

    All are called in trio's thread, from the library's own tasks, and are no async functions: they
    must be quick, and must not call back into the app to change it. What a call that begins
    something returns is given to the one that tells of its end. An error ends the app: it comes
    out of `async with app` in the exception group, and no point is called after it.
    """

    def on_open(self, app: App) -> None:
        """The app is being opened; the first call."""

    def on_messages_in(self, tp: TP, count: int) -> None:
        """So many messages were fetched. What a rebalance or a seek drops, and what is then fetched
        again, is told again."""

    def on_messages_out(self, tp: TP, count: int) -> None:
        """So many messages were acked since the last call; once for each topic object that they
        were delivered to. Told at each commit, and when the partition goes or is sought."""

    def on_topic_buffer_full(self, tp: TP) -> None:
        """A topic object's buffer is full: its partitions, this is one, pause until half of it
        is acked."""

    def on_offset_reset(self, tp: TP, old: int | None, new: int, skipped: int) -> None:
        """Called when reading continues at `new`, an offset from neither a commit nor a seek.

        Args:
            old: the position before, which is not in the log: retention has deleted it, or the log
                has lost its end. None: the group has begun before, and has no committed offset of
                this partition.
            skipped: how many offsets lie between the two. Their records are not read.
        """

    def on_commit_initiated(self, consumer: Consumer) -> Any:
        """A commit begins; one at a time."""

    def on_commit_completed(self, consumer: Consumer, state: Any, moved: bool) -> None:
        """It has ended. `moved`: whether an offset did; not where nothing was left to commit, and
        where it was given up, as the group did not come to rest (a warning says so)."""

    def on_commit_error(self, consumer: Consumer, state: Any, error: Exception) -> None:
        """It has failed; with CommitUnknown it may have been made all the same."""

    def on_sends_initiated(self, producer: Producer, count: int) -> None:
        """So many messages, accepted before, are handed to the client."""

    def on_sends_completed(self, producer: Producer, written: Sequence[RecordMetadata]) -> None:
        """Messages were delivered."""

    def on_sends_error(self, producer: Producer, errors: Sequence[Exception]) -> None:
        """Messages were not delivered; also those that were never handed over, at the end."""

    def on_assignment_start(self, consumer: Consumer, assigned: frozenset[TP]) -> Any:
        """Partitions have come, and are being taken over. May be none."""

    def on_assignment_completed(self, consumer: Consumer, state: Any) -> None:
        """They were: fetching from them begins."""

    def on_assignment_error(self, consumer: Consumer, state: Any, error: BaseException) -> None:
        """They were not: a hook of the app has failed, or the app has ended meanwhile."""

    def on_rebalance_start(self, app: App, kind: str, partitions: frozenset[TP]) -> Any:
        """The client stands still until it has our consent to a change of ownership.

        One rebalance of the group may be several of these: partitions go, and then some come.

        Args:
            kind: "assigned", "revoked" or "lost".
        """

    def on_rebalance_return(self, app: App, state: Any) -> None:
        """We consent: hooks are done, handlers have ended, the last commit is made."""

    def on_rebalance_end(self, app: App, state: Any) -> None:
        """A poll has ended since: the client goes on."""


class Probe(Service):
    """Calls an app's sensor, and ends the app with its first error."""

    def __init__(self, sensor: Sensor) -> None:
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

    def acked(self, ledgers: Iterable[Ledger]) -> None:
        """Tell what was acked of these since the last time."""
        for ledger in ledgers:
            if count := ledger.newly_acked():
                self(self.sensor.on_messages_out, ledger.tp, count)

    def delivered(self, producer: Producer, ended: Collection[Delivery]) -> None:
        """Tell what has become of messages."""
        outcomes = [delivery.outcome for delivery in ended]
        written = [outcome for outcome in outcomes if isinstance(outcome, RecordMetadata)]
        if written:
            self(self.sensor.on_sends_completed, producer, written)
        if errors := [outcome for outcome in outcomes if isinstance(outcome, Exception)]:
            self(self.sensor.on_sends_error, producer, errors)

    @contextlib.contextmanager
    def commit(self, consumer: Consumer, round_: Round) -> Iterator[None]:
        """Tell of a commit, around the making of it."""
        state = self(self.sensor.on_commit_initiated, consumer)
        try:
            yield
        finally:
            self.acked(consumer.assignment.values())
            if round_.error is not None:
                self(self.sensor.on_commit_error, consumer, state, round_.error)
            else:
                self(self.sensor.on_commit_completed, consumer, state, round_.moved)

    @contextlib.contextmanager
    def rebalance(self, consumer: Consumer, event: Rebalance) -> Iterator[None]:
        """Tell of a rebalance around the serving of it."""
        sensor, app = self.sensor, consumer.app
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
            consumer.requests.note_change()  # or an idle poll would not end

    def polled(self, app: App) -> None:
        """A poll has ended: tell the end of the rebalances that we have consented to before."""
        states, self._rebalances = self._rebalances, []
        for state in states:
            self(self.sensor.on_rebalance_end, app, state)
