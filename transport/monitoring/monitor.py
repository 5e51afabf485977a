"""`Monitor`: a sensor that counts events and returns snapshots of an app."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import trio

from transport.app import App
from transport.consuming.consumer import Consumer
from transport.consuming.stuck import Stuck
from transport.inspecting.partition_state import PartitionState, state_of
from transport.monitoring.sensor import Sensor
from transport.producing.producer import Producer
from transport.types import TP, RecordMetadata


@attrs.define
class Timing:
    """The number of operations of one kind, and the seconds that they took.

    Attributes:
        failed: how many operations failed. The other numbers leave them out.
    """

    count: int = 0
    failed: int = 0
    last: float = 0.0
    longest: float = 0.0
    total: float = 0.0

    @property
    def mean(self) -> float:
        """The mean time; 0 if there was no operation."""
        return self.total / self.count if self.count else 0.0

    def add(self, since: float) -> None:
        """Count an operation that began at `since` and ends now."""
        self.last = trio.current_time() - since
        self.longest = max(self.longest, self.last)
        self.total += self.last
        self.count += 1


@attrs.frozen
class Snapshot:
    """The state of an app at one moment. Counts begin when the app is opened.

    Attributes:
        partitions: the assigned partitions.
        messages_in, messages_out: how many were fetched, and how many acked, as `Sensor` counts.
        sends_initiated, sends_completed, sends_failed: how many messages were passed to the client,
            were written, and failed.
        in_flight: how many messages are accepted and have no outcome.
        commits: the commits that moved an offset, from the begin to the broker's answer.
        assignments: the assignments, until fetching began.
        rebalances: the times for which the client waited for the app.
        buffers_full: how often a partition was paused because a buffer was full.
        resets: how often reading continued at an offset from neither a commit nor a seek.
        skipped: how many offsets those resets have skipped.
        stale_acks, doubled_acks: acks that changed nothing, because the message belongs to an
            earlier epoch, or because it was acked already.
        stuck: the findings of the last check (`Consumer.verify_all_partitions_active`).
    """

    partitions: Mapping[TP, PartitionState]
    messages_in: int
    messages_out: int
    sends_initiated: int
    sends_completed: int
    sends_failed: int
    in_flight: int
    commits: Timing
    assignments: Timing
    rebalances: Timing
    buffers_full: int
    resets: int
    skipped: int
    stale_acks: int
    doubled_acks: int
    stuck: tuple[Stuck, ...]

    @property
    def assignment(self) -> frozenset[TP]:
        return frozenset(self.partitions)

    @property
    def lag(self) -> int:
        """The sum over all partitions whose lag is known."""
        return sum(state.lag or 0 for state in self.partitions.values())

    @property
    def unacked(self) -> int:
        return sum(state.unacked for state in self.partitions.values())


class Monitor(Sensor):
    """A sensor that counts, and returns the state of its app with `snapshot`. One for each app.

    Attributes:
        messages_in, messages_out: the counts by partition.
    """

    def __init__(self) -> None:
        self.messages_in: dict[TP, int] = {}
        self.messages_out: dict[TP, int] = {}
        self._app: App | None = None
        self._sends_initiated = self._sends_completed = self._sends_failed = 0
        self._commits, self._assignments, self._rebalances = Timing(), Timing(), Timing()
        self._buffers_full = 0
        self._resets = self._skipped = 0

    def snapshot(self) -> Snapshot:
        """Return the state of the app now.

        Costs O(assigned partitions + unacked messages). Not a checkpoint. Raises RuntimeError: the
        app was not opened yet.
        """
        app = self._app
        if app is None:
            raise RuntimeError("the app of this monitor was not opened yet")
        consumer = app.consumer
        return Snapshot(
            partitions={
                tp: state_of(ledger, consumer.ends.end_of(ledger))
                for tp, ledger in consumer.assignment.items()
            },
            messages_in=sum(self.messages_in.values()),
            messages_out=sum(self.messages_out.values()),
            sends_initiated=self._sends_initiated,
            sends_completed=self._sends_completed,
            sends_failed=self._sends_failed,
            in_flight=app.producer.in_flight,
            commits=attrs.evolve(self._commits),
            assignments=attrs.evolve(self._assignments),
            rebalances=attrs.evolve(self._rebalances),
            buffers_full=self._buffers_full,
            resets=self._resets,
            skipped=self._skipped,
            stale_acks=consumer.assignment.tally.stale,
            doubled_acks=consumer.assignment.tally.doubled,
            stuck=consumer.stuck,
        )

    def on_open(self, app: App) -> None:
        if self._app is not None:
            raise RuntimeError("this monitor has an app already: make a new monitor for each app")
        self._app = app

    def on_messages_in(self, tp: TP, count: int) -> None:
        self.messages_in[tp] = self.messages_in.get(tp, 0) + count

    def on_messages_out(self, tp: TP, count: int) -> None:
        self.messages_out[tp] = self.messages_out.get(tp, 0) + count

    def on_topic_buffer_full(self, tp: TP) -> None:
        self._buffers_full += 1

    def on_offset_reset(self, tp: TP, old: int | None, new: int, skipped: int) -> None:
        self._resets += 1
        self._skipped += skipped

    def on_commit_initiated(self, consumer: Consumer) -> float:
        return trio.current_time()

    def on_commit_completed(self, consumer: Consumer, state: Any, moved: bool) -> None:
        if moved:
            self._commits.add(state)

    def on_commit_error(self, consumer: Consumer, state: Any, error: Exception) -> None:
        self._commits.failed += 1

    def on_sends_initiated(self, producer: Producer, count: int) -> None:
        self._sends_initiated += count

    def on_sends_completed(self, producer: Producer, written: Sequence[RecordMetadata]) -> None:
        self._sends_completed += len(written)

    def on_sends_error(self, producer: Producer, errors: Sequence[Exception]) -> None:
        self._sends_failed += len(errors)

    def on_assignment_start(self, consumer: Consumer, assigned: frozenset[TP]) -> float:
        return trio.current_time()

    def on_assignment_completed(self, consumer: Consumer, state: Any) -> None:
        self._assignments.add(state)

    def on_assignment_error(self, consumer: Consumer, state: Any, error: BaseException) -> None:
        self._assignments.failed += 1

    def on_rebalance_start(self, app: App, kind: str, partitions: frozenset[TP]) -> float:
        return trio.current_time()

    def on_rebalance_return(self, app: App, state: Any) -> None:
        self._rebalances.add(state)
