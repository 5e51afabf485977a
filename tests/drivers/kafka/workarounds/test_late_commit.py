"""A commit that is retried after a rebalance does not undo the commit of the next owner."""

from __future__ import annotations

from typing import Any

import kafka.errors
import pytest
import trio

from tests.drivers.rig import Rig, until
from transport.drivers.base import Rebalance, RebalanceKind
from transport.errors import RebalanceInProgress
from transport.types import TP

pytestmark = pytest.mark.kafka

# Milliseconds between two tries, longer than a rebalance.
PAUSE = 5000


async def test_a_commit_is_not_retried_in_a_later_generation(kafka_rig: Rig) -> None:
    topic, group = await kafka_rig.topic(2), kafka_rig.name()
    settings = {"group_id": group, "heartbeat_interval": 0.2}
    async with kafka_rig.member([topic], **settings) as member, trio.open_nursery() as nursery:
        await until(lambda: len(member.assigned) == 2, member)
        tps = sorted(member.assigned)
        fail_once(member.client, kafka.errors.NotCoordinatorError())
        has_failed = trio.Event()

        async def commit() -> None:
            with pytest.raises(RebalanceInProgress, match=r"generation \d, and .* generation \d"):
                await member.client.commit(dict.fromkeys(tps, 5), 4 * PAUSE / 1000)
            has_failed.set()

        nursery.start_soon(commit)
        nursery.start_soon(member.poll_on)
        async with kafka_rig.member([topic], **settings) as other:
            await until(lambda: bool(other.assigned), other)
            (moved,) = await other.located(other.assigned)
            await other.client.commit({moved: 7}, 10.0)
            assert not has_failed.is_set()
            with trio.fail_after(30):
                await has_failed.wait()
            assert (await other.client.committed([moved]))[moved] == 7
        nursery.cancel_scope.cancel()


async def test_a_commit_within_an_expired_rebalance_is_not_made_in_a_later_generation(
    kafka_rig: Rig,
) -> None:
    topic, group = await kafka_rig.topic(2), kafka_rig.name()
    settings: dict[str, Any] = {
        "group_id": group,
        "heartbeat_interval": 0.2,
        "drain_timeout": 1.0,
    }
    has_moved, is_refused = trio.Event(), trio.Event()

    async def commit_late(rebalance: Rebalance) -> None:
        if rebalance.kind is RebalanceKind.REVOKED and rebalance.partitions:
            await has_moved.wait()
            assert rebalance.expired.is_set()
            with pytest.raises(RebalanceInProgress):
                await member.client.commit(dict.fromkeys(rebalance.partitions, 5), 10.0)
            is_refused.set()

    async with (
        kafka_rig.member([topic], commit_late, **settings) as member,
        trio.open_nursery() as nursery,
    ):
        await until(lambda: len(member.assigned) == 2, member)
        nursery.start_soon(member.poll_on)
        async with kafka_rig.member([topic], **settings) as other:
            with trio.fail_after(30):
                await until(lambda: bool(other.assigned), other)
                (moved,) = await other.located(other.assigned)
                await other.client.commit({moved: 7}, 10.0)
                has_moved.set()
                await is_refused.wait()
            assert (await other.client.committed([moved]))[moved] == 7
        nursery.cancel_scope.cancel()


async def test_a_commit_waits_for_the_receipt_of_each_rebalance(kafka_rig: Rig) -> None:
    topic = await kafka_rig.topic(1)
    async with kafka_rig.member([topic]) as member:
        await until(lambda: bool(member.assigned), member)
        client: Any = member.client
        client._listener.raised += 1
        with pytest.raises(RebalanceInProgress, match="has not received the last rebalance"):
            await client.commit({TP(topic, 0): 5}, 10.0)
        client._received += 1
        await client.commit({TP(topic, 0): 5}, 10.0)


async def test_a_commit_is_retried_in_its_own_generation(kafka_rig: Rig) -> None:
    topic = await kafka_rig.topic(1)
    async with kafka_rig.member([topic]) as member:
        await until(lambda: bool(member.assigned), member)
        fail_once(member.client, kafka.errors.NotCoordinatorError(), pause=100)
        await member.client.commit({TP(topic, 0): 5}, 10.0)
        assert (await member.client.committed([TP(topic, 0)]))[TP(topic, 0)] == 5


def fail_once(client: Any, error: Exception, pause: int = PAUSE) -> None:
    """Let the answer to the next commit be a retriable error, and the client wait after it."""
    coordinator = client._consumer._coordinator
    coordinator.config["retry_backoff_ms"] = pause
    handle = coordinator._handle_offset_commit_response

    def fail(*args: Any) -> Any:
        coordinator._handle_offset_commit_response = handle
        raise error

    coordinator._handle_offset_commit_response = fail
