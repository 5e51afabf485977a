"""The figures: which numbers are compared, and the goals.

`NAMES` has the names of the documented table. Each is the name of a figure, or the beginning of the
names of several figures, if one row of the table has several baselines or numbers::

    consume.single.100B     .vs_bare, .vs_aiokafka
    consume.large.900kB     .rate, .memory
    produce.send_and_wait   .in_turn, .at_once
    ledger.in_order         itself, and .bytes for each message in flight
    idle.cpu                .100, .1000 partitions
    scale.partitions        .1, .10, .100, .1000 partitions, and .commit at 1,000
    loop.delay              .p99, .max
    memory.flat             .fast, .slow
    transactions.per_second, exactly_once.messages    .partition, .member
    handlers.key.10ms       .100, .1000 handlers at once
    observing.messages      .monitor, .prometheus, .traces.1, .traces.100 (percent of the traces)
    memory_broker           .sent, .consumed: by the batch; and .each, one message after the other

In the rows `handlers` with `.tuned`, the contenders are tuned and warmed up.

Two kinds of figures are in no row of the table: those whose names begin with `growth.`, and those
that compare with confluent-kafka or with Confluent's Parallel Consumer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.experiments import IN_FLIGHT
from benchmarks.shapes import QUIET, SCALES

NAMES = (
    "consume.messages.100B",
    "consume.messages.1kB",
    "consume.messages.vs_aiokafka",
    "consume.batches.100B",
    "consume.batches.vs_aiokafka",
    "consume.compressed.zstd",
    "consume.compressed.lz4",
    "consume.compressed.gzip",
    "consume.single.100B",
    "consume.large.900kB",
    "consume.vs_faust.100B",
    "consume.vs_faststream.100B",
    "consume.concurrent.100B",
    "handlers.key.noop",
    "handlers.key.10ms",
    "handlers.none.noop",
    "handlers.overhead",
    "observing.messages",
    "observing.batches",
    "produce.send.100B",
    "produce.send.1kB",
    "produce.send.vs_aiokafka",
    "produce.send_many.100B",
    "produce.send_and_wait",
    "asyncio.send",
    "asyncio.consume",
    "latency.p50",
    "latency.p99",
    "ledger.in_order",
    "ledger.random",
    "rebalance.join",
    "idle.cpu",
    "scale.partitions",
    "backlog.first_message",
    "backlog.memory",
    "loop.delay",
    "memory.flat",
    "transactions.per_second",
    "exactly_once.messages",
    "memory_broker",
)
QUICK = (
    "consume.messages.100B",
    "consume.messages.vs_aiokafka",
    "consume.batches.100B",
    "consume.batches.vs_aiokafka",
    "consume.single.100B",
    "consume.concurrent.100B",
    "handlers.overhead",
    "produce.send.100B",
    "produce.send.vs_aiokafka",
    "produce.send_many.100B",
    "asyncio.send",
    "latency.p50",
    "idle.cpu",
    "backlog.first_message",
    "backlog.memory",
)


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        experiment: the experiment that the numbers come from.
        ours, baseline: the contenders whose numbers are compared. Without a baseline, only `ours`.
        goal: for the ratio, or for the value if there is no baseline. None: no goal.
        measure: the number in a contender's answer. `rate` is the count divided by the seconds.
        baseline_measure: the measure of the baseline, if it is another one.
        is_lower_better: whether a smaller value and a smaller ratio are better.
    """

    name: str
    experiment: str
    baseline: str | None
    goal: float | None
    unit: str = "messages/s"
    measure: str = "rate"
    ours: str = "ours"
    baseline_measure: str | None = None
    is_lower_better: bool = False

    @property
    def contenders(self) -> tuple[str, ...]:
        """The contenders whose numbers the row needs."""
        return (self.ours,) if self.baseline is None else (self.ours, self.baseline)

    @property
    def is_quick(self) -> bool:
        return belongs_to(self.name, QUICK) is not None


def belongs_to(name: str, names: tuple[str, ...] = NAMES) -> str | None:
    """Return the row of the documented table that a figure belongs to, or None."""
    found = [each for each in names if name == each or name.startswith(f"{each}.")]
    return max(found, key=len, default=None)


