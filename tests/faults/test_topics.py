"""Topics change under load, and brokers refuse messages."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable

import pytest
import trio

from tests.faults.brokers import ThreeBrokers
from tests.faults.load import PARTITIONS, Load
from transport import App, Topic, TransportError

pytestmark = pytest.mark.faults

Start = Callable[..., Load]
DELIVERY_TIMEOUT = 8.0  # seconds
LARGE_EVERY = 25
# Seconds. A send to a missing topic waits for 10 s; no other send may wait as long as this.
STALL = 8.0


def test_added_partitions_are_written_and_handled(brokers: ThreeBrokers, load: Start) -> None:
    """The producer finds them, and both groups assign them. Messages that were written into them
    before that are handled, too."""
    running = load()
    with running.fault("partitions added"), brokers.admin() as admin:
        running.partitions += 3
        admin.create_partitions({running.topic: running.partitions})
        running.goes_on()
    assert running.partitions > PARTITIONS
    running.check()


@pytest.mark.parametrize("transactions", [None, "member"])
async def test_a_deleted_topic_does_not_disturb_another_one(
    brokers: ThreeBrokers, transactions: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Its partitions are lost, a warning names the topic, and each send to it fails. The app reads
    its other topic on, and sends to that topic are not delayed."""
    names = {name: f"{name}-{uuid.uuid4().hex[:8]}" for name in ("gone", "stays", "copies")}
    for topic in names.values():
        await trio.to_thread.run_sync(brokers.create_topic, topic, 2)
    settings = {"heartbeat_interval": 0.5, "metadata_max_age": 5.0, "commit_interval": 0.5}
    app = App(names["stays"], f"kafka://{brokers.bootstrap}", transactions=transactions, **settings)
    outsider = App("feeder", f"kafka://{brokers.bootstrap}", delivery_timeout=15.0)
    handled: Counter[str] = Counter()
    slowest = 0.0
    refused: list[TransportError] = []
    is_over = False

    async def handle(topic: Topic) -> None:
        async for message in topic:
            if transactions is not None:
                await app.topic(names["copies"]).send(value=message.value)
            handled[message.topic] += 1

    async def feed_what_stays() -> None:
        nonlocal slowest
        while not is_over:
            with trio.fail_after(60):
                began = trio.current_time()
                await (await outsider.topic(names["stays"]).send(value=b"x"))
                slowest = max(slowest, trio.current_time() - began)
            await trio.sleep(0.05)

    async def feed_what_goes() -> None:
        while not is_over:
            try:
                await (await outsider.topic(names["gone"]).send(value=b"x"))
            except TransportError as error:
                refused.append(error)
            await trio.sleep(0.05)

    async def until(condition: Callable[[], bool]) -> None:
        with trio.fail_after(120):
            while not condition():  # noqa: ASYNC110 - no event reports it
                await trio.sleep(0.1)

    async with outsider, trio.open_nursery() as feeding:
        feeding.start_soon(feed_what_stays)
        feeding.start_soon(feed_what_goes)
        async with app, trio.open_nursery() as handling:
            for name in ("gone", "stays"):
                handling.start_soon(handle, app.topic(names[name]))
            await until(lambda: min(handled[names["gone"]], handled[names["stays"]]) > 20)
            await trio.to_thread.run_sync(brokers.delete_topic, names["gone"])
            await until(lambda: bool(refused))
            await until(lambda: {tp.topic for tp in app.consumer.assignment} == {names["stays"]})
            before = handled[names["stays"]]
            await until(lambda: handled[names["stays"]] > before + 50)
            app.stop()
        is_over = True
    assert names["gone"] in caplog.text
    assert slowest < STALL


def test_a_message_that_is_too_large_fails_alone(brokers: ThreeBrokers, load: Start) -> None:
    """The broker refuses it. Only that message fails."""
    running = load(
        topic_configs={"max_message_bytes": "20000"},
        feeder_options=["--large-every", str(LARGE_EVERY), "--large", "50000"],
        may_fail=["MessageTooLarge"],
    )
    with running.fault("message too large"):
        running.goes_on()
    running.check()
    diary = running.feeder.diary
    assert sorted(diary.failed) == list(range(0, diary.sent, LARGE_EVERY))


def test_messages_fail_without_enough_replicas_and_sending_recovers(
    brokers: ThreeBrokers, load: Start
) -> None:
    """The broker refuses messages that it cannot replicate to all three. The producer retries until
    the delivery timeout, and then each message fails. Sending recovers with the third broker.
    Readers are not affected."""
    running = load(
        topic_configs={"min_insync_replicas": "3"},
        feeder_settings={"delivery_timeout": DELIVERY_TIMEOUT},
        may_fail=["DeliveryTimeout"],
    )
    with running.fault("not enough replicas"):
        brokers.leader_of(running.topic, 0).kill()
        running.until(lambda load: len(load.feeder.diary.read().failed) > 20, "messages fail")
        brokers.heal()
    running.check()
