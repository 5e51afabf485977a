"""Results come before offsets: an offset is not committed if the broker has refused the result."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from tests.kafka.cluster import describe_group, end_offsets, tool
from tests.nurseries.errors import leaves
from transport import App, DeliveryFailed, Message, MessageTooLarge

pytestmark = pytest.mark.kafka

CONFIGS = "kafka.admin.ConfigCommand"


async def copy_one(bootstrap: str, orders: str, out: str) -> None:
    """Handle the orders until one is committed. The handler awaits no outcome of what it sends."""
    app = App(orders, broker=f"kafka://{bootstrap}", commit_interval=0.2)

    @app.handler(app.topic(orders))
    async def copy(message: Message) -> None:
        await app.topic(out).send(value=message.value)

    async with app:
        with trio.fail_after(60):
            tps = await app.consumer.partitions(orders)
            while await app.consumer.committed(tps) != dict.fromkeys(tps, 1):  # noqa: ASYNC110
                await trio.sleep(0.2)  # no event reports it
        app.stop()


async def test_message_whose_result_the_broker_refuses_is_handled_again_after_a_restart(
    kafka_bootstrap: str, kafka_topic: Callable[..., str]
) -> None:
    orders, out = kafka_topic(1), kafka_topic(1, max_message_bytes="1000")
    async with App("source", broker=f"kafka://{kafka_bootstrap}") as source:
        await source.topic(orders).send_and_wait(value=bytes(5000))
    with pytest.raises(ExceptionGroup) as caught:
        await copy_one(kafka_bootstrap, orders, out)
    [error] = leaves(caught.value)
    assert isinstance(error, DeliveryFailed)
    assert isinstance(error.__cause__, MessageTooLarge)
    await trio.to_thread.run_sync(allow_large_messages, kafka_bootstrap, out)
    await copy_one(kafka_bootstrap, orders, out)
    assert end_offsets(kafka_bootstrap, out) == {(out, 0): 1}
    committed, _, lag = describe_group(kafka_bootstrap, orders)[orders, 0]
    assert (committed, lag) == (1, 0)


def allow_large_messages(bootstrap: str, topic: str) -> None:
    change = ["--alter", "--topic", topic, "--add-config", "max.message.bytes=100000"]
    tool(CONFIGS, *change, bootstrap=bootstrap)
