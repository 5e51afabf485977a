"""Stuck partitions: the rules of `transport/consuming/stuck.py`, and each case in an app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import assert_checkpoints

from tests.apps import app_on, broker_with, take, write
from tests.kafka.cluster import Broker
from tests.lanes import Place
from tests.logs import warnings_in
from tests.nurseries.clock import jumping
from tests.records import fetched
from tests.scripted import fails, hangs, hold, replace, replaced
from transport import TP, App, BrokerUnavailable
from transport.consuming.stuck import (
    Answer,
    Observation,
    Stuck,
    StuckCase,
    Timeouts,
    Watch,
    fetching,
    handling,
)
from transport.delivering.assignment import Assignment
from transport.delivering.ledger import BufferUsage, Ledger
from transport.drivers.memory import MemoryBroker

ORDERS = [TP("orders", number) for number in range(2)]
ONE = ORDERS[0]
LATE = 1000.0  # longer than any of these:
TIMEOUTS = Timeouts(fetch=10.0, response=20.0, highwater=30.0, ack=40.0, commit=50.0)


# The rules


def observation(**seen: Any) -> Observation:
    """Return the state of a partition; by default it is read to its end at 10, and committed."""
    well = {
        "tp": ONE,
        "is_wanted": True,
        "late_at": None,
        "moved_at": 0.0,
        "position": 10,
        "highwater": 10,
        "begun": None,
        "begun_at": 0.0,
        "waiting": 0,
        "due": None,
        "committed": 10,
        "behind_at": 0.0,
        "answer": Answer(end=10, position=10),
    }
    return Observation(**{**well, **seen})


def judged(seen: Observation, now: float) -> Stuck | None:
    return fetching(seen, now, TIMEOUTS) or handling(seen, now, TIMEOUTS)


def test_quiet_partition_at_its_end_is_not_stuck() -> None:
    assert judged(observation(), LATE) is None


@pytest.mark.parametrize(
    ("seen", "case", "timeout", "offset"),
    [
        ({"late_at": 0.0}, StuckCase.NO_FETCH, 10.0, None),
        ({"answer": Answer(None, 10)}, StuckCase.NO_RESPONSE, 20.0, None),
        ({"answer": Answer(12, 10)}, StuckCase.NO_RESPONSE, 20.0, 12),
        ({"answer": Answer(0, None), "highwater": None}, StuckCase.NO_RESPONSE, 20.0, 0),
        ({"answer": Answer(12, 10), "highwater": 12}, StuckCase.HIGHWATER_AHEAD, 30.0, 12),
        ({"answer": Answer(10, 10), "highwater": 12}, StuckCase.HIGHWATER_AHEAD, 30.0, 12),
        ({"begun": 7}, StuckCase.NOT_ACKED, 40.0, 7),
        ({"due": 10, "committed": 5}, StuckCase.NOT_COMMITTED, 50.0, 5),
        ({"waiting": 3, "committed": 5}, StuckCase.NOT_COMMITTED, 50.0, 5),
    ],
)
def test_each_case_is_found_after_its_timeout(
    seen: dict[str, Any], case: StuckCase, timeout: float, offset: int | None
) -> None:
    assert judged(observation(**seen), timeout - 0.1) is None
    stuck = judged(observation(**seen), timeout)
    assert stuck is not None
    assert (stuck.tp, stuck.case, stuck.since) == (ONE, case, 0.0)
    assert (stuck.position, stuck.offset) == (10, offset)


def test_reason_distinguishes_open_transaction_from_missing_fetches() -> None:
    readable = judged(observation(answer=Answer(12, 10), highwater=12), LATE)
    not_yet = judged(observation(answer=Answer(10, 10), highwater=12), LATE)
    assert readable is not None
    assert not_yet is not None
    assert "transaction" not in readable.why
    assert "transaction" in not_yet.why


def test_markers_at_the_end_are_no_missing_messages() -> None:
    assert judged(observation(position=8, answer=Answer(10, 10)), LATE) is None


def test_partition_that_is_not_wanted_is_not_stuck() -> None:
    assert fetching(observation(is_wanted=False, answer=Answer(12, 10)), LATE, TIMEOUTS) is None


def test_broker_that_was_not_asked_is_no_finding() -> None:
    assert judged(observation(answer=None, highwater=12), LATE) is None


def test_messages_that_wait_behind_a_handler_are_no_finding() -> None:
    stuck = handling(observation(waiting=3, begun=7, begun_at=LATE), LATE + 30, TIMEOUTS)
    assert stuck is None


def test_first_stuck_stage_is_the_finding() -> None:
    stuck = judged(observation(late_at=0.0, answer=Answer(None, None), begun=1, due=1), LATE)
    assert stuck is not None
    assert stuck.case is StuckCase.NO_FETCH


# The state between two checks


@attrs.define
class Checks:
    """Checks of a partition with four delivered messages."""

    watch: Watch = attrs.field(factory=Watch)
    assignment: Assignment = attrs.field(factory=Assignment)
    messages: list[Any] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.assignment.assign([ONE], 1)
        lane = self.ledger.open_lane(BufferUsage(100))
        self.ledger.put(fetched(0, 1, 2, 3))
        self.ledger.committed = 0
        lane.ready()
        self.messages = list(lane.take_batch(4))

    @property
    def ledger(self) -> Ledger:
        return self.assignment[ONE]

    def observe(self, now: float, **seen: Any) -> Observation:
        well = {"is_wanted": True, "is_delivered": True, "late_at": None, "highwater": 4}
        return self.watch.observe(self.ledger, now, **{**well, **seen})


def test_times_start_at_the_first_check() -> None:
    seen = Checks().observe(7.0)
    assert (seen.moved_at, seen.begun_at, seen.behind_at) == (7.0, 7.0, 7.0)


def test_new_records_and_new_high_watermark_are_progress() -> None:
    checks = Checks()
    checks.observe(0.0)
    assert checks.observe(5.0).moved_at == 0.0
    assert checks.observe(10.0, highwater=5).moved_at == 10.0
    checks.ledger.put(fetched(4))
    assert checks.observe(15.0, highwater=5).moved_at == 15.0


def test_no_time_passes_while_partition_is_not_wanted() -> None:
    checks = Checks()
    checks.observe(0.0)
    assert checks.observe(50.0, is_wanted=False).moved_at == 50.0
    assert checks.observe(60.0).moved_at == 50.0


def test_only_ack_of_the_oldest_message_restarts_its_time() -> None:
    checks = Checks()
    checks.observe(0.0)
    checks.messages[2].ack()
    assert checks.observe(5.0).begun_at == 0.0
    checks.messages[0].ack()
    assert (checks.observe(10.0).begun, checks.observe(10.0).begun_at) == (1, 10.0)


def test_acks_do_not_restart_the_time_of_the_commit() -> None:
    checks = Checks()
    checks.observe(0.0)
    for number, message in enumerate(checks.messages):
        message.ack()
        assert checks.observe(10.0 + number).behind_at == 0.0 or number == 0
    checks.ledger.committed = 4
    assert checks.observe(20.0).behind_at == 20.0


def test_finding_is_new_once_and_again_after_its_end() -> None:
    checks = Checks()
    watch, ledger = checks.watch, checks.ledger
    stuck = Stuck(ONE, StuckCase.NOT_ACKED, 0.0, 4, 0, "")
    assert watch.is_new(ledger, stuck)
    assert not watch.is_new(ledger, stuck)
    assert watch.is_new(ledger, attrs.evolve(stuck, case=StuckCase.NO_FETCH))
    assert not watch.is_new(ledger, None)
    assert watch.is_new(ledger, stuck)


def test_new_epoch_restarts_times_and_old_ledger_is_forgotten() -> None:
    checks = Checks()
    checks.observe(0.0)
    old = checks.ledger
    checks.assignment.seek(ONE, 0)
    assert checks.observe(50.0).moved_at == 50.0
    checks.watch.keep([checks.ledger])
    assert old not in checks.watch._seen


# Each case in an app


@asynccontextmanager
async def watched(broker: MemoryBroker, **settings: Any) -> AsyncIterator[App]:
    async with app_on(
        broker, **{"stuck_interval": 10.0, "commit_interval": 1.0, **settings}
    ) as app:
        yield app


def found(app: App) -> dict[TP, StuckCase]:
    return {stuck.tp: stuck.case for stuck in app.consumer.stuck}


def withhold(app: App, tp: TP) -> None:
    """Let the client return no more records of the partition, without an error."""
    app.consumer.client._paused.add(tp)  # type: ignore[attr-defined]


@jumping
async def test_healthy_app_has_no_finding(caplog: pytest.LogCaptureFixture) -> None:
    broker = broker_with(*ORDERS, records=3)
    async with watched(broker) as app:
        messages = app.topic("orders").noack()
        for message in await take(messages, 6):
            message.ack()
        await trio.sleep(LATE)
        broker.gap(ONE, 3)
        await trio.sleep(LATE)
        assert app.consumer.stuck == ()
        app.consumer.pause_partitions([ONE])
        await trio.sleep(1)
        write(broker, ONE)
        await trio.sleep(LATE)
        app.consumer.stop_flow()
        await trio.sleep(LATE)
        assert app.consumer.stuck == ()
    assert warnings_in(caplog) == []


@jumping
async def test_hanging_subscribe_is_no_fetch(caplog: pytest.LogCaptureFixture) -> None:
    broker = broker_with(*ORDERS, records=1)
    async with watched(broker, grace=5.0) as app:
        (await anext(app.topic("orders").noack())).ack()
        may_subscribe = hold(app, "subscribe")
        app.topic("parcels").noack()
        await trio.sleep(100)
        assert not app.consumer.stuck
        await trio.sleep(100)
        assert found(app) == dict.fromkeys(ORDERS, StuckCase.NO_FETCH)
        app.consumer.stop_flow()
        now = trio.current_time()
        recovery = app.consumer.verify_recovery_event_path(now, ONE)
        assert recovery is not None
        assert recovery.case is StuckCase.NO_FETCH
        assert app.consumer.verify_event_path(now, ONE) is None
        may_subscribe.set()
        await trio.sleep(15)
        assert app.consumer.verify_recovery_event_path(trio.current_time(), ONE) is None
    assert "orders-0 is stuck: no fetch" in caplog.text


@jumping
async def test_hanging_poll_is_no_fetch() -> None:
    broker = broker_with(ONE, records=1)
    async with watched(broker, stuck_response_timeout=LATE, stuck_highwater_timeout=LATE) as app:
        (await anext(app.topic("orders").noack())).ack()
        may_poll = hold(app, "poll")
        app.consumer.requests.note_change()
        await trio.sleep(100)
        assert not app.consumer.stuck
        await trio.sleep(50)
        assert found(app) == {ONE: StuckCase.NO_FETCH}
        may_poll.set()
        await trio.sleep(15)
        assert not app.consumer.stuck


@jumping
async def test_unknown_error_of_the_client_does_not_end_the_app(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with watched(broker_with(*ORDERS, records=1)) as app:
        for message in await take(app.topic("orders").noack(), 2):
            message.ack()
        replace(app, "end_offsets", fails(RuntimeError("what is this?")))
        await trio.sleep(250)
        assert not app.consumer.stuck
    assert "what is this?" in caplog.text


@jumping
async def test_unavailable_broker_is_no_response() -> None:
    broker = broker_with(*ORDERS, records=1)
    async with watched(broker) as app:
        for message in await take(app.topic("orders").noack(), 2):
            message.ack()
        with replaced(app, "end_offsets", fails(BrokerUnavailable("127.0.0.1:9092"))):
            await trio.sleep(150)
            assert not app.consumer.stuck
            await trio.sleep(100)
            assert found(app) == dict.fromkeys(ORDERS, StuckCase.NO_RESPONSE)
        await trio.sleep(20)
        assert not app.consumer.stuck


@jumping
async def test_hanging_query_is_no_response_within_its_bound() -> None:
    broker = broker_with(ONE, records=1)
    async with watched(broker, commit_timeout=3.0) as app:
        (await anext(app.topic("orders").noack())).ack()
        replace(app, "end_offsets", hangs)
        await trio.sleep(LATE)
        before = trio.current_time()
        await app.consumer.verify_all_partitions_active()
        assert trio.current_time() <= before + 3 * 3.0
        assert found(app) == {ONE: StuckCase.NO_RESPONSE}


@jumping
async def test_withheld_messages_are_highwater_ahead() -> None:
    broker = broker_with(*ORDERS, records=1)
    async with watched(broker) as app:
        for message in await take(app.topic("orders").noack(), 2):
            message.ack()
        withhold(app, ONE)
        write(broker, ONE, 3)
        app.consumer.client._ends[ONE] = 4  # known to the client  # type: ignore[attr-defined]
        await trio.sleep(100)
        assert not app.consumer.stuck
        await trio.sleep(150)
        (stuck,) = app.consumer.stuck
        assert (stuck.tp, stuck.case, stuck.position) == (ONE, StuckCase.HIGHWATER_AHEAD, 1)
        assert stuck.offset == 4


@jumping
async def test_unacked_message_is_found_and_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = broker_with(*ORDERS, records=2)
    async with watched(broker) as app:
        messages = await take(app.topic("orders").noack(), 4)
        kept, *others = sorted(messages, key=lambda message: (message.tp, message.offset))
        for message in others:
            message.ack()
        await trio.sleep(LATE)
        (stuck,) = app.consumer.stuck
        assert (stuck.tp, stuck.case, stuck.offset) == (ONE, StuckCase.NOT_ACKED, 0)
        assert app.consumer.verify_event_path(trio.current_time(), ONE) == stuck
        assert app.consumer.verify_event_path(trio.current_time(), ORDERS[1]) is None
        assert app.consumer.verify_recovery_event_path(trio.current_time(), ONE) is None
        kept.ack()
        await trio.sleep(15)
        assert app.consumer.stuck == ()
    assert caplog.text.count("orders-0 is stuck: delivered and not acked") == 1


@jumping
async def test_hanging_commit_is_not_committed() -> None:
    broker = broker_with(ONE, records=2)
    async with watched(broker) as app:
        for message in await take(app.topic("orders").noack(), 2):
            message.ack()
        may_commit = hold(app, "commit")
        await trio.sleep(200)
        assert not app.consumer.stuck
        await trio.sleep(200)
        (stuck,) = app.consumer.stuck
        assert (stuck.tp, stuck.case, stuck.position) == (ONE, StuckCase.NOT_COMMITTED, 2)
        assert "acked" in stuck.why
        may_commit.set()
        await trio.sleep(15)
        assert not app.consumer.stuck


@jumping
async def test_waiting_messages_without_a_handler_are_not_committed() -> None:
    broker = broker_with(ONE, records=10)
    async with watched(broker, buffer_size=4) as app:
        app.topic("orders").noack()
        await trio.sleep(LATE)
        (stuck,) = app.consumer.stuck
        assert (stuck.tp, stuck.case) == (ONE, StuckCase.NOT_COMMITTED)
        assert "no handler" in stuck.why


@jumping
async def test_long_commit_interval_extends_the_timeout() -> None:
    broker = broker_with(ONE, records=1)
    async with watched(broker, commit_interval=3600.0) as app:
        (await anext(app.topic("orders").noack())).ack()
        await trio.sleep(3000)
        assert app.consumer.stuck == ()


@jumping
async def test_checks_before_and_after_the_app_find_nothing() -> None:
    broker = broker_with(ONE, records=1)
    app = app_on(broker)
    await app.consumer.verify_all_partitions_active()
    async with app:
        await app.consumer.verify_all_partitions_active()
        assert app.consumer.verify_event_path(trio.current_time(), ONE) is None
        assert app.consumer.verify_recovery_event_path(trio.current_time(), ONE) is None
    await app.consumer.verify_all_partitions_active()
    assert app.consumer.stuck == ()


# On Kafka


@pytest.mark.kafka
async def test_frozen_broker_is_no_response(kafka_broker: Broker) -> None:
    place = Place(f"kafka://{kafka_broker.bootstrap}", "orders")
    (tp,) = await place.create(1, b"value")
    settings = {"stuck_response_timeout": 0.5, "stuck_highwater_timeout": 0.5}
    async with place.app(commit_timeout=3.0, **settings) as app:
        (await anext(app.topic(place.name).noack())).ack()
        await app.consumer.commit()
        await app.consumer.verify_all_partitions_active()
        await trio.sleep(1.0)
        await app.consumer.verify_all_partitions_active()
        assert app.consumer.stuck == ()
        kafka_broker.freeze()
        try:
            await app.consumer.verify_all_partitions_active()
            (stuck,) = app.consumer.stuck
            assert (stuck.tp, stuck.case, stuck.position) == (tp, StuckCase.NO_RESPONSE, 1)
        finally:
            kafka_broker.thaw()
        await app.consumer.client.end_offsets([tp])
        await app.consumer.verify_all_partitions_active()
        assert app.consumer.stuck == ()


@jumping
async def test_check_before_the_join_finds_nothing() -> None:
    async with app_on(broker_with(ONE)) as app:
        with assert_checkpoints():
            await app.consumer.verify_all_partitions_active()
        assert app.consumer.stuck == ()
