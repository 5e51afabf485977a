"""The events that end the wait of a poll, on the client's loop and with a broker (Kafka only)."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import attrs
import kafka.errors
import pytest
import trio
from kafka.future import Future
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from tests.drivers.rig import SETTINGS, Member, Rig, until
from transport.drivers.base import RebalanceKind
from transport.drivers.kafka import consumer as kafka_consumer
from transport.drivers.kafka.poll_interrupt import PollInterrupt
from transport.drivers.kafka.workarounds.poll_spin import hurry_after_join
from transport.types import TP

LONG = 60.0  # seconds; longer than any test here may take
SOON = 10.0


@attrs.define
class Loop:
    """A loop of the client without a broker, and a consumer that waits on it for one answer."""

    net: NetworkSelector
    wake: PollInterrupt
    manager: Any
    consumer: Any
    answer: Future = attrs.field(factory=Future)
    waiting: threading.Event = attrs.field(factory=threading.Event)

    async def _wait(self) -> object:
        self.net.call_soon(self.waiting.set)
        return await self.manager.wait_for(self.answer, LONG * 1000)

    def poll(self) -> object:
        with self.wake.waits():
            return self.net.run(self._wait)

    def commit(self) -> object:
        return self.net.run(self._wait)


@pytest.fixture
def loop() -> Iterator[Loop]:
    net = NetworkSelector()
    manager = SimpleNamespace(_net=net)
    plain = KafkaConnectionManager.wait_for
    manager.wait_for = lambda future, timeout_ms: plain(manager, future, timeout_ms)
    consumer = SimpleNamespace(
        _client=SimpleNamespace(_net=net, _manager=manager, is_disconnected=lambda node: node != 1),
        _coordinator=SimpleNamespace(
            coordinator_id=None, ensure_coordinator_ready=lambda timeout_ms: False
        ),
        _fetcher=SimpleNamespace(
            fetch_records=lambda *_: ({}, True), fetched_records=lambda *_, **__: ({}, False)
        ),
        _subscription=SimpleNamespace(assignment={}),
        config={"retry_backoff_ms": 100},
    )
    wake = PollInterrupt()
    wake.attach(consumer)
    net.start()
    try:
        yield Loop(net, wake, manager, consumer)
    finally:
        net.close()


@attrs.define
class Running:
    """A call on its own thread, and its result or error."""

    thread: threading.Thread
    ended: list[object]

    def end(self) -> object:
        self.thread.join(SOON)
        assert not self.thread.is_alive(), "nothing ended the wait"
        return self.ended[0]


def started(call: Callable[[], object]) -> Running:
    ended: list[object] = []

    def run() -> None:
        try:
            ended.append(call())
        except Exception as error:  # noqa: BLE001 - the test looks at it
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return Running(thread, ended)


def test_notify_ends_wait_of_poll_like_a_timeout(loop: Loop) -> None:
    polling = started(loop.poll)
    assert loop.waiting.wait(SOON)
    loop.wake.notify()
    assert isinstance(polling.end(), kafka.errors.KafkaTimeoutError)


def test_notify_before_a_wait_ends_it(loop: Loop) -> None:
    loop.wake.notify()
    assert isinstance(started(loop.poll).end(), kafka.errors.KafkaTimeoutError)
    loop.wake.clear()
    loop.waiting.clear()
    polling = started(loop.poll)
    assert loop.waiting.wait(SOON)
    loop.net.call_soon_threadsafe(lambda: loop.answer.success("answer"))
    assert polling.end() == "answer"


def test_answer_that_has_arrived_is_returned_despite_notify(loop: Loop) -> None:
    """So the group makes progress even if each poll is interrupted."""
    loop.answer.success("answer")
    loop.wake.notify()
    assert started(loop.poll).end() == "answer"


def test_notify_does_not_end_wait_on_another_thread(loop: Loop) -> None:
    committing = started(loop.commit)
    assert loop.waiting.wait(SOON)
    polling = started(loop.poll)
    loop.wake.notify()
    assert isinstance(polling.end(), kafka.errors.KafkaTimeoutError)
    assert committing.thread.is_alive()
    loop.net.call_soon_threadsafe(lambda: loop.answer.success("answer"))
    assert committing.end() == "answer"


def test_no_sleep_follows_an_interrupted_wait(loop: Loop) -> None:
    """The client ignores the timeout of its wait for the group's commits, sleeps and retries."""

    async def wait_and_sleep() -> None:
        try:
            await loop._wait()
        except kafka.errors.KafkaTimeoutError:
            await loop.net.sleep(LONG)

    def poll() -> object:
        with loop.wake.waits():
            return loop.net.run(wait_and_sleep)

    polling = started(poll)
    assert loop.waiting.wait(SOON)
    loop.wake.notify()
    assert isinstance(polling.end(), kafka.errors.KafkaTimeoutError)


