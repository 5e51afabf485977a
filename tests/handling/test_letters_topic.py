"""Tests of the check of the topic of dead letters, when a handler starts."""

from __future__ import annotations

import logging

import pytest
import trio

from tests.apps import app_on, broker_with
from tests.scripted import fails, replace
from transport import TP, AppClosed, AuthorizationFailed, BrokerUnavailable, ClientClosed
from transport.drivers.memory import MemoryBroker
from transport.message import AnyMessage

ORDERS = TP("orders", 0)


async def start(broker: MemoryBroker, error: Exception | None = None) -> None:
    """Start an app whose handler has dead letters, and stop it a second later.

    Args:
        error: of the question about the topic.
    """
    app = app_on(broker)
    if error is not None:
        replace(app, "topic_settings", fails(error))

    @app.handler(app.topic("orders"), dead_letters=app.topic("orders.dead"))
    async def handle(message: AnyMessage) -> None:
        raise AssertionError("there is no message")

    async with app:
        await trio.sleep(1)


async def test_compacted_topic_of_dead_letters_is_refused(autojump_clock: object) -> None:
    broker = broker_with(ORDERS)
    broker.create_topic("orders.dead", 1, {"cleanup.policy": "compact,delete"})
    with pytest.raises(BaseExceptionGroup) as raised:
        await start(broker)
    assert raised.group_contains(ValueError, match="'orders.dead' .* is compacted")


async def test_missing_topic_of_dead_letters_is_a_warning_and_is_not_created(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_with(ORDERS)
    with caplog.at_level(logging.WARNING, "transport.handler"):
        await start(broker)
    assert "orders.dead of its dead letters does not exist" in caplog.text
    assert "orders.dead" not in broker.topics


async def test_fitting_topic_of_dead_letters_causes_no_warning(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "transport.handler"):
        await start(broker_with(ORDERS, TP("orders.dead", 0)))
    assert not caplog.records


@pytest.mark.parametrize("error", [BrokerUnavailable("no answer"), AuthorizationFailed("no right")])
async def test_topic_of_dead_letters_that_cannot_be_checked_is_a_warning(
    error: Exception, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_with(ORDERS, TP("orders.dead", 0))
    with caplog.at_level(logging.WARNING, "transport.handler"):
        await start(broker, error)
    [record] = caplog.records
    text = f"group: handler handle: cannot check the topic orders.dead: {error}"
    assert record.getMessage() == text


@pytest.mark.parametrize("error", [AppClosed("it closes"), ClientClosed("it was killed")])
async def test_end_of_the_app_during_the_check_is_no_error(
    error: Exception, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    await start(broker_with(ORDERS, TP("orders.dead", 0)), error)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
