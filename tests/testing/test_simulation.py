"""Simulations: a good service passes, a naive one fails, and a seed repeats the whole run."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import example, find, given, settings
from hypothesis import strategies as st

from tests.effort import SEEDS
from tests.testing.services import (
    TOPICS,
    exactly_once,
    exactly_once_by_partition,
    good,
    good_by_partition,
    good_by_the_batch,
    naive,
    naive_by_a_buffer,
)
from transport import TP, App, Message
from transport.drivers.base import Driver
from transport.testing import (
    Crash,
    History,
    InvariantViolated,
    Report,
    Start,
    Write,
    simulate,
)
from transport.testing.strategies import histories

ORDERS = TP("orders", 0)
MODES = pytest.mark.parametrize("mode", ["member", "partition"])


def once_each(report: Report) -> Counter[bytes | None]:
    return Counter(
        b"%d-%d" % (tp.partition, offset)
        for tp, offsets in report.books.written.items()
        for offset in offsets
    )


@pytest.mark.parametrize("service", [good, good_by_the_batch, good_by_partition])
@given(histories(TOPICS), st.integers(0, 1000))
def test_a_good_service_loses_nothing(service: Any, history: History, seed: int) -> None:
    report = simulate(service, topics=TOPICS, history=history, seed=seed)
    report.check()
    assert report.lost == []
    assert set(report.handled) == {
        (tp, offset) for tp, offsets in report.books.written.items() for offset in offsets
    }


# With 59 and 1183, a commit reaches the broker after the rebalance. It must not replace the offset
# that the next owner has committed.
@pytest.mark.parametrize("seed", sorted({*SEEDS, 59, 1183}))
def test_good_service_passes_histories_drawn_from_seeds(seed: int) -> None:
    simulate(good, topics=TOPICS, seed=seed).check()


# Readers of committed records wait for a transaction that a crash has left open, until its timeout.
LEFT_OPEN = History(dict(TOPICS), (Write(TP("orders", 0), 1), Start(), Crash(0, after=0.1)))


@pytest.mark.parametrize("service", [exactly_once, exactly_once_by_partition])
@MODES
@given(histories(TOPICS, most=30), st.integers(0, 1000))
@example(LEFT_OPEN, 0)
@settings(max_examples=settings.default.max_examples // 2)
def test_exactly_once_is_seen_once(service: Any, mode: str, history: History, seed: int) -> None:
    """I9."""
    topics, outputs = TOPICS, {"bills": 2}
    report = simulate(service(mode), topics=topics, outputs=outputs, history=history, seed=seed)
    report.check()
    assert report.outputs == once_each(report), report.told(AssertionError("not once each"))


@pytest.mark.parametrize("service", [naive, naive_by_a_buffer])
def test_naive_service_violates_an_invariant(service: Any) -> None:
    found = find(
        histories(TOPICS, most=10),
        lambda history: simulate(service, topics=TOPICS, history=history).violation is not None,
        settings=settings(max_examples=300, derandomize=True, database=None),
    )
    report = simulate(service, topics=TOPICS, history=found)
    assert len(found.events) <= 3
    with pytest.raises(
        InvariantViolated, match=r"I1: orders-0 was committed up to 1, and 0 is not"
    ):
        report.check()


def test_failure_shows_its_seed_and_its_timeline() -> None:
    history = History(TOPICS, [Start(), Write(ORDERS), Crash(0, after=2.0)])
    report = simulate(naive_by_a_buffer, topics=TOPICS, history=history, seed=12)
    with pytest.raises(InvariantViolated) as raised:
        report.check()
    lines = str(raised.value).splitlines()
    assert "(seed 12)" in lines[0]
    assert [line.split("  ")[-1] for line in lines[1:4]] == [
        "starts",
        "orders-0: 1 records from 0 on",
        "billing has committed orders-0: 1, orders-1: 0",
    ]


def test_work_that_is_done_twice_is_counted() -> None:
    """The member crashes after the work and before its commit."""
    history = History(TOPICS, [Start(), Write(ORDERS, 2), Crash(0, after=0.45)])
    report = simulate(good, topics=TOPICS, history=history)
    report.check()
    assert report.handled == {(ORDERS, 0): 2, (ORDERS, 1): 1}
    assert report.doubled == {(ORDERS, 0): 2}


def test_record_that_is_never_done_is_lost() -> None:
    async def idle(broker: Any, done: Any) -> None:
        async with App("billing", broker=broker) as app:
            async for order in app.topic("orders").noack():
                if order.offset != 1:
                    done(order)
                    order.ack()

    report = simulate(idle, topics=TOPICS, history=History(TOPICS, [Write(ORDERS, 3)]))
    assert report.lost == [(ORDERS, 1)]
    with pytest.raises(InvariantViolated, match="I3: 1 records were lost, first orders-0 offset 1"):
        report.check()


def test_error_of_a_service_is_reported() -> None:
    async def failing(broker: Any, done: Any) -> None:
        async with App("billing", broker=broker) as app:
            async for _ in app.topic("orders").noack():
                raise ZeroDivisionError

    report = simulate(failing, topics=TOPICS, history=History(TOPICS, [Start(), Write(ORDERS)]))
    assert report.errors
    with pytest.raises(AssertionError):
        report.check()


def test_same_seed_gives_the_same_run() -> None:
    first, again = (simulate(good, topics=TOPICS, seed=3) for _ in range(2))
    assert str(first.timeline) == str(again.timeline)
    assert str(first.timeline) != str(simulate(good, topics=TOPICS, seed=4).timeline)


def test_members_do_not_share_the_sockets_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_NURSERY_STATUS_SOCKET", "/absent/socket")
    monkeypatch.setenv("KAFKA_NURSERY_WEB", "192.0.2.1:80")

    def service(broker: Driver) -> App:
        app = App("billing", broker=broker)

        @app.handler(app.topic("orders"))
        async def bill(message: Message) -> None:
            pass

        return app

    simulate(service, topics=TOPICS, history=History(TOPICS, [Start(), Write(ORDERS)])).check()
