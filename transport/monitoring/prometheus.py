"""`PrometheusSensor`: the events and the state of an app as metrics of Prometheus.

It needs the extra `kafka-nursery[prometheus]`.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import trio

from transport.app import App
from transport.consuming.consumer import Consumer
from transport.inspecting.partition_state import PartitionState, state_of
from transport.monitoring.lag_age import LagAge
from transport.monitoring.sensor import Sensor
from transport.probe import Metadata
from transport.producing.producer import Producer
from transport.types import TP, RecordMetadata

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
except ImportError as error:
    raise ImportError(
        "PrometheusSensor needs the extra prometheus: pip install 'kafka-nursery[prometheus]'"
    ) from error

__all__ = ["PrometheusSensor"]

# Seconds. The first bounds separate a quick handler from a slow one, and the last a stuck one.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_NAMESPACE = "kafka_nursery"
_APP = ("app",)
_TOPIC = ("app", "topic")
_PARTITION = ("app", "topic", "partition")


class Metrics:
    """The metrics of all apps that report to one registry.

    The number of series is bounded by the apps, their topics, handlers and assigned partitions. No
    label has a key, an offset, a member or an error's text.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, labels: Sequence[str]) -> Counter:
            return Counter(name, text, labels, namespace=_NAMESPACE, registry=registry)

        def gauge(name: str, text: str, labels: Sequence[str]) -> Gauge:
            return Gauge(name, text, labels, namespace=_NAMESPACE, registry=registry)

        def histogram(name: str, text: str, labels: Sequence[str]) -> Histogram:
            return Histogram(
                name, text, labels, namespace=_NAMESPACE, registry=registry, buckets=_SECONDS
            )

        self.received = counter("received_messages", "Messages that were fetched.", _TOPIC)
        self.received_bytes = counter("received_bytes", "Bytes that were fetched.", _TOPIC)
        self.acked = counter("acked_messages", "Messages that were acked.", _TOPIC)
        self.sent = counter("sent_messages", "Messages that were written.", _TOPIC)
        self.sent_bytes = counter("sent_bytes", "Bytes of messages that were written.", _TOPIC)
        self.send_failures = counter("send_failures", "Messages that were not written.", _APP)
        self.send_seconds = histogram(
            "send_seconds", "Time from a batch's begin to its first outcome.", _APP
        )
        self.in_flight = gauge(
            "in_flight_messages", "Messages that are accepted and have no outcome.", _APP
        )
        self.lag = gauge("lag_messages", "Messages that are not committed.", _PARTITION)
        self.lag_seconds = gauge(
            "lag_seconds", "Age of the oldest message that is not committed.", _PARTITION
        )
        self.unacked = gauge(
            "unacked_messages", "Messages that are delivered and not acked.", _PARTITION
        )
        self.waiting = gauge(
            "waiting_messages", "Messages that are fetched and not delivered.", _PARTITION
        )
        self.stuck = gauge("stuck_partitions", "Partitions that are stuck.", _APP)
        self.handler_seconds = histogram(
            "handler_seconds", "Time of a handler's attempts.", ("app", "handler", "outcome")
        )
        self.handler_failures = counter(
            "handler_failures",
            "Failed attempts, by what follows.",
            ("app", "handler", "treatment"),
        )
        self.handler_running = gauge(
            "handler_running", "Messages or batches that are handled.", ("app", "handler")
        )
        self.commits = counter("commits", "Commits, by outcome.", ("app", "outcome"))
        self.commit_seconds = histogram("commit_seconds", "Time of commits.", _APP)
        self.rebalances = counter(
            "rebalances", "Changes of the assigned partitions.", ("app", "kind")
        )
        self.rebalance_seconds = histogram(
            "rebalance_seconds", "Time for which the client waited for the app.", _APP
        )
        self.polls = counter("polls", "Polls of the client.", _APP)
        self.poll_seconds = counter("poll_seconds", "Time of all polls.", _APP)
        self.buffer_full = counter(
            "buffer_full", "Pauses of a partition because of a full buffer.", _TOPIC
        )
        self.resets = counter("offset_resets", "Resets to another offset.", _TOPIC)
        self.skipped = counter("skipped_offsets", "Offsets that resets have skipped.", _TOPIC)
        self.loop_delay = histogram(
            "event_loop_delay_seconds", "How late trio has resumed a task.", _APP
        )
        # The partitions that have gauges, by app.
        self._shown: dict[str, set[TP]] = {}

    def show(self, app: str, tp: TP, state: PartitionState, age: float | None) -> None:
        """Set the gauges of a partition.

        Args:
            age: seconds of its lag. None: its lag is not known.
        """
        self._shown.setdefault(app, set()).add(tp)
        labels = (app, tp.topic, str(tp.partition))
        self.unacked.labels(*labels).set(state.unacked)
        self.waiting.labels(*labels).set(state.waiting)
        if state.lag is not None and age is not None:
            self.lag.labels(*labels).set(state.lag)
            self.lag_seconds.labels(*labels).set(age)

    def hide(self, app: str, tp: TP) -> None:
        """Remove the gauges of a partition."""
        self._shown.get(app, set()).discard(tp)
        for gauge in (self.lag, self.lag_seconds, self.unacked, self.waiting):
            with contextlib.suppress(KeyError):  # a lag that was never known
                gauge.remove(app, tp.topic, str(tp.partition))

    def hide_app(self, app: str, handlers: Iterable[str]) -> None:
        """Remove the gauges of an app, of its partitions and of its handlers."""
        for tp in list(self._shown.pop(app, ())):
            self.hide(app, tp)
        for gauge in (self.in_flight, self.stuck):
            with contextlib.suppress(KeyError):  # the app has ended before it was set
                gauge.remove(app)
        for handler in handlers:
            with contextlib.suppress(KeyError):
                self.handler_running.remove(app, handler)