def test_poll_without_fetch_under_way_waits_for_notify(loop: Loop) -> None:
    fetch = loop.consumer._fetcher.fetch_records
    polling = started(lambda: fetch(1, True, LONG * 1000))
    loop.wake.notify()
    assert polling.end() == ({}, False)  # with True, the client would sleep


def test_records_that_arrive_between_two_checks_are_returned_at_once(loop: Loop) -> None:
    fetcher, records = loop.consumer._fetcher, {"t": ["record"]}
    fetcher.fetched_records = lambda most, *, update_offsets: (records, False)
    assert started(lambda: fetcher.fetch_records(1, True, LONG * 1000)).end() == (records, False)


def test_a_partition_without_a_position_is_looked_up_again_after_the_backoff(loop: Loop) -> None:
    """No event reports that the lookup can succeed."""
    state = SimpleNamespace(paused=True, has_valid_position=False, awaiting_validation=False)
    loop.consumer._subscription.assignment["tp"] = state
    fetch = loop.consumer._fetcher.fetch_records
    assert started(lambda: fetch(1, True, LONG * 1000)).end() == ({}, False)


@pytest.mark.parametrize(("node_id", "known"), [(1, True), (2, False), (None, False)])
def test_coordinator_is_looked_up_only_if_none_is_connected(
    loop: Loop, node_id: int | None, known: bool
) -> None:
    loop.consumer._coordinator.coordinator_id = node_id
    assert loop.consumer._coordinator.ensure_coordinator_ready(timeout_ms=5) is known


def test_notifying_a_loop_that_has_ended_does_nothing(loop: Loop) -> None:
    polling = started(loop.poll)
    assert loop.waiting.wait(SOON)
    loop.net.close()
    loop.wake.notify()
    assert isinstance(polling.end(), kafka.errors.KafkaError)
    loop.wake.notify()


@pytest.mark.parametrize("answered", [True, False])
def test_each_metadata_answer_notifies(loop: Loop, answered: bool) -> None:
    def update(metadata: object) -> object:
        if answered:
            return metadata
        raise ValueError("a listener of the client")

    cluster = SimpleNamespace(update_metadata=update)
    loop.wake.notify_of_metadata(SimpleNamespace(_client=SimpleNamespace(cluster=cluster)))
    if answered:
        assert cluster.update_metadata("metadata") == "metadata"
    else:
        with pytest.raises(ValueError, match="a listener"):
            cluster.update_metadata("metadata")
    assert loop.wake.is_noted


@pytest.mark.parametrize(
    ("interval", "expected"),
    [(1000, [100, 200, 400, 800, 1000, 1000]), (50, [50, 50, 50, 50, 50, 50])],
)
def test_heartbeats_are_fast_after_a_join_and_slow_down_again(
    interval: int, expected: list[int]
) -> None:
    config = {"heartbeat_interval_ms": interval}
    enabled: list[int] = []
    heartbeat = SimpleNamespace(config=config, sent_heartbeat=lambda: None)
    coordinator = SimpleNamespace(
        heartbeat=heartbeat,
        _enable_heartbeat=lambda: enabled.append(config["heartbeat_interval_ms"]),
    )
    hurry_after_join(SimpleNamespace(_coordinator=coordinator))
    for _ in range(2):  # after each join
        coordinator._enable_heartbeat()
        waits = []
        for _ in expected:
            waits.append(config["heartbeat_interval_ms"])
            heartbeat.sent_heartbeat()
        assert waits == expected
    assert enabled == [expected[0]] * 2


# With a broker. A turn and a fetch take much longer than a test here, so only an event ends them.

PATIENT = {
    "request_timeout": 2 * LONG,
    "max_poll_interval": 4 * LONG,
    "client_options": {"fetch_max_wait_ms": int(LONG * 1000)},
}


@pytest.fixture
def no_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_consumer, "TURN", LONG)


