"""Failures in the client's own tasks and connections, and brokers that have moved."""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

import attrs
import kafka.errors
import pytest
import trio
from kafka.future import Future

from tests.drivers.inside import move_all_brokers, on_the_loop
from tests.drivers.rig import SETTINGS, Rig, outgoing, until
from transport.drivers import driver_for
from transport.drivers.base import RebalanceKind
from transport.errors import AuthorizationFailed, BrokerUnavailable, TransportError
from transport.types import RecordMetadata

kafka_lane = pytest.mark.kafka
pytestmark = pytest.mark.usefixtures("quiet_client")


def client_of(owner: Any) -> Any:
    """Return the KafkaNetClient of a member or a sender."""
    return owner.client._client


# No broker answers at the addresses in the client's metadata.


@kafka_lane
async def test_producer_uses_bootstrap_addresses_after_brokers_moved(kafka_rig: Rig) -> None:
    topic = await kafka_rig.topic(1)
    async with kafka_rig.sender() as sender:
        await sender.fill(topic, 1, 1)
        client = client_of(sender)
        await on_the_loop(client, lambda: move_all_brokers(client))
        with trio.fail_after(20):
            (sent,) = await sender.send([outgoing(topic, partition=0)])
        assert isinstance(sent, RecordMetadata)
        assert client_of(sender) is client


@kafka_lane
async def test_member_uses_bootstrap_addresses_after_brokers_moved(kafka_rig: Rig) -> None:
    topic = await kafka_rig.topic(1)
    async with kafka_rig.member([topic]) as member, kafka_rig.sender() as sender:
        await until(lambda: member.assigned, member)
        client = client_of(member)
        await on_the_loop(client, lambda: move_all_brokers(client))
        await sender.fill(topic, 1, 1)
        with trio.fail_after(20):
            await member.take(1)
        assert not member.events(RebalanceKind.LOST)


@kafka_lane
async def test_metadata_loop_survives_failure_of_another_refresh(kafka_rig: Rig) -> None:
    """The client's own loop ends with that failure, and never requests metadata again."""
    topic = await kafka_rig.topic(1)
    async with kafka_rig.sender() as sender:
        await sender.client.partition_count(topic, 5.0)
        cluster = client_of(sender).cluster

        loop, wakeup = cluster._refresh_loop_future, cluster._wakeup
        under_way = Future()

        def begin_another() -> None:
            cluster._refresh_future = under_way
            wakeup._wakeup()

        await on_the_loop(client_of(sender), begin_another)
        await on_the_loop(client_of(sender), lambda: client_of(sender)._net.sleep(0.2))
        under_way.failure(kafka.errors.KafkaConnectionError("reset"))
        other = await kafka_rig.topic(1)
        with trio.fail_after(20):
            assert await sender.client.partition_count(other, 10.0) == 1
        assert not loop.is_done


@kafka_lane
async def test_failed_metadata_loop_is_error_of_next_poll(
    kafka_rig: Rig,
) -> None:
    topic = await kafka_rig.topic(1)
    async with kafka_rig.member([topic]) as member:
        await until(lambda: member.assigned, member)
        cluster = client_of(member).cluster

        def fail(response: Any) -> None:
            raise KeyError("in the answer")

        cluster.update_metadata = fail
        cluster.request_update()
        with trio.fail_after(10), pytest.raises(TransportError, match="in the answer"):
            await member.poll_on()


# Consumers: errors in a callback or a task.


@kafka_lane
async def test_failed_fetch_callback_is_error_of_next_poll(kafka_rig: Rig) -> None:
    topic = await kafka_rig.topic(1)
    async with kafka_rig.member([topic]) as member, kafka_rig.sender() as sender:
        await until(lambda: member.assigned, member)
        fetcher = member.client._consumer._fetcher  # type: ignore[attr-defined]

        good, fetcher._completed_fetches = fetcher._completed_fetches, Refusing()
        await sender.fill(topic, 1, 1)
        with trio.fail_after(10), pytest.raises(TransportError, match="cannot be taken"):
            await member.poll_on()
        fetcher._completed_fetches = good


@kafka_lane
async def test_failed_offset_lookup_is_error_after_a_few_retries(
    kafka_rig: Rig,
) -> None:
    topic = await kafka_rig.topic(1)
    async with kafka_rig.member([]) as member:
        fetcher = member.client._consumer._fetcher  # type: ignore[attr-defined]
        tries = []

        def fail(timestamps: Any) -> Any:
            tries.append(timestamps)
            raise KeyError("of a look-up")

        fetcher._group_list_offset_requests = fail
        await member.client.subscribe([topic])
        with trio.fail_after(20), pytest.raises(TransportError, match="of a look-up"):
            await member.poll_on()
        assert len(tries) >= 3


