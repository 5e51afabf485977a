"""The experiments: their contenders, which run in turn with the same job.

Several rows can use one experiment, which saves time. `rows.py` says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.environments import JAVA, PROJECT
from benchmarks.shapes import (
    BACKLOG,
    GZIP,
    KEYED,
    KILO,
    LARGE,
    LZ4,
    QUIET,
    SCALES,
    SINGLE,
    SMALL,
    SPREAD,
    ZSTD,
    Shape,
)

# The parts of the contenders' answers that are compared.
ALL = ("count", "checksum")
COUNT = ("count",)  # the contenders handle the same number of messages, but of other partitions


@dataclass(frozen=True)
class Contender:
    """A program with a job.

    Attributes:
        program: a file of `contenders/`, without its suffix.
        work: the name of one of the program's works.
        environment: the environment that it runs in.
        shape: the records of the topic that it reads. None: those of the experiment.
        options: further parameters of the work.
        messages: the number of messages. None: that of the experiment.
    """

    program: str
    work: str
    environment: str = PROJECT
    shape: Shape | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    messages: int | None = None


@dataclass(frozen=True)
class Experiment:
    """Contenders and their job.

    Attributes:
        messages: the number of messages for each contender in each round.
        quick: the same number in a quick run. None: a quick run leaves this experiment out.
        backlog: messages in the topic. None: as many as are read.
        shape: the records of the topic that they read. None: they read none, or have their own.
        size: bytes of the values that they send. 0: they send none.
        verified: whether written messages are read back and compared.
        same: the parts of the contenders' answers that must be the same.
        at_once: whether they run at the same time instead of in turn, because they only wait.
        rounds: the number of rounds that count. If there are several, a warm-up round comes first.
        quick_rounds: the number of rounds in a quick run.
    """

    name: str
    contenders: Mapping[str, Contender]
    messages: int
    quick: int | None = None
    backlog: int | None = None
    shape: Shape | None = None
    size: int = 0
    verified: bool = False
    same: tuple[str, ...] = ALL
    at_once: bool = False
    rounds: int = 5
    quick_rounds: int = 3


def _reads(work: str, **options: Any) -> Contender:
    return Contender("ours_consuming", work, options=options)


def _sends(work: str, **options: Any) -> Contender:
    return Contender("ours_producing", work, options=options)


_ours = _reads("messages")
_bare = Contender("bare_consuming", "messages")
_aiokafka = Contender("aiokafka_peer", "messages", "aiokafka")
_getmany = Contender("aiokafka_peer", "getmany", "aiokafka")
_confluent = Contender("confluent_peer", "messages", "confluent")
_handlers = Contender("ours_handling", "handlers")
_parallel = Contender("ParallelPeer", "handlers", JAVA)
_on = {
    (work, backend): Contender("ours_on_anyio", work, options={"backend": backend})
    for work in ("send", "consume")
    for backend in ("trio", "asyncio")
}


def _with(contender: Contender, shape: Shape | None = None, **options: Any) -> Contender:
    return replace(contender, shape=shape, options={**contender.options, **options})


def _ledger(work: str, messages: int | None = None, **options: Any) -> Contender:
    return Contender("ours_ledger", work, options=options, messages=messages)


def _handling(
    order: str, tasks: int = 100, handler: float = 0.0, tuned: bool = False
) -> dict[str, Any]:
    """Return the options of handlers.

    Arguments:
        tasks: the number of handlers at once.
        handler: seconds that each handler sleeps.
        tuned: whether the contenders are tuned, and the clock starts after a warm-up.
    """
    return {
        "order": order,
        "tasks": tasks,
        "handler": handler,
        "warm_up": 100_000 if tuned else 0,
        "tuned": tuned,
    }


def _handlers_of(name: str, messages: int, *options: Any, **further: Any) -> Experiment:
    handling = _handling(*options, **further)
    return Experiment(
        name,
        {
            "parallel_consumer": _with(_parallel, **handling),
            "ours": _with(_handlers, **handling),
        },
        messages=messages,
        shape=KEYED,
    )


def _observing(work: str, messages: int) -> Experiment:
    """Return an experiment with an app that has no monitor and no tracing, and apps with them."""
    options: Mapping[str, Mapping[str, Any]] = {
        "off": {},
        "monitor": {"monitor": "counts"},
        "prometheus": {"monitor": "prometheus"},
        "traces.1": {"share": 0.01},
        "traces.100": {"share": 1.0},
    }
    return Experiment(
        work,
        {name: Contender("ours_observed", work, options=each) for name, each in options.items()},
        messages=messages,
        size=100,
    )


_MODES = ("partition", "member")
_NO_COMMITS = 3600.0
BUFFER = 16_384  # the default limit of an App, in messages
_PAUSE = 0.01  # seconds that a slow handler sleeps
IN_FLIGHT = (1_000, 10_000, 100_000, 1_000_000)

EXPERIMENTS = {
    each.name: each
    for each in (
        Experiment(
            "consume.100B",
            {
                "bare": _bare,
                "ours": _ours,
                "aiokafka": _aiokafka,
                "ours.batches": _reads("batches"),
                "aiokafka.getmany": _getmany,
                "ours.concurrent": _reads("concurrent", tasks=100),
                "confluent": _confluent,
                "parallel_consumer": _with(_parallel, **_handling("none")),
            },
            messages=600_000,
            quick=200_000,
            shape=SMALL,
        ),
        Experiment("consume.1kB", {"bare": _bare, "ours": _ours}, messages=200_000, shape=KILO),
        *(
            Experiment(
                f"consume.compressed.{shape.codec}",
                {"aiokafka": _aiokafka, "ours": _ours},
                messages=300_000,
                shape=shape,
            )
            for shape in (ZSTD, LZ4, GZIP)
        ),
        Experiment(
            "consume.single.100B",
            {"bare": _bare, "ours": _ours, "aiokafka": _aiokafka},
            messages=200_000,
            quick=100_000,
            shape=SINGLE,
        ),
        Experiment(
            "consume.large.900kB", {"bare": _bare, "ours": _ours}, messages=1_000, shape=LARGE
        ),
        Experiment(
            "consume.large.900kB.handled",
            {
                "bare": Contender("bare_consuming", "handled", options={"handler": 0.05}),
                "ours": _reads("handled", handler=0.05),
            },
            messages=200,
            backlog=1_000,
            shape=LARGE,
            same=COUNT,
        ),
        _handlers_of("handlers.key.noop", 200_000, "key"),
        _handlers_of("handlers.key.noop.tuned", 500_000, "key", tuned=True),
        _handlers_of("handlers.key.10ms.100", 100_000, "key", 100, _PAUSE),
        _handlers_of("handlers.key.10ms.1000", 200_000, "key", 1000, _PAUSE),
        _handlers_of("handlers.key.10ms.1000.tuned", 500_000, "key", 1000, _PAUSE, tuned=True),
        _handlers_of("handlers.none.noop", 200_000, "none"),
        _handlers_of("handlers.none.noop.tuned", 500_000, "none", tuned=True),
        Experiment(
            "handlers.overhead",
            {"loop": _ours, "ours": _with(_handlers, **_handling("partition", tasks=1))},
            messages=600_000,
            quick=200_000,
            shape=SMALL,
        ),
        _observing("observed", 50_000),
        _observing("observed_batches", 200_000),
        Experiment(
            "consume.vs_faust.100B",
            {"faust": Contender("faust_peer", "agent", "faust"), "ours": _ours},
            messages=100_000,
            shape=SMALL,
        ),
        Experiment(
            "consume.vs_faststream.100B",
            {"faststream": Contender("faststream_peer", "subscriber", "faststream"), "ours": _ours},
            messages=60_000,
            shape=SMALL,
        ),
        Experiment(
            "produce.100B",
            {
                "bare": Contender("bare_producing", "send"),
                "ours": _sends("send"),
                "aiokafka": Contender("aiokafka_peer", "send", "aiokafka"),
                "ours.send_many": _sends("send_many"),
                "confluent": Contender("confluent_peer", "send", "confluent"),
            },
            messages=200_000,
            quick=60_000,
            size=100,
            verified=True,
        ),
        Experiment(
            "produce.1kB",
            {"bare": Contender("bare_producing", "send"), "ours": _sends("send")},
            messages=100_000,
            size=1000,
            verified=True,
        ),
        Experiment(
            "produce.in_turn",
            {"bare": Contender("bare_producing", "in_turn"), "ours": _sends("in_turn")},
            messages=3_000,
            size=100,
            verified=True,
        ),
        Experiment(
            "produce.at_once",
            {"bare": Contender("bare_producing", "send"), "ours": _sends("at_once", tasks=1000)},
            messages=100_000,
            size=100,
            verified=True,
        ),
        Experiment(
            "asyncio.send",
            {"trio": _on["send", "trio"], "asyncio": _on["send", "asyncio"]},
            messages=50_000,
            quick=20_000,
            size=100,
            verified=True,
        ),
        Experiment(
            "asyncio.consume",
            {"trio": _on["consume", "trio"], "asyncio": _on["consume", "asyncio"]},
            messages=600_000,
            shape=SMALL,
        ),
        Experiment(
            "latency",
            {
                "bare": Contender(
                    "bare_consuming", "latency", options={"rate": 1000, "warm_up": 1000}
                ),
                "ours": _reads("latency", rate=1000, warm_up=1000),
            },
            messages=5_000,
            quick=3_000,
            size=20,
            quick_rounds=2,
        ),
        Experiment(
            "idle.cpu",
            {
                f"{who}.{partitions}": _with(contender, QUIET[partitions], seconds=30.0, settle=5.0)
                for partitions in QUIET
                for who, contender in (
                    ("bare", Contender("bare_consuming", "idle")),
                    ("ours", _reads("idle")),
                )
            },
            messages=0,
            quick=0,
            at_once=True,
            quick_rounds=1,
        ),
        Experiment(
            "backlog.handled",
            {
                "bare": Contender("bare_consuming", "handled", options={"handler": 0.001}),
                "ours": _reads("handled", handler=0.001),
            },
            messages=5_000,
            quick=2_000,
            backlog=1_000_000,
            shape=BACKLOG,
            same=COUNT,
        ),
        Experiment(
            "loop.delay",
            {"ours": _reads("loop_delay", interval=0.005)},
            messages=1_000_000,
            shape=BACKLOG,
        ),
        Experiment(
            "scale.partitions",
            {
                f"{who}.{partitions}": _with(contender, SPREAD[partitions])
                for partitions in SCALES
                for who, contender in (("bare", _bare), ("ours", _ours))
            },
            messages=200_000,
        ),
        Experiment(
            "scale.commit",
            {
                "bare": _with(_bare, commit_interval=_NO_COMMITS),
                "ours": _with(_ours, commit_interval=_NO_COMMITS),
            },
            messages=200_000,
            shape=SPREAD[1000],
        ),
        Experiment(
            "rebalance.join",
            {
                "bare": Contender("bare_joining", "join", options={"settle": 5.0}),
                "ours": Contender("ours_joining", "join", options={"settle": 5.0}),
            },
            messages=0,
            size=7,
        ),
        Experiment(
            "transactions",
            {
                "bare": Contender("bare_transforming", "transactions", options={"each": 10}),
                **{
                    f"ours.{mode}": Contender(
                        "ours_transforming", "transactions", options={"mode": mode, "each": 10}
                    )
                    for mode in _MODES
                },
            },
            messages=2_000,
            shape=SMALL,
            size=100,
            verified=True,
        ),
        Experiment(
            "exactly_once",
            {
                "bare": Contender("bare_transforming", "exactly_once"),
                **{
                    f"ours.{mode}": Contender(
                        "ours_transforming", "exactly_once", options={"mode": mode}
                    )
                    for mode in _MODES
                },
            },
            messages=100_000,
            shape=SMALL,
            size=100,
            verified=True,
        ),
        Experiment(
            "memory_broker",
            {
                "ours": Contender("ours_in_memory", "pipeline", options={"by_batch": True}),
                "ours.each": Contender("ours_in_memory", "pipeline"),
            },
            messages=200_000,
            size=100,
        ),
        Experiment(
            "memory.flat.fast",
            {"ours": _reads("memory_flat", every=10_000, handler=0.0)},
            messages=10_000_000,
            shape=SMALL,
            rounds=1,
        ),
        Experiment(
            "memory.flat.slow",
            {"ours": _reads("memory_flat", every=1_000, handler=0.01)},
            messages=10_000_000,
            shape=SMALL,
            rounds=1,
        ),
        Experiment(
            "ledger",
            {
                "in_order": _ledger("acks", order="in_order", in_flight=BUFFER),
                "random": _ledger("acks", order="random", in_flight=BUFFER),
                "memory": _ledger("memory"),
            },
            messages=1_000_000,
        ),
        Experiment(
            "growth.partitions",
            {
                str(partitions): Contender(
                    "ours_in_memory", "pipeline", options={"partitions": partitions}
                )
                for partitions in SCALES
            },
            messages=200_000,
            size=100,
        ),
        Experiment(
            "growth.in_flight",
            {str(number): _ledger("acks", number, order="in_order") for number in IN_FLIGHT},
            messages=0,
            same=(),
        ),
        Experiment(
            "growth.stuck",
            {
                "none": _ledger("stuck", stuck=False),
                "one": _ledger("stuck", stuck=True),
            },
            messages=1_000_000,
        ),
    )
}
