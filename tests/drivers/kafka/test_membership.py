"""Failures that heartbeats detect reach the app at once (Kafka only)."""

from __future__ import annotations

from typing import Any

import kafka.errors
import pytest
import trio

from tests.drivers.rig import SETTINGS, Member, Rig, until
from tests.kafka.cluster import Broker
from transport.drivers import driver_for
from transport.drivers.base import RebalanceKind
from transport.drivers.kafka import consumer as kafka_consumer
from transport.errors import AuthorizationFailed, Fenced, TransportError

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.usefixtures("quiet_client"),
]
SOON = {"heartbeat_interval": 0.2}


def coordinator_of(member: Member) -> Any:
    return member.client._consumer._coordinator  # type: ignore[attr-defined]


def failing(times: int, error: Exception) -> Any:
    """Return a coroutine function that raises in its first `times` calls."""
    left = [error] * times

    async def fail(*args: Any) -> Any:
        if left:
            raise left.pop()

    return fail


async def test_partitions_are_lost_after_session_timeout_without_an_answer(
    kafka_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_consumer, "TURN", 60.0)  # a fetch fails only after 10 s
    kafka_rig = Rig(driver_for([f"kafka://{kafka_broker.bootstrap}"]))
    topic = await kafka_rig.topic(2)
    async with kafka_rig.member([topic], **SOON) as member:
        await until(lambda: len(member.assigned) == 2, member)
        kafka_broker.freeze()
        frozen_at = trio.current_time()
        with trio.fail_after(SETTINGS.session_timeout + 3):
            await until(lambda: not member.assigned, member)
        assert trio.current_time() - frozen_at > SETTINGS.session_timeout - 1
        assert [len(tps) for tps in member.events(RebalanceKind.LOST)] == [2]
        kafka_broker.thaw()
        with trio.fail_after(30):
            await until(lambda: len(member.assigned) == 2, member)


async def test_fenced_member_raises_without_a_commit(kafka_rig: Rig) -> None:
    topic, group = await kafka_rig.topic(1), kafka_rig.name()
    settings = {"group_id": group, "group_instance_id": "one", **SOON}
    async with kafka_rig.member([topic], **settings) as member:
        await until(lambda: member.assigned, member)
        async with kafka_rig.member([topic], **settings) as other, trio.open_nursery() as nursery:
            nursery.start_soon(other.poll_on)
            with trio.fail_after(20), pytest.raises(Fenced):
                await member.poll_on()
            nursery.cancel_scope.cancel()


async def test_refused_heartbeat_is_error_of_poll_at_once(kafka_rig: Rig) -> None:
    topic = await kafka_rig.topic(1)
    async with kafka_rig.member([topic], **SOON) as member:
        await until(lambda: member.assigned, member)

        def refuse(*args: Any) -> None:
            raise kafka.errors.GroupAuthorizationFailedError("taken away")

        coordinator_of(member)._handle_heartbeat_response = refuse
        with trio.fail_after(5), pytest.raises(AuthorizationFailed, match="taken away"):
            await member.poll_on()


async def test_heartbeats_restart_after_an_error(
    kafka_rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    topic = await kafka_rig.topic(1)
    async with kafka_rig.member([topic], **SOON) as member:
        await until(lambda: member.assigned, member)
        coordinator = coordinator_of(member)
        beat = coordinator._do_heartbeat

        async def fail_once() -> None:
            coordinator._do_heartbeat = beat
            raise ValueError("in the loop")

        coordinator._do_heartbeat = fail_once
        await member.poll_for(SETTINGS.session_timeout + 2)
        assert (
            "heartbeats stopped with ValueError('in the loop') and are started again" in caplog.text
        )
        assert not member.events(RebalanceKind.LOST)
        await member.client.commit({tp: 0 for tp in member.assigned}, 3.0)


async def test_heartbeat_due_at_close_is_not_an_error(
    kafka_rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    topic = await kafka_rig.topic(1)
    async with kafka_rig.member([topic], **SOON) as member:
        await until(lambda: member.assigned, member)
        coordinator = coordinator_of(member)
        coordinator.heartbeat.should_heartbeat = lambda: True
        has_tried_when_closed = False

        async def beat_at_once() -> None:
            nonlocal has_tried_when_closed
            has_tried_when_closed = coordinator._net._closed
            await coordinator._net.sleep(0)

        coordinator._do_heartbeat = beat_at_once
        await member.poll_for(0.5)
        await member.client.kill()
        assert has_tried_when_closed
    assert "heartbeats" not in caplog.text


async def test_heartbeats_that_end_again_are_error_of_poll(kafka_rig: Rig) -> None:
    topic = await kafka_rig.topic(1)
    async with kafka_rig.member([topic], **SOON) as member:
        await until(lambda: member.assigned, member)
        coordinator_of(member)._do_heartbeat = failing(9, ValueError("each time"))
        with trio.fail_after(5), pytest.raises(TransportError, match=r"stopped.*each time"):
            await member.poll_on()


async def test_membership_lost_during_join_raises_lost(kafka_rig: Rig) -> None:
    """The client would treat the new member's partitions as those of the old member."""
    topic = await kafka_rig.topic(2)
    async with kafka_rig.member([topic], **SOON) as member:
        await until(lambda: len(member.assigned) == 2, member)
        coordinator = coordinator_of(member)
        process = coordinator._process_sync_group_response

        def thrown_out(response: Any, send_time: float) -> Any:
            coordinator._process_sync_group_response = process
            coordinator.reset_generation()
            raise kafka.errors.UnknownMemberIdError

        coordinator._process_sync_group_response = thrown_out
        coordinator.request_rejoin()
        with trio.fail_after(20):
            await until(lambda: len(member.told) >= 3 and len(member.assigned) == 2, member)
        kinds = [event.kind for event in member.told if event.partitions]
        assert kinds == [RebalanceKind.ASSIGNED, RebalanceKind.LOST, RebalanceKind.ASSIGNED]


async def test_lost_rebalance_has_full_bound_after_long_search_for_coordinator(
    kafka_rig: Rig,
) -> None:
    """Without a coordinator the client counts no polls, so the bound would end before the loss."""
    topic = await kafka_rig.topic(1)
    async with kafka_rig.member([topic], **SOON) as member:
        await until(lambda: member.assigned, member)
        coordinator = coordinator_of(member)
        coordinator.heartbeat.last_poll -= 1000
        coordinator.reset_generation()
        with trio.fail_after(20):
            await until(lambda: member.events(RebalanceKind.LOST), member)
        (lost,) = [event for event in member.told if event.kind is RebalanceKind.LOST]
        assert lost.bound == SETTINGS.rebalance_bound
        assert not lost.expired.is_set()


@pytest.mark.parametrize("alone", [False, True])
async def test_revoked_right_on_topic_is_error_without_refused_fetch(
    kafka_rig: Rig, alone: bool
) -> None:
    topic = await kafka_rig.topic(1)
    settings = {"client_only": True, "group_id": None} if alone else {}
    async with kafka_rig.member([topic], **settings) as member:
        await until(lambda: member.assigned, member)
        client = member.client._client  # type: ignore[attr-defined]
        client.cluster.unauthorized_topics = {topic}
        with trio.fail_after(5), pytest.raises(AuthorizationFailed, match=topic):
            await member.poll_on()