def _lower(
    name: str,
    experiment: str,
    baseline: str | None,
    goal: float | None,
    unit: str,
    measure: str,
    ours: str = "ours",
    baseline_measure: str | None = None,
) -> Row:
    return Row(
        *(name, experiment, baseline, goal, unit, measure, ours, baseline_measure),
        is_lower_better=True,
    )


def _consuming() -> Iterator[Row]:
    small = "consume.100B"
    batches = "ours.batches"
    yield Row("consume.messages.100B", small, "bare", 2.2)
    yield Row("consume.messages.1kB", "consume.1kB", "bare", 2.2)
    yield Row("consume.messages.vs_aiokafka", small, "aiokafka", 1.8)
    yield Row("consume.batches.100B", small, "bare", 4.0, ours=batches)
    yield Row("consume.batches.vs_aiokafka", small, "aiokafka.getmany", 1.1, ours=batches)
    yield Row("consume.batches.vs_confluent", small, "confluent", None, ours=batches)
    for codec in ("zstd", "lz4", "gzip"):
        name = f"consume.compressed.{codec}"
        yield Row(name, name, "aiokafka", 1.3)
    single = "consume.single.100B"
    yield Row(f"{single}.vs_bare", single, "bare", 1.6)
    yield Row(f"{single}.vs_aiokafka", single, "aiokafka", 1.1)
    large = "consume.large.900kB"
    yield Row(f"{large}.rate", large, "bare", 1.3, "MB/s", "megabytes")
    yield _lower(f"{large}.memory", f"{large}.handled", "bare", 2.0, "MB", "rss")
    yield Row("consume.vs_faust.100B", "consume.vs_faust.100B", "faust", 25.0)
    yield Row("consume.vs_faststream.100B", "consume.vs_faststream.100B", "faststream", 60.0)
    yield Row("consume.concurrent.100B", small, "ours", 0.6, ours="ours.concurrent")
    yield Row(
        *("consume.concurrent.vs_parallel_consumer", small, "parallel_consumer", None),
        ours="ours.concurrent",
    )


def _handling() -> Iterator[Row]:
    for name, goal in (
        ("key.noop", 3.0),
        ("key.noop.tuned", None),
        ("key.10ms.100", 1.1),
        ("key.10ms.1000", 1.5),
        ("key.10ms.1000.tuned", None),
        ("none.noop", 2.0),
        ("none.noop.tuned", None),
    ):
        name = f"handlers.{name}"
        yield Row(name, name, "parallel_consumer", goal, measure="per_second")
    yield Row("handlers.overhead", "handlers.overhead", "loop", 0.6)


def _observing() -> Iterator[Row]:
    """Yield rows that compare the CPU time of a sent and handled message."""
    for part, experiment in (("messages", "observed"), ("batches", "observed_batches")):
        for kind in ("monitor", "prometheus", "traces.1", "traces.100"):
            yield _lower(
                *(f"observing.{part}.{kind}", experiment, "off", 1.1),
                *("us a message", "microseconds", kind),
            )


def _producing() -> Iterator[Row]:
    small = "produce.100B"
    many = "ours.send_many"
    yield Row("produce.send.100B", small, "bare", 3.0)
    yield Row("produce.send.1kB", "produce.1kB", "bare", 3.0)
    yield Row("produce.send.vs_aiokafka", small, "aiokafka", 1.2)
    yield Row("produce.send_many.100B", small, "aiokafka", 3.0, ours=many)
    yield Row("produce.send_many.vs_confluent", small, "confluent", None, ours=many)
    yield Row("produce.send_and_wait.in_turn", "produce.in_turn", "bare", 1.0)
    yield Row("produce.send_and_wait.at_once", "produce.at_once", "bare", 2.0)
    yield Row("asyncio.send", "asyncio.send", "trio", 0.8, ours="asyncio")
    yield Row("asyncio.consume", "asyncio.consume", "trio", 0.95, ours="asyncio")
    for part, goal in (("p50", 1.2), ("p99", 1.3)):
        yield _lower(f"latency.{part}", "latency", "bare", goal, "ms", part)