# A registry refuses a second metric of one name, so all apps of a registry share its metrics.
_of_registry: weakref.WeakKeyDictionary[CollectorRegistry, Metrics] = weakref.WeakKeyDictionary()


def _metrics_of(registry: CollectorRegistry) -> Metrics:
    if (metrics := _of_registry.get(registry)) is None:
        metrics = _of_registry[registry] = Metrics(registry)
    return metrics


def observe_all(histogram: Histogram, values: Sequence[float]) -> None:
    """Observe several values at once, which takes a tenth of the time of a call for each.

    prometheus_client has no such call, so this function uses private parts of it. If the parts are
    missing, the function makes a call for each value.
    """
    bounds = getattr(histogram, "_upper_bounds", None)
    buckets = getattr(histogram, "_buckets", None)
    total = getattr(histogram, "_sum", None)
    if len(values) == 1 or bounds is None or buckets is None or total is None:
        for value in values:
            histogram.observe(value)
        return
    total.inc(sum(values))
    # The first bound that is not below the value. The last one is infinite.
    for bucket, count in Counts(map(functools.partial(bisect_left, bounds), values)).items():
        buckets[bucket].inc(count)


class PrometheusSensor(Sensor):
    """A sensor that keeps the metrics of one app in a registry of prometheus_client.

    The gauges are set once a second, in trio's thread. So a scrape from another thread never reads
    the app itself.

    Args:
        registry: where the metrics are. Several apps may share a registry.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._metrics = _metrics_of(registry)
        self._app: App | None = None
        self._id = ""
        self._ages: dict[TP, LagAge] = {}

    def on_open(self, app: App) -> None:
        self._app = app
        self._id = app.id

    def on_close(self, app: App) -> None:
        # Counters stay. Another open app of this id sets its gauges again within a second.
        handlers = [handler.plan.name for handler in app.handlers]
        self._metrics.hide_app(app.id, handlers)

    # Fetched and acked

    def on_messages_in(self, tp: TP, count: int) -> None:
        self._metrics.received.labels(self._id, tp.topic).inc(count)

    def on_bytes_in(self, tp: TP, count: int) -> None:
        self._metrics.received_bytes.labels(self._id, tp.topic).inc(count)

    def on_messages_out(self, tp: TP, count: int) -> None:
        self._metrics.acked.labels(self._id, tp.topic).inc(count)

    def on_poll(self, seconds: float, count: int) -> None:
        self._metrics.polls.labels(self._id).inc()
        self._metrics.poll_seconds.labels(self._id).inc(seconds)

    def on_topic_buffer_full(self, tp: TP) -> None:
        self._metrics.buffer_full.labels(self._id, tp.topic).inc()

    def on_offset_reset(self, tp: TP, old: int | None, new: int, skipped: int) -> None:
        self._metrics.resets.labels(self._id, tp.topic).inc()
        self._metrics.skipped.labels(self._id, tp.topic).inc(skipped)

    # Commits and rebalances

    def on_commit_initiated(self, consumer: Consumer) -> float:
        return trio.current_time()

    def on_commit_completed(self, consumer: Consumer, state: Any, moved: bool) -> None:
        if moved:
            self._metrics.commits.labels(self._id, "ok").inc()
            self._metrics.commit_seconds.labels(self._id).observe(trio.current_time() - state)

    def on_commit_error(self, consumer: Consumer, state: Any, error: Exception) -> None:
        self._metrics.commits.labels(self._id, "failed").inc()

    def on_rebalance_start(self, app: App, kind: str, partitions: frozenset[TP]) -> float:
        self._metrics.rebalances.labels(self._id, kind).inc()
        return trio.current_time()

    def on_rebalance_return(self, app: App, state: Any) -> None:
        self._metrics.rebalance_seconds.labels(self._id).observe(trio.current_time() - state)
        self._update_partitions()

    # Sent

    def on_sends_completed(self, producer: Producer, written: Sequence[RecordMetadata]) -> None:
        counts: Mapping[str, int]
        if isinstance(written, Metadata):
            counts = written.counts()
        else:  # a sensor of the user has passed on another sequence
            counts = Counts(each.topic for each in written)
        for topic, count in counts.items():
            self._metrics.sent.labels(self._id, topic).inc(count)

    def on_bytes_sent(self, producer: Producer, topic: str, count: int) -> None:
        self._metrics.sent_bytes.labels(self._id, topic).inc(count)

    def on_send_latency(self, producer: Producer, seconds: float) -> None:
        self._metrics.send_seconds.labels(self._id).observe(seconds)

    def on_sends_error(self, producer: Producer, errors: Sequence[Exception]) -> None:
        self._metrics.send_failures.labels(self._id).inc(len(errors))

    # Handlers

    def on_attempts(self, handler: str, outcome: str, seconds: Sequence[float]) -> None:
        observe_all(self._metrics.handler_seconds.labels(self._id, handler, outcome), seconds)

    def on_handler_failure(self, handler: str, tp: TP, treatment: str, error: Exception) -> None:
        self._metrics.handler_failures.labels(self._id, handler, treatment).inc()

    # Once a second

    def on_loop_delay(self, seconds: float) -> None:
        self._metrics.loop_delay.labels(self._id).observe(seconds)
        self._update_partitions()
        assert self._app is not None
        self._metrics.in_flight.labels(self._id).set(self._app.producer.in_flight)
        for handler in self._app.handlers:
            self._metrics.handler_running.labels(self._id, handler.plan.name).set(handler.running)

    def _update_partitions(self) -> None:
        """Set the gauges of the assigned partitions, and remove those of all others."""
        assert self._app is not None
        consumer, now = self._app.consumer, trio.current_time()
        metrics = self._metrics
        metrics.stuck.labels(self._id).set(len(consumer.stuck))
        for tp in self._ages.keys() - consumer.assignment.keys():
            del self._ages[tp]
            metrics.hide(self._id, tp)
        for tp, ledger in consumer.assignment.items():
            state = state_of(ledger, consumer.ends.end_of(ledger))
            metrics.show(self._id, tp, state, self._age(tp, state, now))

    def _age(self, tp: TP, state: PartitionState, now: float) -> float | None:
        """Return the seconds of a partition's lag; None: its lag is not known."""
        age = self._ages.setdefault(tp, LagAge())
        if state.lag is None or state.highwater is None:
            return None
        age.add(state.highwater, now)
        done = state.highwater - state.lag
        age.forget_below(done)
        return age.seconds(done, now)
