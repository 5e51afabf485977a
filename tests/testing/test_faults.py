"""Each fault changes a call as its name says, and a crashed driver makes no calls."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio
import trio.testing

from tests.apps import broker_with, take, write
from tests.lanes import NEVER
from tests.nurseries.clock import jumping
from transport import TP, App, BrokerUnavailable, ClientClosed, CommitUnknown
from transport.drivers.base import ConsumerClient, Outgoing, ProducerClient
from transport.drivers.memory import MemoryDriver
from transport.drivers.settings import ClientSettings
from transport.testing import (
    Chance,
    Fault,
    Faults,
    FaultyDriver,
    MemoryBroker,
    Script,
    refused,
    slow,
    unanswered,
)
from transport.testing.faults import CALLS_OF_A_CONSUMER, CALLS_OF_A_PRODUCER

ORDERS = TP("orders", 0)


def app_with(broker: MemoryBroker, faults: Faults | None) -> tuple[App, FaultyDriver]:
    driver = FaultyDriver(MemoryDriver(broker=broker), faults)
    return App("group", driver, commit_interval=NEVER), driver


QUESTIONS = [
    *("committed", "committed_texts", "beginning_offsets", "end_offsets", "offsets_for_times"),
    *("topics", "partitions"),
]


def only(call: str, fault: Fault) -> Script:
    return Script({(call, 0): fault})


async def commit_one(app: App) -> None:
    (await anext(app.topic("orders").noack())).ack()
    await app.consumer.commit()


@jumping
async def test_slow_call_reaches_the_broker_late() -> None:
    broker = broker_with(ORDERS, records=1)
    app, _ = app_with(broker, only("commit", slow(2.0)))
    async with app:
        began = trio.current_time()
        await commit_one(app)
        assert trio.current_time() - began == pytest.approx(2.0)
        assert broker.committed("group") == {ORDERS: 1}


@jumping
async def test_slow_call_is_made_although_its_caller_is_cancelled() -> None:
    broker = broker_with(ORDERS)
    driver = FaultyDriver(MemoryDriver(broker=broker), only("producer.send", slow(2.0)))
    async with App("group", driver) as app:
        with trio.move_on_after(1.0):
            await app.producer.client.send([])
        assert await app.topic("orders").send_and_wait(value=b"value")


def value(number: int) -> list[Outgoing]:
    return [Outgoing("orders", 0, None, b"%d" % number, (), None)]


@pytest.mark.parametrize("is_cancelled", [False, True])
@jumping
async def test_calls_of_a_producer_reach_the_broker_in_their_order(is_cancelled: bool) -> None:
    """So a slow message cannot get into the transaction after its own."""
    broker = broker_with(ORDERS)
    driver = FaultyDriver(MemoryDriver(broker=broker), only("producer.send", slow(2.0)))
    client = driver.producer(ClientSettings(transactional_id="id"))
    await client.open(lambda reports: None)
    await client.begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, value(1))
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1.0 if is_cancelled else 60.0):
            await client.abort(1.0)
        await client.begin()
    await client.send(value(2))
    await client.commit(1.0)
    assert [record.value for record in broker.records("orders")] == [b"2"]
    await client.close(1.0)


@jumping
async def test_a_refused_call_is_not_made() -> None:
    broker = broker_with(ORDERS, records=1)
    error = BrokerUnavailable("gone")
    app, _ = app_with(broker, only("commit", refused(error)))
    async with app:
        with pytest.raises(BrokerUnavailable, match="gone"):
            await commit_one(app)
        assert broker.committed("group") == {}


@pytest.mark.parametrize("call", QUESTIONS)
@jumping
async def test_a_question_can_have_a_fault(call: str) -> None:
    app, _ = app_with(
        broker_with(ORDERS, records=1),
        Script({(call, 0): slow(2.0), (call, 1): refused(BrokerUnavailable("gone"))}),
    )
    ask = {
        "committed_texts": lambda: app.consumer.committed_metadata([ORDERS]),
        "offsets_for_times": lambda: app.consumer.offsets_for_times({ORDERS: 0.0}),
        "topics": lambda: app.consumer.topics(),
        "partitions": lambda: app.consumer.partitions("orders"),
    }.get(call, lambda: getattr(app.consumer, call)([ORDERS]))
    async with app:
        began = trio.current_time()
        answer = await ask()
        assert trio.current_time() - began == pytest.approx(2.0)
        with pytest.raises(BrokerUnavailable, match="gone"):
            await ask()
        assert await ask() == answer


@jumping
async def test_text_of_a_commit_passes_through() -> None:
    broker = broker_with(ORDERS, records=1)
    app, _ = app_with(broker, Script({}))
    async with app:
        (await anext(app.topic("orders").noack())).ack()
        assert await app.consumer.commit(metadata="a text")
        assert await app.consumer.committed_metadata(ORDERS) == "a text"


@pytest.mark.parametrize("made", [True, False])
@jumping
async def test_commit_without_an_answer_is_unknown_until_the_next_commit(made: bool) -> None:
    """I7: the commit is reported as unknown, and the next commit settles it."""
    broker = broker_with(ORDERS, records=2)
    app, _ = app_with(broker, only("commit", unanswered(1.0, made=made)))
    async with app:
        messages = app.topic("orders").noack()
        first, second = await take(messages, 2)
        first.ack()
        with pytest.raises(CommitUnknown):
            await app.consumer.commit()
        assert broker.committed("group") == ({ORDERS: 1} if made else {})
        second.ack()
        await app.consumer.commit()
        assert broker.committed("group") == {ORDERS: 2}


@jumping
async def test_script_selects_calls_by_name_and_number() -> None:
    script = Script({("commit", 1): slow(5.0)})
    assert [script.of("commit"), script.of("poll"), script.of("commit"), script.of("commit")] == [
        None,
        None,
        slow(5.0),
        None,
    ]


def test_same_seed_gives_the_same_random_faults() -> None:
    def drawn(seed: int) -> list[Fault | None]:
        chance = Chance(random.Random(seed), rate=0.5)
        return [chance.of("commit") for _ in range(20)]

    assert repr(drawn(1)) == repr(drawn(1))
    assert drawn(1) != drawn(2)
    assert None in drawn(1)


@jumping
async def test_no_call_reaches_the_broker_after_a_crash() -> None:
    broker = broker_with(ORDERS, records=1)
    app, driver = app_with(broker, None)
    with pytest.raises(BaseExceptionGroup) as raised:  # noqa: PT012 - its exit raises, too
        async with app:
            message = await anext(app.topic("orders").noack())
            await driver.crash()
            message.ack()
            await trio.sleep_forever()
    assert raised.value.split(ClientClosed)[1] is None
    assert broker.committed("group") == {}
    assert len(broker.group("group").members) == 1  # it has not left the group


def test_names_of_calls_are_methods_of_the_protocols() -> None:
    assert {"poll", "commit", "seek", "pause", "committed"} <= CALLS_OF_A_CONSUMER
    assert {"send", "begin", "commit", "abort", "send_offsets"} <= CALLS_OF_A_PRODUCER
    assert not CALLS_OF_A_CONSUMER - set(vars(ConsumerClient))
    assert not CALLS_OF_A_PRODUCER - set(vars(ProducerClient))


@jumping
async def test_faults_do_not_affect_another_driver_on_the_same_broker() -> None:
    """Faults belong to one driver: another driver on the same broker has none."""
    broker = broker_with(ORDERS)
    app, _ = app_with(broker, Chance(random.Random(0), rate=1.0))
    async with App("other", broker, commit_interval=NEVER) as other:
        write(broker, ORDERS)
        began = trio.current_time()
        await commit_one(other)
        assert trio.current_time() == began
    del app


@jumping
async def test_order_shuffles_partitions_and_reports() -> None:
    tps = [TP("orders", number) for number in range(6)]
    broker = broker_with(*tps, records=1)
    driver = FaultyDriver(MemoryDriver(broker=broker), order=random.Random(1))
    async with App("group", driver, commit_interval=NEVER) as app:
        messages = await take(app.topic("orders").noack(), 6)
        assert [message.tp for message in messages] != tps
        assert {message.tp for message in messages} == set(tps)
        reported: list[int] = []
        client = driver.producer(app.settings.client)
        await client.open(lambda some: reported.extend(int(o.value or b"") for o, _ in some))
        await client.send([Outgoing("bills", 0, None, b"%d" % n, (), None) for n in range(6)])
        await client.close(1.0)
        assert reported != sorted(reported)
        assert sorted(reported) == list(range(6))


@jumping
async def test_late_commit_is_refused_after_a_rebalance() -> None:
    """Its request is of the earlier generation, so it cannot undo a commit of the next owner."""
    tps = [TP("orders", 0), TP("orders", 1)]
    broker = broker_with(*tps, records=5)
    script = only("commit", slow(8.0))
    settings: dict[str, Any] = {"commit_interval": NEVER, "drain_timeout": 2.0}
    slow_one = App("group", FaultyDriver(MemoryDriver(broker=broker), script), **settings)
    async with slow_one, trio.open_nursery() as nursery:
        held = await take(slow_one.topic("orders").noack(), 4)
        for message in held:
            if message.offset == 0:
                message.ack()  # the others hold the partitions until the bound
        nursery.start_soon(slow_one.consumer.commit)
        await trio.sleep(1)
        async with App("group", MemoryDriver(broker=broker), **settings) as other:
            messages = await take(other.topic("orders").noack(), 4)
            for message in messages:
                message.ack()
            await other.consumer.commit()
            (taken_over,) = {message.tp for message in messages}
            await trio.sleep(20)
            assert broker.committed("group")[taken_over] >= 4