def _groups() -> Iterator[Row]:
    yield _lower("rebalance.join", "rebalance.join", "bare", 0.35, "s", "seconds")
    for number in QUIET:
        yield _lower(
            *(f"idle.cpu.{number}", "idle.cpu", f"bare.{number}", 1.5),
            *("% of a core", "cpu_percent", f"ours.{number}"),
        )
    for number in SCALES:
        yield Row(
            *(f"scale.partitions.{number}", "scale.partitions", f"bare.{number}", 1.5),
            ours=f"ours.{number}",
        )
    yield _lower("scale.partitions.commit", "scale.commit", "bare", None, "ms", "commit_ms")


def _memory() -> Iterator[Row]:
    backlog = "backlog.handled"
    yield _lower("backlog.first_message", backlog, "bare", 1.5, "s", "first_message")
    yield _lower("backlog.memory", backlog, "bare", 2.0, "MB", "rss")
    for part, goal in (("p99", 10.0), ("max", 50.0)):
        yield _lower(f"loop.delay.{part}", "loop.delay", None, goal, "ms", part)
    for speed in ("fast", "slow"):
        # The noise of the allocator is a few percent.
        yield _lower(
            *(f"memory.flat.{speed}", f"memory.flat.{speed}", "ours", 1.05, "MB"),
            *("rss_later", "ours", "rss_first_tenth"),
        )


def _transactions() -> Iterator[Row]:
    for mode in ("partition", "member"):
        yield Row(
            *(f"transactions.per_second.{mode}", "transactions", "bare", 1.0),
            *("transactions/s", "transactions", f"ours.{mode}"),
        )
    for mode in ("partition", "member"):
        yield Row(
            *(f"exactly_once.messages.{mode}", "exactly_once", "bare", 2.0), ours=f"ours.{mode}"
        )


def _alone() -> Iterator[Row]:
    """Yield the rows without a baseline."""
    acks = "acks/s"
    yield Row("ledger.in_order", "ledger", None, 3_000_000.0, acks, ours="in_order")
    yield Row("ledger.random", "ledger", None, 1_500_000.0, acks, ours="random")
    yield _lower(
        "ledger.in_order.bytes", "ledger", None, 100.0, "bytes a message", "bytes", "memory"
    )
    for what, goal in (("sent", 150_000.0), ("consumed", 500_000.0)):
        yield Row(f"memory_broker.{what}", "memory_broker", None, goal, measure=what)
        yield Row(
            *(f"memory_broker.{what}.each", "memory_broker", None, None),
            **{"measure": what, "ours": "ours.each"},
        )


def _growth() -> Iterator[Row]:
    """Yield rows that compare the cost of a message at large numbers with that at small numbers."""
    for number in SCALES[1:]:
        yield _lower(
            *(f"growth.partitions.{number}", "growth.partitions", str(SCALES[0]), None),
            *("us a message", "microseconds", str(number)),
        )
    for number in IN_FLIGHT[1:]:
        yield _lower(
            *(f"growth.in_flight.{number}", "growth.in_flight", str(IN_FLIGHT[0]), None),
            *("ns an ack", "nanoseconds", str(number)),
        )
    for part, unit in (("", "ns an ack"), ("commit_", "ns a commit")):
        yield _lower(
            *(f"growth.stuck.{part or 'ack_'}time", "growth.stuck", "none", None, unit),
            *(f"{part}nanoseconds", "one"),
        )
    yield _lower("growth.stuck.held", "growth.stuck", None, 1.0, "messages", "held", "one")


ROWS = (
    *_consuming(),
    *_handling(),
    *_observing(),
    *_producing(),
    *_groups(),
    *_memory(),
    *_transactions(),
    *_alone(),
    *_growth(),
)


def rows_of(names: Sequence[str]) -> list[Row]:
    """Return the rows with these names, or with names that begin so. Raises ValueError."""
    found = []
    for name in names:
        rows = [row for row in ROWS if belongs_to(row.name, (name,)) is not None]
        if not rows:
            raise ValueError(f"there is no row {name!r}: `--list` shows all of them")
        found += rows
    return list(dict.fromkeys(found))


def with_siblings(rows: Sequence[Row]) -> list[Row]:
    """Return all rows of the experiments of these rows."""
    experiments = {row.experiment for row in rows}
    return [row for row in ROWS if row.experiment in experiments]
