"""An app that is stopped while it starts ends at once, and logs no false warning."""

from __future__ import annotations

import pytest
import trio

from tests.kafka.cluster import Broker
from tests.lanes import Place
from tests.logs import warnings_in
from tests.nurseries.clock import jumping
from transport import App
from transport.drivers.memory import MemoryBroker, MemoryDriver
from transport.testing import FaultyDriver, Script, slow

TRANSACTIONS = pytest.mark.parametrize("transactions", [None, "member", "partition"])
# For each step: the call of the driver that hangs, and its number.
STEPS = {
    "connecting": ("open", 0),
    "waiting for a topic": ("subscribe", 0),
    "looking for topics": ("topics", 0),
    "connecting the producer of a transaction": ("producer.open", 1),
    "beginning a transaction": ("producer.begin", 0),
}


async def stopped_after(app: App, topic: str, seconds: float) -> float:
    """Stop a reading app after `seconds`, and return how many seconds its end takes."""
    async with app:

        async def read() -> None:
            async for _ in app.topic(topic):
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(seconds)
            app.stop()
            asked = trio.current_time()
    return trio.current_time() - asked


@TRANSACTIONS
@pytest.mark.parametrize("step", STEPS)
@jumping
async def test_a_hanging_step_of_the_start_does_not_delay_the_end(
    step: str, transactions: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    broker = MemoryBroker()
    broker.create_topic("orders", 2)
    driver = FaultyDriver(MemoryDriver(broker=broker), Script({STEPS[step]: slow(1e6)}))
    app = App("group", driver, transactions=transactions)
    assert await stopped_after(app, "orders", 5.0) == 0
    assert warnings_in(caplog) == []


@TRANSACTIONS
@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.1, 0.3, 1.0, 3.5])
@pytest.mark.usefixtures("quiet_client")
async def test_a_stop_at_any_moment_of_the_start_is_quick(
    place: Place, transactions: str | None, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    await place.create(2, b"1", b"2")
    app = App(place.name, place.url, transactions=transactions)
    assert await stopped_after(app, place.name, seconds) < 3
    warnings = warnings_in(caplog)
    assert not [text for text in warnings if "not acked at shutdown" not in text]


@TRANSACTIONS
@pytest.mark.usefixtures("quiet_client")
async def test_a_stop_while_a_topic_is_missing_is_quick(
    place: Place, transactions: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    # Kafka creates no topic whose name differs from another one only in `.` and `_`.
    async with place.app() as other:
        await other.producer.create_topic(f"none_{place.name}", 1)
    app = App(place.name, place.url, transactions=transactions)
    assert await stopped_after(app, f"none.{place.name}", 1.0) < 3
    warnings = warnings_in(caplog)
    # The only warning names the missing topic.
    assert not [text for text in warnings if f"'none.{place.name}' does not exist" not in text]


@TRANSACTIONS
@pytest.mark.kafka
@pytest.mark.usefixtures("quiet_client")
async def test_a_stop_while_no_broker_answers_is_quick(
    kafka_broker: Broker, transactions: str | None
) -> None:
    app = App("group", f"kafka://{kafka_broker.bootstrap}", transactions=transactions)
    async with app:
        kafka_broker.freeze()

        async def read() -> None:
            async for _ in app.topic("orders"):
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(1)
            app.stop()
        app.consumer.close()
        asked = trio.current_time()
        await app.consumer.ended.wait()
        assert trio.current_time() - asked < 2
        kafka_broker.thaw()