class Polling:
    """A count of the polls of the client that a member makes."""

    def __init__(self, member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rounds = 0
        consumer: Any = member.client._consumer  # type: ignore[attr-defined]
        poll_once = consumer._poll_once

        def counted(*args: Any) -> Any:
            self.rounds += 1
            return poll_once(*args)

        monkeypatch.setattr(consumer, "_poll_once", counted)


Act = Callable[[Member, TP], Awaitable[object]]


async def interrupt(member: Member, tp: TP) -> None:
    member.client.interrupt()


ACTS: dict[str, Act] = {
    "an interrupt": interrupt,
    "a pause": lambda member, tp: member.client.pause([tp]),
    "a resume": lambda member, tp: member.client.resume([tp]),
    "a seek": lambda member, tp: member.client.seek(tp, 0),
    "positions": lambda member, tp: member.client.positions([tp]),
}


@pytest.mark.kafka
@pytest.mark.usefixtures("no_turns", "quiet_client")
@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("what", ACTS)
async def test_each_call_ends_the_wait_at_once(kafka_rig: Rig, what: str, paused: bool) -> None:
    topic = await kafka_rig.topic(2)
    tps = [TP(topic, 0), TP(topic, 1)]
    async with kafka_rig.member([topic], **PATIENT) as member:
        await member.located(tps)
        if paused:
            await member.client.pause(tps)
        for _ in range(3):
            with trio.fail_after(SOON):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(member.poll)
                    await trio.sleep(0.2)  # then the poll waits in the client
                    await ACTS[what](member, tps[0])
                    member.client.interrupt()


@pytest.mark.kafka
@pytest.mark.usefixtures("no_turns", "quiet_client")
@pytest.mark.parametrize("paused", [False, True])
async def test_idle_poll_wakes_only_for_events(
    kafka_rig: Rig, paused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await kafka_rig.topic(2)
    tps = [TP(topic, 0), TP(topic, 1)]
    async with kafka_rig.member([topic], **PATIENT) as member:
        await member.located(tps)
        if paused:
            await member.client.pause(tps)
        polling = Polling(member, monkeypatch)
        await member.poll_for(3 * SETTINGS.heartbeat_interval)
        # One poll that waits, and one for the end of the fetch that the last poll has begun.
        assert polling.rounds <= 3


@pytest.mark.kafka
@pytest.mark.usefixtures("no_turns", "quiet_client")
async def test_a_rebalance_ends_the_wait(kafka_rig: Rig) -> None:
    topic, group = await kafka_rig.topic(2), kafka_rig.name()
    async with kafka_rig.member([topic], group_id=group, **PATIENT) as member:
        await until(lambda: len(member.assigned) == 2, member)
        async with kafka_rig.member([topic], group_id=group, **PATIENT) as other:
            with trio.fail_after(SOON):
                await until(lambda: len(member.assigned) == len(other.assigned) == 1, member, other)
        with trio.fail_after(SOON):
            await until(lambda: len(member.assigned) == 2, member)


@pytest.mark.kafka
@pytest.mark.usefixtures("no_turns", "quiet_client")
async def test_lost_membership_ends_the_wait(kafka_rig: Rig) -> None:
    topic = await kafka_rig.topic(1)
    async with kafka_rig.member([topic], **PATIENT) as member:
        await until(lambda: member.assigned, member)
        coordinator: Any = member.client._consumer._coordinator  # type: ignore[attr-defined]
        with trio.fail_after(SOON):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(until, lambda: member.events(RebalanceKind.LOST), member)
                await trio.sleep(0.2)
                coordinator.reset_generation()


@pytest.mark.kafka
@pytest.mark.usefixtures("no_turns", "quiet_client")
async def test_added_partitions_end_the_wait_of_a_reader(kafka_rig: Rig) -> None:
    topic = await kafka_rig.topic(1)
    alone = {"client_only": True, "group_id": None, "metadata_max_age": 0.5}
    async with kafka_rig.member([topic], max_poll_interval=4 * LONG, **alone) as member:
        await member.located([TP(topic, 0)])
        await member.client.pause([TP(topic, 0)])  # otherwise the end of a fetch ends the wait
        await kafka_rig.widen(topic, 3)
        with trio.fail_after(SOON):
            await until(lambda: len(member.assigned) == 3, member)


@pytest.mark.kafka
@pytest.mark.usefixtures("quiet_client")
async def test_second_member_gets_partitions_soon_with_default_heartbeats(kafka_rig: Rig) -> None:
    """A rebalance has two joins, and each join waits for the other member's heartbeat."""
    topic, group = await kafka_rig.topic(4), kafka_rig.name()
    default = {"group_id": group, "heartbeat_interval": 1.0}
    async with kafka_rig.member([topic], **default) as member:
        await until(lambda: len(member.assigned) == 4, member)
        await member.poll_for(3.0)  # then its heartbeats are slow again
        async with kafka_rig.member([topic], **default) as other:
            before = trio.current_time()
            await until(lambda: len(member.assigned) == len(other.assigned) == 2, member, other)
            took = trio.current_time() - before
    assert took < 2.0, took
