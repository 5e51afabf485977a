"""The answer of an app to a probe."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from nurseries import Node, State
from tests.apps import app_on, broker_with, evict_all
from tests.lanes import Place
from transport import TP, App, BrokerUnavailable, Health, Message, PartitionStatus, Status
from transport.inspecting.health import health_of

ORDERS_0 = TP("orders", 0)
ORDERS = PartitionStatus(
    topic="orders",
    partition=0,
    position=10,
    highwater=10,
    committed=4,
    lag=6,
    waiting=2,
    unacked=1,
    is_paused=False,
    stuck=None,
)
RUNNING = Status(
    app="billing",
    pid=1,
    at=0.0,
    client="memory",
    has_crashed=False,
    has_stopped=False,
    topics=("orders",),
    is_member=True,
    is_polled=True,
    generation=1,
    in_flight=0,
    partitions=(ORDERS,),
    handlers=(),
    tree=Node("App(billing)", State.RUNNING),
)


def with_state(state: State, **changes: Any) -> Status:
    return attrs.evolve(RUNNING, tree=Node("App(billing)", state), **changes)


def with_partition(**changes: Any) -> Status:
    return attrs.evolve(RUNNING, partitions=(ORDERS, attrs.evolve(ORDERS, partition=1, **changes)))


def test_an_app_at_work_is_live_and_ready() -> None:
    assert health_of(RUNNING, 10) == Health(live=True, ready=True, reasons=())
    assert health_of(attrs.evolve(RUNNING, is_member=None, partitions=()), 10).ready


@pytest.mark.parametrize(
    ("status", "live", "reason"),
    [
        (with_state(State.IDLE), True, "the app is not open yet"),
        (with_state(State.STARTING), True, "the app is not open yet"),
        (with_state(State.STOPPING), True, "the app is closing"),
        (
            with_state(State.STOPPING, has_crashed=True),
            True,
            "the app is closing after an error",
        ),
        (with_state(State.ENDED), False, "the app has closed"),
        (with_state(State.ENDED, has_crashed=True), False, "the app has crashed"),
        (
            attrs.evolve(RUNNING, is_polled=False),
            False,
            "the client is not polled: its thread, or the polling task, hangs",
        ),
        (
            attrs.evolve(RUNNING, is_member=False, partitions=()),
            True,
            "the app has not joined its group, or was removed from it",
        ),
        (
            with_partition(stuck="delivered and not acked: why"),
            True,
            "orders-1 is stuck: delivered and not acked: why",
        ),
        (with_partition(highwater=None, lag=None), True, "orders-1 was not fetched from yet"),
        (
            with_partition(lag=1_995),
            True,
            "the app is 2,001 messages behind, which is more than ready_lag (2,000)",
        ),
    ],
)
def test_what_is_wrong_is_a_reason(status: Status, live: bool, reason: str) -> None:
    assert health_of(status, 2_000) == Health(live=live, ready=False, reasons=(reason,))


@pytest.mark.parametrize(
    "status", [with_partition(lag=1_994), with_partition(highwater=None, lag=None, is_paused=True)]
)
def test_what_may_be_is_no_reason(status: Status) -> None:
    assert health_of(status, 2_000).ready


def test_without_a_bound_the_lag_does_not_count() -> None:
    assert health_of(with_partition(lag=10**9), None).ready


def test_all_reasons_are_given() -> None:
    status = attrs.evolve(with_partition(stuck="why"), is_polled=False, is_member=False)
    assert len(health_of(status, 0).reasons) == 4


async def test_health_over_the_life_of_an_app(place: Place) -> None:
    async with place.opened(1, *[b"value"] * 3, ready_lag=2) as app:
        assert app.health().ready  # it reads no topic
        messages = aiter(app.topic(place.name))
        first = await anext(messages)
        assert app.health().reasons == (
            "the app is 3 messages behind, which is more than ready_lag (2)",
        )
        first.ack()
        await app.consumer.commit()
        assert app.health().ready
        app.stop()
        assert app.health() == Health(
            live=True, ready=False, reasons=("the app was stopped: its loops and handlers end",)
        )
    assert app.health() == Health(live=False, ready=False, reasons=("the app has closed",))


class Probed(App):
    """An app that asks for its own health while partitions are revoked or lost."""

    reasons: tuple[str, ...] = ()

    async def on_partitions_revoked(self, revoked: frozenset[TP]) -> None:
        self.reasons = self.health().reasons


async def test_an_evicted_member_is_not_ready_until_it_is_back(autojump_clock: MockClock) -> None:
    broker = broker_with(ORDERS_0, records=1)
    async with app_on(broker, kind=Probed) as app:
        messages = aiter(app.topic("orders"))
        await anext(messages)
        assert app.health().ready
        evict_all(broker)
        await anext(messages)  # redelivered in the new generation
        assert app.health().ready
    assert app.reasons == ("the app has not joined its group, or was removed from it",)


async def test_a_crashed_app_is_not_live(autojump_clock: MockClock) -> None:
    app = app_on(broker_with(ORDERS_0, records=1))

    @app.handler(app.topic("orders"))
    async def fail(message: Message) -> None:
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with app:
            await trio.sleep_forever()
    assert app.health() == Health(live=False, ready=False, reasons=("the app has crashed",))


async def test_an_app_that_could_not_be_opened_has_crashed() -> None:
    app = App("group", "kafka://127.0.0.1:1", connect_timeout=0.1)
    with pytest.RaisesGroup(BrokerUnavailable, flatten_subgroups=True):
        await app.__aenter__()
    assert app.health() == Health(live=False, ready=False, reasons=("the app has crashed",))


async def test_a_stuck_partition_is_a_reason_after_the_next_search(
    autojump_clock: MockClock,
) -> None:
    app = app_on(broker_with(ORDERS_0, records=1), stuck_ack_timeout=100.0)
    async with app:
        await anext(aiter(app.topic("orders")))
        assert app.health().ready
        await trio.sleep(200)
        (reason,) = app.health().reasons
        assert reason.startswith("orders-0 is stuck: delivered and not acked: a handler has not")
        assert app.health().live


def test_an_app_that_was_not_opened_is_not_ready() -> None:
    assert App("billing").health() == Health(
        live=True, ready=False, reasons=("the app is not open yet",)
    )
