"""An observer of handlers receives each event once, with the attempts so far."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio

from tests.apps import A_WHILE, app_on, broker_with
from tests.nurseries.clock import jumping
from transport import TP, App, MemoryBroker, Message, Retry
from transport.drivers.memory import MemoryDriver
from transport.handling.attempts import Attempts
from transport.handling.observer import Held, Observer
from transport.handling.plan import Plan

ORDERS = TP("orders", 0)


class Listed(Observer):
    """Lists the events."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    def on_handled(self, plan: Plan, held: Held) -> None:
        self.events.append(("handled", plan.name, *_offsets(held)))

    def on_filtered(self, plan: Plan, held: Held) -> None:
        self.events.append(("filtered", plan.name, *_offsets(held)))

    def on_failed(self, plan: Plan, held: Held, attempts: Attempts, delay: float | None) -> None:
        self.events.append(("failed", plan.name, *_offsets(held), attempts.failed, delay))

    def on_dead_letter(self, plan: Plan, held: Held, attempts: Attempts) -> None:
        self.events.append(("dead letter", plan.name, *_offsets(held), attempts.failed))

    def on_skipped(self, plan: Plan, held: Held, attempts: Attempts) -> None:
        self.events.append(("skipped", plan.name, *_offsets(held), attempts.failed))


def _offsets(held: Held) -> list[int]:
    return [held.offset] if isinstance(held, Message) else [each.offset for each in held]


async def events_of(broker: MemoryBroker, fn: Any, **options: Any) -> list[tuple[object, ...]]:
    """Return the events of a handler of the topic "orders"."""
    app, listed = app_on(broker), Listed()
    app.handlers.observers.append(listed)
    if options.get("dead_letters") == "dead":
        options["dead_letters"] = app.topic("dead")
    app.handler(app.topic("orders"), fn, name="bill", **options)
    async with app:
        await trio.sleep(A_WHILE)
    return listed.events


async def fails_at_first(message: Message) -> None:
    if message.offset == 0:
        raise ValueError(message.offset)


@jumping
async def test_observer_is_told_of_handled_and_filtered_messages() -> None:
    events = await events_of(
        broker_with(ORDERS, records=2), fails_at_first, filter=lambda message: message.offset > 0
    )
    assert events == [("filtered", "bill", 0), ("handled", "bill", 1)]


@jumping
async def test_observer_is_told_of_each_attempt_and_of_the_dead_letter(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At INFO, the log has the first failure of 10 s, and the dead letter."""
    caplog.set_level(logging.INFO, "transport.handler")
    retry = Retry(attempts=3, wait_initial=2.0, wait_jitter=0)
    events = await events_of(
        broker_with(ORDERS, records=2), fails_at_first, retry=retry, dead_letters="dead"
    )
    assert events == [
        ("failed", "bill", 0, 1, 2.0),
        ("failed", "bill", 0, 2, 4.0),
        ("failed", "bill", 0, 3, None),
        ("dead letter", "bill", 0, 3),
        ("handled", "bill", 1),
    ]
    assert [each.getMessage() for each in caplog.records if each.levelno == logging.INFO] == [
        "group: handler bill: attempt 1 of <Message orders-0 0 unacked> failed and is repeated in"
        " 2 s: ValueError(0)",
        "group: handler bill: orders-0 offset 0 failed at attempt 3 and is a dead letter in dead:"
        " ValueError(0)",
    ]


@jumping
async def test_observer_is_told_of_skipped_messages() -> None:
    events = await events_of(broker_with(ORDERS, records=2), fails_at_first, dead_letters="skip")
    assert events == [
        ("failed", "bill", 0, 1, None),
        ("skipped", "bill", 0, 1),
        ("handled", "bill", 1),
    ]


@jumping
async def test_observer_is_told_of_a_filter_that_fails() -> None:
    def fails(message: Message) -> bool:
        raise ValueError

    events = await events_of(
        broker_with(ORDERS, records=1), fails_at_first, filter=fails, dead_letters="skip"
    )
    assert events == [("failed", "bill", 0, 1, None), ("skipped", "bill", 0, 1)]


@jumping
async def test_driver_can_bring_an_observer_along() -> None:
    class ObservedDriver(MemoryDriver):
        observer = Listed()

    broker = broker_with(ORDERS, records=2)
    app = App("group", ObservedDriver(broker=broker))
    app.handler(app.topic("orders"), fails_at_first, filter=lambda message: message.offset == 1)
    async with app:
        await trio.sleep(A_WHILE)
    assert ObservedDriver.observer.events == [
        ("filtered", "fails_at_first", 0),
        ("handled", "fails_at_first", 1),
    ]
