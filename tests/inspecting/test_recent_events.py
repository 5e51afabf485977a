"""The last rebalances, errors and dead letters of an app: what is kept, what is left out."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from tests.apps import app_on, broker_with, evict_all, nothing_comes, write
from tests.lanes import NEVER
from tests.nurseries.clock import jumping
from tests.scripted import fails, replace
from transport import TP, App, Batch, Monitor, Retry, Sensors
from transport.errors import CommitUnknown, DeliveryFailed, DeliveryTimeout
from transport.inspecting.recent_events import RecentEvents

ORDERS = TP("orders", 0)
DEAD = TP("dead", 0)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def failing(error: Exception) -> Callable[[Any], Awaitable[None]]:
    async def handle(message: Any) -> None:
        raise error

    return handle


async def events_of(
    error: Exception, *, letters: str = "skip", count: int = 1, **options: Any
) -> RecentEvents:
    """Return the events of an app whose handler has failed for each of `count` messages."""
    broker, recent = broker_with(ORDERS, DEAD), RecentEvents()
    write(broker, ORDERS, count)
    app = app_on(broker, monitor=recent)
    treatment: Any = app.topic("dead") if letters == "dead" else letters
    app.handler(app.topic("orders"), failing(error), name="bill", dead_letters=treatment, **options)
    async with app:
        await trio.sleep(60)
    return recent


@jumping
async def test_an_error_has_its_place_its_offset_and_what_follows() -> None:
    recent = await events_of(ValueError("no such customer"))
    (error,) = recent.errors
    assert (error.place, error.partition, error.offsets) == ("handler bill", "orders-0", "0")
    assert (error.error, error.text) == ("ValueError", "no such customer")
    assert (error.outcome, error.count) == ("is skipped", 1)
    assert abs(error.at - time.time()) < 60
    assert not recent.dead_letters


@jumping
async def test_repeated_errors_of_a_message_are_one_error_with_a_count() -> None:
    recent = await events_of(ValueError(), count=2, retry=Retry(attempts=3))
    assert [(error.offsets, error.count) for error in recent.errors] == [("0", 3), ("1", 3)]
    assert {error.outcome for error in recent.errors} == {"is skipped"}


@jumping
async def test_a_dead_letter_has_its_source_its_topic_and_its_attempts() -> None:
    recent = await events_of(ValueError("no"), letters="dead", retry=Retry(attempts=2))
    (letter,) = recent.dead_letters
    assert (letter.handler, letter.topic, letter.attempts) == ("bill", "dead", 2)
    assert (letter.partition, letter.offsets) == ("orders-0", "0")
    assert (letter.error, letter.text) == ("ValueError", "no")
    assert recent.errors[-1].outcome == "becomes a dead letter in dead"


@jumping
async def test_only_the_last_hundred_are_kept() -> None:
    recent = await events_of(ValueError(), letters="dead", count=150)
    assert [letter.offsets for letter in recent.dead_letters] == [str(n) for n in range(50, 150)]
    assert [error.offsets for error in recent.errors] == [str(n) for n in range(50, 150)]


@jumping
async def test_a_long_text_is_cut_and_is_one_line() -> None:
    recent = await events_of(ValueError("line\n" * 1_000_000))
    (error,) = recent.errors
    assert len(error.text) < 300
    assert "\n" not in error.text


@jumping
async def test_an_error_whose_text_cannot_be_made_is_kept_by_its_class() -> None:
    recent = await events_of(Unprintable())
    (error,) = recent.errors
    assert error.error == "Unprintable"
    assert error.text == "the text of this error cannot be shown: RuntimeError"


@jumping
async def test_a_value_that_cannot_be_decoded_is_not_kept() -> None:
    broker, recent = broker_with(ORDERS), RecentEvents()
    write(broker, ORDERS, 1, b"secret")
    app = app_on(broker, monitor=recent)
    orders = app.topic("orders", value_type=int)
    app.handler(orders, failing(ValueError()), dead_letters="skip")
    async with app:
        await trio.sleep(60)
    (error,) = recent.errors
    assert error.error == "DecodeError"
    assert error.text == "the value cannot be decoded: the log has the error"


@jumping
async def test_the_error_of_a_batch_has_its_first_and_its_last_offset() -> None:
    broker, recent = broker_with(ORDERS, records=5), RecentEvents()
    app = app_on(broker, monitor=recent)

    async def handle(batch: Batch) -> None:
        raise ValueError

    app.batch_handler(app.topic("orders"), handle, split=False, dead_letters="skip")
    async with app:
        await trio.sleep(60)
    assert recent.errors[0].offsets == "0-4"


@jumping
async def test_the_error_that_ends_the_app_is_kept() -> None:
    recent = RecentEvents()
    app = app_on(broker_with(ORDERS, records=1), monitor=recent)
    app.handler(app.topic("orders"), failing(ValueError("the end")))
    with pytest.RaisesGroup(ValueError, flatten_subgroups=True):
        async with app:
            await trio.sleep(60)
    assert [(error.text, error.outcome) for error in recent.errors] == [("the end", "the app ends")]


@jumping
async def test_the_error_of_the_block_is_kept() -> None:
    recent = RecentEvents()
    with pytest.RaisesGroup(ValueError, flatten_subgroups=True):
        async with app_on(broker_with(ORDERS), monitor=recent):
            raise ValueError("of the block")
    assert [(error.place, error.text) for error in recent.errors] == [
        ("the block of the app", "of the block")
    ]


@jumping
async def test_the_errors_in_a_group_of_the_block_are_kept_and_a_cancel_is_not() -> None:
    recent = RecentEvents()
    with pytest.RaisesGroup(ValueError, KeyError, flatten_subgroups=True):
        async with app_on(broker_with(ORDERS), monitor=recent):
            raise ExceptionGroup("outer", [ValueError(), ExceptionGroup("inner", [KeyError()])])
    assert [error.error for error in recent.errors] == ["ValueError", "KeyError"]
    recent = RecentEvents()
    with trio.CancelScope() as scope:
        async with app_on(broker_with(ORDERS), monitor=recent):
            scope.cancel()
            await trio.sleep(1)
    assert not recent.errors


@jumping
async def test_a_rebalance_has_its_partitions_and_its_time() -> None:
    broker, recent = broker_with(ORDERS, TP("orders", 1)), RecentEvents()

    class Slow(App):
        async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
            (rebalance,) = recent.rebalances
            assert rebalance.seconds is None
            await trio.sleep(3)

    async with app_on(broker, kind=Slow, monitor=recent) as app:
        app.topic("orders").noack()
        await trio.sleep(60)
        (rebalance,) = recent.rebalances
    assert (rebalance.kind, rebalance.partitions, rebalance.count) == ("assigned", "orders[0-1]", 2)
    assert rebalance.seconds is not None
    assert 3 <= rebalance.seconds < 4


@jumping
async def test_lost_partitions_are_a_rebalance() -> None:
    broker, recent = broker_with(ORDERS), RecentEvents()
    async with app_on(broker, monitor=recent) as app:
        app.topic("orders").noack()
        await trio.sleep(60)
        evict_all(broker)
        await trio.sleep(60)
    assert [each.kind for each in recent.rebalances] == ["assigned", "lost", "assigned"]
    assert [each.number for each in recent.rebalances] == [1, 2, 3]


@jumping
async def test_an_error_of_a_commit_is_kept() -> None:
    recent = RecentEvents()
    broker = broker_with(ORDERS, records=1)
    async with app_on(broker, monitor=recent, commit_interval=NEVER) as app:
        (await anext(app.topic("orders").noack())).ack()
        replace(app, "commit", fails(CommitUnknown("no answer")), once=True)
        with pytest.raises(CommitUnknown):
            await app.consumer.commit()
    (error,) = recent.errors
    assert (error.place, error.error, error.text) == ("commit", "CommitUnknown", "no answer")


@jumping
async def test_the_errors_of_sent_messages_are_kept_by_class_with_their_number() -> None:
    recent = RecentEvents()
    async with app_on(broker_with(ORDERS), monitor=recent) as app:
        errors = [DeliveryFailed("one"), DeliveryFailed("two"), DeliveryTimeout("three")]
        recent.on_sends_error(app.producer, errors)
    kept = {(error.place, error.error, error.text, error.count) for error in recent.errors}
    assert kept == {("send", "DeliveryFailed", "one", 2), ("send", "DeliveryTimeout", "three", 1)}


@jumping
async def test_the_error_of_a_hook_for_assigned_partitions_is_kept() -> None:
    class Fails(App):
        async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
            raise ZeroDivisionError

    recent = RecentEvents()
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with app_on(broker_with(ORDERS), kind=Fails, monitor=recent) as app:
            await nothing_comes(app.topic("orders").noack())
    assert ("assignment", "ZeroDivisionError") in {(e.place, e.error) for e in recent.errors}


# When events are kept


def test_an_app_with_a_page_keeps_events_beside_those_of_its_monitor() -> None:
    monitor = Monitor()
    app = App("orders", "memory://", web="127.0.0.1:0", monitor=monitor)
    assert app.recent_events is not None
    assert app.monitor is monitor


@pytest.mark.parametrize("settings", [{}, {"web": "127.0.0.1:0", "web_page": "off"}])
def test_an_app_without_a_page_keeps_none_and_has_no_monitor(settings: Any) -> None:
    app = App("orders", "memory://", **settings)
    assert app.recent_events is None
    assert app.probe is None


@pytest.mark.parametrize("wrap", [lambda events: events, lambda e: Sensors(Monitor(), e)])
def test_the_events_in_the_monitor_are_those_of_the_app(wrap: Any) -> None:
    recent = RecentEvents()
    app = App("orders", "memory://", monitor=wrap(recent), web="127.0.0.1:0")
    assert app.recent_events is recent


@jumping
async def test_the_monitor_of_an_app_with_a_page_counts_as_without() -> None:
    monitor = Monitor()
    app = App("orders", "memory://", monitor=monitor, web="127.0.0.1:0")
    app.topic("orders")
    async with app:
        await app.producer.create_topic("orders", 1)
        await app.topic("orders").send_and_wait(value=b"value")
        assert monitor.snapshot().sends_completed == 1
