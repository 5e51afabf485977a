"""Java's deserializers read the bytes of single values: its console consumer is the witness."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import trio

from tests.kafka.cluster import tool
from transport import App
from transport.codecs import BOOLEAN, FLOAT, INTEGER, SHORT, CodecArg

pytestmark = pytest.mark.kafka

CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"
PACKAGE = "org.apache.kafka.common.serialization"
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("types", "sent", "classes", "printed"),
    [
        ((int, float), (-(2**40), 1.5), ("Long", "Double"), "-1099511627776\t1.5\n"),
        ((INTEGER, FLOAT), (70_000, -0.5), ("Integer", "Float"), "70000\t-0.5\n"),
        ((SHORT, uuid.UUID), (-2, ID), ("Short", "UUID"), f"-2\t{ID}\n"),
        ((str, BOOLEAN), ("\u00e9", True), ("String", "Boolean"), "\u00e9\ttrue\n"),
    ],
)
async def test_java_reads_our_single_values(
    kafka_bootstrap: str,
    kafka_topic: Callable[..., str],
    kafka_java: None,
    types: tuple[CodecArg[Any], CodecArg[Any]],
    sent: tuple[Any, Any],
    classes: tuple[str, str],
    printed: str,
) -> None:
    name = kafka_topic(1)
    async with App(name, f"kafka://{kafka_bootstrap}") as app:
        topic = app.topic(name, key_type=types[0], value_type=types[1])
        await topic.send_and_wait(key=sent[0], value=sent[1])
        message = await anext(topic.noack())
        assert (message.key, message.value) == sent
    key, value = (f"{PACKAGE}.{each}Deserializer" for each in classes)
    consume = functools.partial(
        tool,
        CONSUMER,
        *("--topic", name, "--from-beginning", "--max-messages", "1"),
        *("--formatter-property", "print.key=true"),
        *("--formatter-property", f"key.deserializer={key}"),
        *("--formatter-property", f"value.deserializer={value}"),
        bootstrap=kafka_bootstrap,
    )
    assert await trio.to_thread.run_sync(consume) == printed
