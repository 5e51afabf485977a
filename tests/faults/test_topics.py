"""Topics change under load, and brokers refuse what is sent."""

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
# Sending waits for a topic that is not there for 10 s: this much others may not wait.
STALL = 8.0


def test_partitions_are_added(brokers: ThreeBrokers, load: Start) -> None:
    """The producer finds them by itself, both groups share them out, and what was written into
    them before that is handled as well."""
    running = load()
    with running.fault("partitions added"), brokers.admin() as admin:
        running.partitions += 3
        admin.create_partitions({running.topic: running.partitions})
        running.goes_on()
    assert running.partitions > PARTITIONS
    running.check()


@pytest.mark.parametrize("transactions", [None, "member"])
async def test_a_topic_is_deleted(
    brokers: ThreeBrokers, transactions: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Its partitions go, and a warning names them; who sends to it gets an error for each message.
    The other topic of the same app is read and committed on, and sending to it is not held up."""
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
            while not condition():  # noqa: ASYNC110 - what others do tells of itself nowhere
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


def test_a_message_is_too_large(brokers: ThreeBrokers, load: Start) -> None:
    """The broker refuses it: an error for that message, and for no other."""
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


def test_there_are_not_enough_replicas(brokers: ThreeBrokers, load: Start) -> None:
    """The broker refuses what it could not copy to all three. The producer tries again, for as
    long as the delivery timeout, and then each message fails with it; once the third broker is
    there, sending goes on. Who reads is not troubled."""
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
