"""Log lines of an app that joined, that waits to join, and that lost partitions."""

from __future__ import annotations

import logging
import re

import pytest
import trio

from tests.apps import app_on, broker_with, evict_all, take
from tests.nurseries.clock import jumping
from transport import TP, App
from transport.consuming.membership import Membership
from transport.drivers.base import Rebalance, RebalanceKind
from transport.log import Log
from transport.types import GroupMetadata

ORDERS = [TP("orders", 0), TP("orders", 1)]


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "transport")


@jumping
async def test_join_is_logged_with_its_partitions(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with app_on(broker_with(*ORDERS, records=1), "kitchen") as app:
        await take(app.topic("orders").noack(), 2)
        await trio.sleep(60)
    connected, joined, *_ = caplog.messages
    assert connected.startswith("kitchen: connected to ")
    assert re.fullmatch(
        r"kitchen: joined its group in generation \d+ as the member '.+', and was assigned"
        r" orders\[0-1\]",
        joined,
    )
    assert not any("has not joined" in line for line in caplog.messages)


@jumping
async def test_moved_partitions_are_logged_once_by_each_member(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = broker_with(*ORDERS, records=1)
    async with app_on(broker) as first:
        first.topic("orders").listen()
        await trio.sleep(10)
        async with app_on(broker) as second:
            second.topic("orders").listen()
            await trio.sleep(10)
            moved = [line for line in caplog.messages if ": releases " in line]
            joined = [line for line in caplog.messages if "joined its group" in line]
    assert len(moved) == 1
    assert len(joined) == 2


@jumping
async def test_lost_partitions_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    broker = broker_with(*ORDERS, records=1)
    async with app_on(broker, "kitchen") as app:
        await take(app.topic("orders").noack(), 2)
        evict_all(broker, "kitchen")
        await trio.sleep(30)
    lost = [record for record in caplog.records if "lost" in record.getMessage()]
    assert [record.levelname for record in lost] == ["WARNING"]
    assert lost[0].getMessage() == (
        "kitchen: lost orders[0-1]: the group continues without this member. Messages that"
        " are not committed will be redelivered"
    )


@jumping
async def test_successor_of_killed_member_warns_that_it_waits_to_join(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = broker_with(*ORDERS, records=1)
    async with app_on(broker, "kitchen") as killed:
        await take(killed.topic("orders").noack(), 1)
        await killed.kill()
        caplog.clear()
        async with app_on(broker, "kitchen") as successor:
            await take(successor.topic("orders").noack(), 1)
    waits = [line for line in caplog.messages if "has not joined its group within 5 s" in line]
    assert len(waits) == 1
    assert "(here: 45 s)" in waits[0]


@jumping
async def test_app_without_topics_does_not_warn_about_the_join(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with App("idle"):
        await trio.sleep(60)
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]


def test_join_without_partitions_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    nothing = Rebalance(RebalanceKind.ASSIGNED, frozenset(), 1, 10.0, lambda seek, pause: None)
    identity = GroupMetadata("kitchen", 1, "a cook")
    membership = Membership(Log("transport.consumer", "kitchen"), lambda: identity, 45.0)
    membership.begun(nothing)
    membership.begun(nothing)
    assert caplog.messages == [
        "kitchen: joined its group in generation 1 as the member 'a cook', and was assigned no"
        " partition"
    ]