class Refusing(list[object]):
    """A list that rejects each fetch."""

    def append(self, fetch: object) -> None:
        raise ValueError("cannot be taken")


@kafka_lane
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_crashed_loop_is_error_of_next_poll(kafka_rig: Rig) -> None:
    topic = await kafka_rig.topic(1)
    async with kafka_rig.member([topic]) as member:
        await until(lambda: member.assigned, member)
        net = client_of(member)._net
        schedule = net._schedule_tasks

        def crash() -> None:
            net._schedule_tasks = schedule
            raise OSError("select")

        net._schedule_tasks = crash
        with trio.fail_after(10), pytest.raises(TransportError, match="select"):
            await member.poll_on()


@kafka_lane
@pytest.mark.parametrize("side", ["data_received", "_sock_send"])
async def test_connection_is_replaced_after_reader_or_writer_fails(
    kafka_rig: Rig, side: str
) -> None:
    topic = await kafka_rig.topic(1)
    async with (
        kafka_rig.member([topic], request_timeout=60.0) as member,
        kafka_rig.sender() as sender,
    ):
        await until(lambda: member.assigned, member)
        broken = []

        def fail(*args: Any) -> Any:
            broken.append(side)
            raise ValueError("unexpected")

        def break_all() -> None:
            for connection in client_of(member)._manager._conns.values():
                owner = connection if side == "data_received" else connection.transport
                setattr(owner, side, fail)

        await on_the_loop(client_of(member), break_all)
        with trio.fail_after(20):
            while not broken:
                await member.poll_for(0.2)
            await sender.fill(topic, 1, 1)
            await member.take(1)


@kafka_lane
async def test_fetch_waits_for_leader_that_metadata_does_not_name(kafka_rig: Rig) -> None:
    """In the client, the fetch from that leader would stay in flight for ever."""
    topic = await kafka_rig.topic(1)
    async with kafka_rig.member([topic]) as member, kafka_rig.sender() as sender:
        await until(lambda: member.assigned, member)
        cluster = client_of(member).cluster

        def name_another() -> None:
            for partition in cluster._partitions[topic].values():
                partition.leader_id = 99

        await on_the_loop(client_of(member), name_another)
        await sender.fill(topic, 1, 1)
        with trio.fail_after(20):
            await member.take(1)


# Logins.


def refuse_logins(client: Any) -> None:
    """Let all brokers refuse a login and close their connections."""
    manager = client._manager
    for node_id in [broker.node_id for broker in client.cluster.brokers()]:
        refusal = kafka.errors.SaslAuthenticationFailedError("expired")
        manager._auth_failures[node_id] = refusal
    for connection in list(manager._conns.values()):
        connection.close(kafka.errors.KafkaConnectionError("closed"))


@kafka_lane
async def test_remembered_login_refusal_ends_consumer(kafka_rig: Rig) -> None:
    topic = await kafka_rig.topic(1)
    async with kafka_rig.member([topic]) as member:
        await until(lambda: member.assigned, member)
        await on_the_loop(client_of(member), lambda: refuse_logins(client_of(member)))
        with trio.fail_after(20), pytest.raises(AuthorizationFailed, match="expired"):
            await member.poll_on()


@kafka_lane
async def test_producer_logs_in_again_after_remembered_refusal(
    kafka_rig: Rig,
) -> None:
    topic = await kafka_rig.topic(1)
    async with kafka_rig.sender() as sender:
        await sender.fill(topic, 1, 1)
        refused = client_of(sender)
        await on_the_loop(refused, lambda: refuse_logins(refused))
        with trio.fail_after(20):
            (sent,) = await sender.send([outgoing(topic, partition=0)])
        assert isinstance(sent, RecordMetadata)
        assert client_of(sender) is not refused


# Handshakes.


@pytest.mark.parametrize("kind", ["consumer", "producer"])
async def test_handshake_without_answer_times_out(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        driver = driver_for([f"kafka+ssl://{address}"])
        settings = attrs.evolve(SETTINGS, group_id="g", connect_timeout=0.5)
        opening = {
            "consumer": driver.consumer(settings).open,
            "producer": partial(driver.producer(settings).open, lambda _: None),
        }
        with (
            trio.fail_after(10),
            pytest.raises(BrokerUnavailable, match="did not answer the TLS handshake"),
        ):
            await opening[kind]()
