"""The Kafka driver alone: its threads, the client's behavior, and brokers that do not answer."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from functools import partial
from typing import Any, NoReturn

import attrs
import kafka.errors
import pytest
import trio
from kafka import KafkaProducer
from kafka.consumer.fetcher import Fetcher, FetchSessionHandler
from kafka.future import Future
from kafka.net.compat import KafkaNetClient

from tests.drivers.rig import Sent, outgoing
from tests.kafka import cluster
from tests.kafka.cluster import Broker, describe_group
from tests.records import read
from transport.drivers import driver_for
from transport.drivers.base import Driver, Outgoing, Rebalance, RebalanceKind
from transport.drivers.kafka import KafkaConsumerClient, KafkaDriver, KafkaProducerClient
from transport.drivers.kafka import producer as producer_code
from transport.drivers.kafka.consumer import TURN
from transport.drivers.settings import ClientSettings
from transport.errors import (
    AuthorizationFailed,
    BrokerUnavailable,
    ClientClosed,
    CommitFailed,
    CommitUnknown,
    CommitWithdrawn,
    DeliveryTimeout,
    Fenced,
    MessageTooLarge,
    PartitionGone,
    RebalanceInProgress,
    TransportError,
    UnknownTopic,
)
from transport.types import TP, RecordMetadata

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.usefixtures("quiet_client"),
]

SETTINGS = ClientSettings(
    session_timeout=6.0,
    heartbeat_interval=0.5,
    max_poll_interval=20.0,
    commit_timeout=3.0,
    connect_timeout=3.0,
)
MakeTopic = Callable[..., str]


@contextlib.asynccontextmanager
async def producing(
    bootstrap: str, **settings: object
) -> AsyncIterator[tuple[KafkaProducerClient, Sent]]:
    client = KafkaDriver([bootstrap]).producer(attrs.evolve(SETTINGS, **settings))
    sent = Sent()
    await client.open(sent.report)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.keep_deadlines)
            yield client, sent
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await client.close(5.0)


@contextlib.asynccontextmanager
async def consuming(
    bootstrap: str, topics: Collection[str], **settings: object
) -> AsyncIterator[KafkaConsumerClient]:
    settings.setdefault("group_id", f"group-{uuid.uuid4().hex[:8]}")
    client = KafkaDriver([bootstrap]).consumer(attrs.evolve(SETTINGS, **settings))
    await client.open()
    try:
        await client.subscribe(topics)
        yield client
    finally:
        with trio.CancelScope(shield=True):
            await client.close(5.0)


async def poll_on(client: KafkaConsumerClient) -> NoReturn:
    while True:
        await client.poll()


async def release_all(client: KafkaConsumerClient, told: list[Rebalance] | None = None) -> None:
    try:
        while True:
            rebalance = await client.next_rebalance()
            if told is not None:
                told.append(rebalance)
            rebalance.release()
    except ClientClosed:
        return


async def fill(bootstrap: str, topic: str, count: int, partitions: int = 1) -> None:
    async with producing(bootstrap) as (client, sent):
        batch = [outgoing(topic, partition=n % partitions, value=b"%d" % n) for n in range(count)]
        await client.partition_count(topic, 5.0)
        await client.send(batch)
        for outcome in await sent.reported(batch):
            assert isinstance(outcome, RecordMetadata)


async def take(client: KafkaConsumerClient, count: int) -> dict[TP, list[int]]:
    offsets: dict[TP, list[int]] = {}
    with trio.fail_after(10.0):
        while sum(map(len, offsets.values())) < count:
            for tp, several in (await client.poll()).items():
                offsets.setdefault(tp, []).extend(record.offset for record in read(several))
    return offsets


def client_threads() -> set[str]:
    """Return the names of the client's threads and of workers that are in use."""
    return {
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith(("kafka", "consumer", "producer"))
    }


def open_sockets() -> int:
    kinds = (
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.lexists(f"/proc/self/fd/{fd}")
    )
    return sum(kind.startswith(("socket", "anon_inode:[eventpoll]")) for kind in kinds)


@pytest.fixture
def nothing_leaks(kafka_topic: MakeTopic) -> Iterator[None]:
    """Check that neither threads nor sockets are left."""
    kafka_topic()  # so that the fixtures have made their connections
    gc.collect()
    threads, sockets = client_threads(), open_sockets()
    yield
    gc.collect()
    assert client_threads() <= threads
    assert open_sockets() == sockets


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


# Opening and ending.


@pytest.mark.usefixtures("nothing_leaks")
@pytest.mark.parametrize("kind", ["consumer", "producer"])
async def test_open_fails_if_no_broker_listens(kind: str) -> None:
    address = closed_port()
    driver = KafkaDriver([address])
    settings = attrs.evolve(SETTINGS, group_id="g", connect_timeout=0.5)
    opening = {
        "consumer": driver.consumer(settings).open,
        "producer": partial(driver.producer(settings).open, lambda _: None),
    }
    with pytest.raises(BrokerUnavailable, match=f"{address}.*ECONNREFUSED"):
        await opening[kind]()


LOGINS = """
listener.security.protocol.map=CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
inter.broker.listener.name=SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN
sasl.mechanism.inter.broker.protocol=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=\
  org.apache.kafka.common.security.plain.PlainLoginModule required \
  username="admin" password="admin-pw" user_admin="admin-pw" user_guest="guest-pw";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:admin;User:ANONYMOUS
"""


async def test_wrong_login_or_missing_right_is_authorization_failed(
    kafka_java: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = cluster.PROPERTIES.replace("listeners=PLAINTEXT", "listeners=SASL_PLAINTEXT")
    monkeypatch.setattr(cluster, "PROPERTIES", properties + LOGINS)
    settings = attrs.evolve(SETTINGS, group_id="g")
    with Broker() as broker:

        def driver(login: str) -> Driver:
            return driver_for([f"kafka+sasl://{login}@{broker.bootstrap}"])

        wrong = driver("guest:wrong-pw")
        for opening in (
            wrong.consumer(settings).open,
            partial(wrong.producer(settings).open, lambda _: None),
        ):
            before = trio.current_time()
            with pytest.raises(AuthorizationFailed) as caught:
                await opening()
            assert trio.current_time() - before < 2.0
            assert "wrong-pw" not in f"{caught.value} {caught.value.__cause__}"

        for login, may in (("admin:admin-pw", True), ("guest:guest-pw", False)):
            rights = contextlib.nullcontext() if may else pytest.raises(AuthorizationFailed)
            producer, sent = driver(login).producer(settings), Sent()
            await producer.open(sent.report)
            consumer = driver(login).consumer(settings)
            await consumer.open()
            with rights:
                await producer.create_topic("t", 1, 1, {}, 10.0)
            with rights:
                assert await producer.partition_count("t", 5.0) == 1
            with rights:
                await consumer.subscribe(["t"])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(producer.keep_deadlines)
                batch = [outgoing("t", partition=0)]
                await producer.send(batch)
                (outcome,) = await sent.reported(batch)
                nursery.cancel_scope.cancel()
            assert isinstance(outcome, RecordMetadata if may else AuthorizationFailed)
            await producer.close(3.0)
            await consumer.close(3.0)


@pytest.mark.usefixtures("nothing_leaks")
async def test_cancelling_an_open_ends_its_threads() -> None:
    settings = attrs.evolve(SETTINGS, group_id="g", connect_timeout=30.0)
    driver = KafkaDriver([closed_port()])
    with trio.fail_after(2.0):
        with trio.move_on_after(0.2):
            await driver.consumer(settings).open()
        with trio.move_on_after(0.2):
            await driver.producer(settings).open(lambda _: None)


@pytest.mark.usefixtures("nothing_leaks")
@pytest.mark.parametrize("how", ["close", "kill"])
async def test_ended_clients_leave_no_threads_and_sockets(
    kafka_bootstrap: str, kafka_topic: MakeTopic, how: str
) -> None:
    topic = kafka_topic()
    await fill(kafka_bootstrap, topic, 10)
    client = KafkaDriver([kafka_bootstrap]).consumer(attrs.evolve(SETTINGS, group_id=topic))
    await client.open()
    await client.subscribe([topic])
    producer = KafkaDriver([kafka_bootstrap]).producer(SETTINGS)
    await producer.open(Sent().report)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(release_all, client)
        await take(client, 10)
        with trio.fail_after(3.0):
            if how == "close":
                await client.close(2.0)
                await client.close(2.0)  # the second does nothing
                await producer.close(2.0)
            else:
                await client.kill()
                await producer.kill()
    for call in (client.poll, lambda: client.pause([]), lambda: client.commit({}, 1.0)):
        with pytest.raises(ClientClosed):
            await call()
    with pytest.raises(ClientClosed):
        await producer.send([outgoing(topic, partition=0)])


async def test_closed_member_leaves_group_and_killed_member_does_not(
    kafka_bootstrap: str, kafka_topic: MakeTopic
) -> None:
    topic = kafka_topic()
    for kill in (False, True):
        group = f"{topic}-{kill}"
        async with (
            consuming(kafka_bootstrap, [topic], group_id=group) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(release_all, client)
            await located(client, topic)
            before = trio.current_time()
            await (client.kill() if kill else client.close(3.0))
        async with consuming(kafka_bootstrap, [topic], group_id=group) as heir:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(release_all, heir)
                await located(heir, topic)
                nursery.cancel_scope.cancel()
            waited = trio.current_time() - before
        assert (waited > SETTINGS.session_timeout * 0.8) == kill


async def located(client: KafkaConsumerClient, topic: str, partitions: int = 4) -> dict[TP, int]:
    tps = [TP(topic, number) for number in range(partitions)]
    with trio.fail_after(20.0):
        while len(positions := await client.positions(tps)) < partitions:
            client.interrupt()
            await client.poll()
    return positions


# Rebalances.


async def test_a_rebalance_expires_by_itself(kafka_bootstrap: str, kafka_topic: MakeTopic) -> None:
    topic = kafka_topic()
    async with (
        consuming(kafka_bootstrap, [topic], drain_timeout=1.0) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(located, client, topic)
        rebalance = await client.next_rebalance()
        assert rebalance.kind is RebalanceKind.ASSIGNED
        assert 0.5 < rebalance.bound <= 1.0
        with trio.fail_after(1.5):
            await rebalance.expired.wait()
        rebalance.release({TP(topic, 0): 5})  # too late


async def test_release_seeks_and_counts_once(kafka_bootstrap: str, kafka_topic: MakeTopic) -> None:
    topic = kafka_topic()
    await fill(kafka_bootstrap, topic, 40, partitions=4)

    async def release(client: KafkaConsumerClient) -> None:
        rebalance = await client.next_rebalance()
        rebalance.release({TP(topic, 1): 7})
        rebalance.release({TP(topic, 1): 3})  # does nothing

    async with (
        consuming(kafka_bootstrap, [topic]) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(release, client)
        offsets = await take(client, 33)
        assert offsets[TP(topic, 1)] == [7, 8, 9]


async def test_close_ends_while_rebalance_is_pending(
    kafka_bootstrap: str, kafka_topic: MakeTopic, nothing_leaks: None
) -> None:
    topic = kafka_topic()
    async with consuming(kafka_bootstrap, [topic]) as client, trio.open_nursery() as nursery:

        async def poll() -> None:
            with pytest.raises(ClientClosed):
                await poll_on(client)

        nursery.start_soon(poll)
        rebalance = await client.next_rebalance()
        with trio.fail_after(3.0):
            await client.close(2.0)
        rebalance.release()


async def test_stuck_leave_is_cut_off_without_error(
    kafka_bootstrap: str, kafka_topic: MakeTopic, nothing_leaks: None
) -> None:
    """As during a rebalance of the group. The thread has ended, so nothing was abandoned."""
    topic = kafka_topic()
    async with consuming(kafka_bootstrap, [topic]) as client, trio.open_nursery() as nursery:
        nursery.start_soon(release_all, client)
        await located(client, topic)
        cut = threading.Event()
        leave, close = client._consumer.close, client._client.close

        def leave_late(**how: Any) -> None:
            cut.wait()
            leave(**how)

        def cut_off() -> None:
            close()
            cut.set()

        client._consumer.close, client._client.close = leave_late, cut_off
        with trio.fail_after(3.0):
            await client.close(2.0)


async def test_eager_group_starts_from_committed_offsets(
    kafka_bootstrap: str, kafka_topic: MakeTopic
) -> None:
    """The client alone would keep position and pause of a partition that is assigned again."""
    topic = kafka_topic(partitions=1)
    await fill(kafka_bootstrap, topic, 10)
    tp = TP(topic, 0)
    group = {"group_id": topic, "assignment": "eager"}
    async with (
        consuming(kafka_bootstrap, [topic], **group) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(release_all, client)
        assert await take(client, 10) == {tp: list(range(10))}
        await client.commit({tp: 4}, 3.0)
        await client.pause([tp])
        async with consuming(kafka_bootstrap, [topic], **group) as other:
            nursery.start_soon(release_all, other)
            offsets = {}
            with trio.fail_after(10.0):
                while not offsets:  # the new owner starts from the committed offset
                    for each in (client, other):
                        each.interrupt()
                        offsets |= await each.poll()
        assert [record.offset for record in read(offsets[tp])] == list(range(4, 10))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("assignment", ["cooperative", "eager"])
async def test_unsubscribing_revokes_all_partitions(
    kafka_bootstrap: str, kafka_topic: MakeTopic, assignment: str
) -> None:
    topic = kafka_topic()
    tps = {TP(topic, number) for number in range(4)}
    async with (
        consuming(kafka_bootstrap, [topic], assignment=assignment) as client,
        trio.open_nursery() as nursery,
    ):
        told: list[Rebalance] = []
        committed = []

        async def serve() -> None:
            while True:
                rebalance = await client.next_rebalance()
                told.append(rebalance)
                if rebalance.kind is RebalanceKind.REVOKED and rebalance.partitions:
                    # still a member, still the owner
                    await client.commit(dict.fromkeys(rebalance.partitions, 0), 3.0)
                    committed.append(rebalance.partitions)
                rebalance.release()

        nursery.start_soon(serve)
        await located(client, topic)
        for _ in range(2):
            told.clear()
            await client.subscribe([])
            assert not told  # not before the next poll
            client.interrupt()
            await client.poll()
            assert [r.partitions for r in told] == [tps]
            assert await client.positions(tps) == {}
            assert client.group_metadata().generation_id == -1
            await client.subscribe([topic])
            await located(client, topic)
        assert len(committed) == 2
        nursery.cancel_scope.cancel()


async def commit_after_joining(client: KafkaConsumerClient, tp: TP) -> None:
    with trio.fail_after(10.0):
        while True:
            try:
                return await client.commit({tp: 0}, 3.0)
            except RebalanceInProgress:
                client.interrupt()
                await client.poll()


async def test_join_continues_after_its_poll_ends(
    kafka_bootstrap: str, kafka_topic: MakeTopic
) -> None:
    """The client alone forgets the join, and returns records without being a member."""
    topics = [kafka_topic(partitions=2)]
    group = {"group_id": topics[0]}
    async with (
        consuming(kafka_bootstrap, topics, **group) as first,
        consuming(kafka_bootstrap, topics, **group) as second,
        trio.open_nursery() as nursery,
    ):
        members = [first, second]
        for member in members:
            nursery.start_soon(release_all, member)

        async def owned_by_both() -> None:
            tps = {TP(topic, number) for topic in topics for number in range(2)}
            with trio.fail_after(20.0):
                while True:
                    for member in members:
                        member.interrupt()
                        await member.poll()
                    owned = [set(await member.positions(tps)) for member in members]
                    if owned[0] | owned[1] == tps and not owned[0] & owned[1]:
                        return

        await owned_by_both()
        for waiting in (first, second):  # one of them is the leader
            topics.append(kafka_topic(partitions=2))
            await waiting.subscribe(topics)
            with trio.move_on_after(1.0):
                await poll_on(waiting)  # the other one does not poll, so the join must wait
            await owned_by_both()
            for member in members:
                await commit_after_joining(member, TP(topics[0], 0))
        nursery.cancel_scope.cancel()


async def test_evicted_member_gets_lost_rebalance(
    kafka_bootstrap: str, kafka_topic: MakeTopic
) -> None:
    topic = kafka_topic()
    settings = {"max_poll_interval": 6.0, "commit_timeout": 1.0, "drain_timeout": 2.0}
    async with (
        consuming(kafka_bootstrap, [topic], **settings) as client,
        trio.open_nursery() as nursery,
    ):
        told: list[Rebalance] = []
        nursery.start_soon(release_all, client, told)
        await located(client, topic)
        await trio.sleep(7.5)  # no poll
        with pytest.raises(CommitFailed):
            await client.commit({TP(topic, 0): 0}, 3.0)
        while len([r for r in told if r.partitions]) < 3:
            client.interrupt()
            await client.poll()
        kinds = [r.kind for r in told if r.partitions]
        assert kinds == [RebalanceKind.ASSIGNED, RebalanceKind.LOST, RebalanceKind.ASSIGNED]
        nursery.cancel_scope.cancel()


async def test_a_static_member_is_fenced(kafka_bootstrap: str, kafka_topic: MakeTopic) -> None:
    topic = kafka_topic()
    member = {"group_id": topic, "group_instance_id": "one"}
    async with (
        trio.open_nursery() as nursery,
        consuming(kafka_bootstrap, [topic], **member) as client,
    ):
        nursery.start_soon(release_all, client)
        await located(client, topic)
        async with consuming(kafka_bootstrap, [topic], **member) as other:
            nursery.start_soon(release_all, other)
            await located(other, topic)
            with pytest.raises(Fenced):
                await client.commit({TP(topic, 0): 0}, 3.0)


# Commits.


async def test_commit_for_missing_topic_raises_partition_gone(
    kafka_bootstrap: str, kafka_topic: MakeTopic
) -> None:
    topic = kafka_topic()
    async with consuming(kafka_bootstrap, [topic]) as client, trio.open_nursery() as nursery:
        nursery.start_soon(release_all, client)
        await located(client, topic)
        # At once: the rebalance that revokes the partitions of a deleted topic waits for this.
        with trio.fail_after(20), pytest.raises(PartitionGone, match="no-such-topic-0"):
            await client.commit({TP("no-such-topic", 0): 1, TP(topic, 2): 3}, 60.0)
        await client.commit({TP(topic, 0): 0, TP(topic, 1): 5}, 3.0)
        tps = [TP(topic, number) for number in range(4)]
        expected = {TP(topic, 0): 0, TP(topic, 1): 5, TP(topic, 2): 3}
        assert await client.committed(tps) == expected
        nursery.cancel_scope.cancel()


async def test_tool_of_kafka_shows_committed_offset(
    kafka_bootstrap: str, kafka_topic: MakeTopic, kafka_java: None
) -> None:
    topic = kafka_topic(partitions=1)
    await fill(kafka_bootstrap, topic, 10)
    async with consuming(kafka_bootstrap, [topic], group_id=topic) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(release_all, client)
            await take(client, 10)
            await client.commit({TP(topic, 0): 7}, 3.0)
            nursery.cancel_scope.cancel()
        rows = await trio.to_thread.run_sync(describe_group, kafka_bootstrap, topic)
    assert rows[(topic, 0)] == (7, 10, 3)


async def test_calls_end_in_time_while_broker_is_frozen(
    kafka_broker: Broker, nothing_leaks: None
) -> None:
    settings = {"group_id": "g", "delivery_timeout": 3.0}
    bootstrap = kafka_broker.bootstrap
    async with producing(bootstrap, **settings) as (producer, sent):
        await producer.create_topic("t", 1, 1, {}, 10.0)
        await producer.partition_count("t", 5.0)
        async with (
            consuming(bootstrap, ["t"], **settings) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(release_all, client)
            await located(client, "t", 1)
            kafka_broker.freeze()
            before = trio.current_time()
            with pytest.raises(CommitUnknown):
                await client.commit({TP("t", 0): 1}, 1.0)
            assert trio.current_time() - before < 1.5

            batch = [outgoing("t", partition=0) for _ in range(10)]
            await producer.send(batch)
            outcomes = await sent.reported(batch, within=4.0)
            assert [type(outcome) for outcome in outcomes] == [DeliveryTimeout] * 10

            before = trio.current_time()
            await client.close(1.5)
            assert trio.current_time() - before < 1.7
        kafka_broker.thaw()
        # The client with those messages was discarded. Another one takes its place.
        late = [outgoing("t", partition=0)]
        await producer.send(late)
        assert [type(outcome) for outcome in await sent.reported(late)] == [RecordMetadata]
        kafka_broker.freeze()
        lost = [outgoing("t", partition=0)]
        await producer.send(lost)
        before = trio.current_time()
        await producer.close(1.0)
        assert trio.current_time() - before < 1.5
        assert [type(outcome) for outcome in await sent.reported(lost)] == [ClientClosed]
        kafka_broker.thaw()


@pytest.mark.parametrize("early", [False, True])
async def test_cancelled_open_that_waits_for_the_transactional_id_ends_at_once(
    kafka_broker: Broker, monkeypatch: pytest.MonkeyPatch, early: bool
) -> None:
    """A frozen broker gives no answer, and the client itself would wait for its timeout."""
    take_over = producer_code.take_over
    asked = threading.Event()

    def take_over_from_frozen_broker(producer: KafkaProducer) -> None:
        kafka_broker.freeze()
        asked.set()
        if early:  # the cancellation comes before the request
            time.sleep(0.5)
        take_over(producer)

    monkeypatch.setattr(producer_code, "take_over", take_over_from_frozen_broker)
    settings = attrs.evolve(SETTINGS, transactional_id="id", connect_timeout=60.0)
    client = KafkaDriver([kafka_broker.bootstrap]).producer(settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.open, Sent().report)
        await trio.to_thread.run_sync(asked.wait)
        if not early:
            await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
        before = trio.current_time()
    assert trio.current_time() - before < 2.0
    kafka_broker.thaw()


QUERIES: dict[str, Callable[[KafkaConsumerClient, TP, float], Awaitable[object]]] = {
    "topics": lambda client, tp, seconds: client.topics(seconds),
    "committed": lambda client, tp, seconds: client.committed([tp], seconds),
    "committed_texts": lambda client, tp, seconds: client.committed_texts([tp], seconds),
    "beginning_offsets": lambda client, tp, seconds: client.beginning_offsets([tp], seconds),
    "offsets_for_times": lambda client, tp, seconds: client.offsets_for_times({tp: 0}, seconds),
    "end_offsets": lambda client, tp, seconds: client.end_offsets([tp], seconds),
    "partitions": lambda client, tp, seconds: client.partitions("not-looked-up-yet", seconds),
}


async def test_concurrent_queries_of_frozen_broker_end_at_their_timeouts(
    kafka_broker: Broker,
) -> None:
    failed: list[tuple[str, float]] = []

    async def ask(name: str) -> None:
        with pytest.raises(BrokerUnavailable):
            await QUERIES[name](client, TP("t", 0), 1.0)
        failed.append((name, trio.current_time() - before))

    async with producing(kafka_broker.bootstrap) as (producer, _):
        await producer.create_topic("t", 1, 1, {}, 10.0)
    async with consuming(kafka_broker.bootstrap, ["t"]) as client, trio.open_nursery() as nursery:
        nursery.start_soon(release_all, client)
        await located(client, "t", 1)
        kafka_broker.freeze()
        before = trio.current_time()
        async with trio.open_nursery() as queries:
            for name in QUERIES:
                queries.start_soon(ask, name)
        kafka_broker.thaw()
        nursery.cancel_scope.cancel()
    assert {name for name, _ in failed} == set(QUERIES)
    assert max(seconds for _, seconds in failed) < 1.9, failed


@pytest.mark.parametrize("name", ["topics", "committed", "end_offsets"])
async def test_a_commit_does_not_wait_for_a_query_under_way(
    kafka_bootstrap: str, kafka_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    topic = kafka_topic()
    tp = TP(topic, 0)
    async with consuming(kafka_bootstrap, [topic]) as client, trio.open_nursery() as nursery:
        nursery.start_soon(release_all, client)
        await located(client, topic, 1)
        manager = client._client._manager
        send, asked, swallowed = manager.send, threading.Event(), list[Future]()

        def swallow(request: Any, *args: Any, **options: Any) -> Any:
            # Only the request of the query gets no answer.
            if not type(request).__name__.startswith(("Metadata", "OffsetFetch", "ListOffsets")):
                return send(request, *args, **options)
            swallowed.append(Future())
            asked.set()
            return swallowed[-1]

        async def ask() -> None:
            with contextlib.suppress(BrokerUnavailable):
                await QUERIES[name](client, tp, 30.0)

        def answer() -> None:
            for future in swallowed:
                future.failure(kafka.errors.RequestTimedOutError())

        monkeypatch.setattr(manager, "send", swallow)
        nursery.start_soon(ask)
        await trio.to_thread.run_sync(asked.wait, 10.0)
        assert asked.is_set()
        await client.commit({tp: 0}, 10.0)
        monkeypatch.undo()
        manager.call_soon(answer)
        assert await client.committed([tp]) == {tp: 0}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("given_up_by", ["its time", "its caller"])
async def test_commit_withdrawn_before_it_began_is_never_made(
    kafka_bootstrap: str, kafka_topic: MakeTopic, given_up_by: str
) -> None:
    topic = kafka_topic()
    tp = TP(topic, 0)
    async with consuming(kafka_bootstrap, [topic]) as client, trio.open_nursery() as nursery:
        nursery.start_soon(release_all, client)
        await located(client, topic, 1)
        go_on = threading.Event()
        client._committing.submit("stuck", go_on.wait)
        try:
            if given_up_by == "its time":
                with pytest.raises(CommitWithdrawn, match="stuck"):
                    await client.commit({tp: 7}, 0.3)
            else:
                with trio.move_on_after(0.3):
                    await client.commit({tp: 7}, 5.0)
        finally:
            go_on.set()
        await client.commit({}, 3.0)  # behind all calls in the queue
        assert await client.committed([tp]) == {}
        nursery.cancel_scope.cancel()


async def test_polling_a_frozen_broker_does_not_spin(
    kafka_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker answers no heartbeat. Polling continues in turns, without a busy loop."""
    looks = 0
    fetch_records = Fetcher.fetch_records

    def look(fetcher: Fetcher, *args: Any, **options: Any) -> Any:
        nonlocal looks
        looks += 1
        return fetch_records(fetcher, *args, **options)

    monkeypatch.setattr(Fetcher, "fetch_records", look)
    async with producing(kafka_broker.bootstrap) as (producer, _):
        await producer.create_topic("t", 1, 1, {}, 10.0)
    async with (
        consuming(kafka_broker.bootstrap, ["t"]) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(release_all, client)
        await located(client, "t", 1)
        kafka_broker.freeze()
        nursery.start_soon(poll_on, client)
        await trio.sleep(2 * SETTINGS.heartbeat_interval)  # then one heartbeat has no answer
        looks, seconds = 0, 2.0
        await trio.sleep(seconds)
        assert 0 < looks <= seconds / TURN + 1  # the timeout of the heartbeat ends one more turn
        kafka_broker.thaw()
        nursery.cancel_scope.cancel()


async def test_idle_fetches_continue_one_session(
    kafka_bootstrap: str, kafka_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fetch of another version ends the session. Then each idle fetch names all partitions."""
    topic = kafka_topic(partitions=4)
    answers: list[tuple[int, int]] = []
    handle = FetchSessionHandler.handle_response

    def look(handler: FetchSessionHandler, response: Any) -> Any:
        answers.append((response.error_code, sum(len(t.partitions) for t in response.responses)))
        return handle(handler, response)

    monkeypatch.setattr(FetchSessionHandler, "handle_response", look)
    async with consuming(kafka_bootstrap, [topic]) as client, trio.open_nursery() as nursery:
        nursery.start_soon(release_all, client)
        await located(client, topic, 4)
        nursery.start_soon(poll_on, client)
        await trio.sleep(1.0)  # the session may have begun with some of the partitions
        answers.clear()
        await trio.sleep(2.5)
        assert len(answers) >= 2
        assert set(answers) == {(0, 0)}
        nursery.cancel_scope.cancel()


async def test_clients_continue_after_broker_restart(kafka_broker: Broker) -> None:
    bootstrap = kafka_broker.bootstrap
    async with producing(bootstrap) as (producer, sent):
        await producer.create_topic("t", 1, 1, {}, 10.0)
        await producer.partition_count("t", 5.0)
        async with consuming(bootstrap, ["t"]) as client, trio.open_nursery() as nursery:
            nursery.start_soon(release_all, client)
            await located(client, "t", 1)
            await trio.to_thread.run_sync(kafka_broker.kill)
            batch = [outgoing("t", partition=0) for _ in range(10)]
            await producer.partition_count("t", 1.0)  # still known
            await producer.send(batch)
            await trio.to_thread.run_sync(kafka_broker.start)
            assert all(
                isinstance(o, RecordMetadata) for o in await sent.reported(batch, within=20.0)
            )
            with trio.fail_after(20.0):
                offsets = await take(client, 10)
            assert offsets == {TP("t", 0): list(range(10))}
            nursery.cancel_scope.cancel()


# Producing.


async def test_an_unknown_topic_delays_no_other(
    kafka_bootstrap: str, kafka_topic: MakeTopic
) -> None:
    topic = kafka_topic()
    async with producing(kafka_bootstrap) as (client, _), trio.open_nursery() as nursery:
        # The broker creates no topic whose name differs from another only in `.` and `_`.
        bad = f"no.such.{topic}"
        await client.create_topic(bad.replace(".", "_"), 1, 1, {}, 10.0)

        async def unknown() -> None:
            with pytest.raises(UnknownTopic, match=re.escape(bad)):
                await client.partition_count(bad, 1.0)

        before = trio.current_time()
        nursery.start_soon(unknown)
        nursery.start_soon(unknown)
        await trio.sleep(0.1)
        assert await client.partition_count(topic, 5.0) == 4
        assert trio.current_time() - before < 0.5


async def test_message_refused_by_client_fails_alone(
    kafka_bootstrap: str, kafka_topic: MakeTopic
) -> None:
    topic = kafka_topic()
    async with producing(kafka_bootstrap, max_request_size=10_000) as (client, sent):
        await client.partition_count(topic, 5.0)
        batch = [
            outgoing(topic, partition=0),
            outgoing(topic, partition=0, value=b"x" * 20_000),
            outgoing(topic, partition=99),
            Outgoing(topic, 1, None, None, (), None),
            outgoing(topic, partition=None),
        ]
        await client.send(batch)
        ok, large, nowhere, empty, anywhere = await sent.reported(batch)
    assert isinstance(ok, RecordMetadata)
    assert isinstance(large, MessageTooLarge)
    assert isinstance(nowhere, TransportError)
    assert isinstance(empty, RecordMetadata)
    assert isinstance(anywhere, RecordMetadata)


async def test_split_batch_loses_no_message(kafka_bootstrap: str, kafka_topic: MakeTopic) -> None:
    """The topic's max.message.bytes is below the size of the client's batch."""
    topic = kafka_topic(partitions=1, max_message_bytes="2000")
    async with producing(kafka_bootstrap, linger=0.2) as (client, sent):
        await client.partition_count(topic, 5.0)
        batch = [outgoing(topic, partition=0, value=b"%03d" % n * 50) for n in range(100)]
        large = outgoing(topic, partition=0, value=b"x" * 5000)
        await client.send([*batch[:50], large, *batch[50:]])
        outcomes = await sent.reported(batch)
        assert sorted(o.offset for o in outcomes if isinstance(o, RecordMetadata)) == [*range(100)]
        assert [type(o) for o in await sent.reported([large])] == [MessageTooLarge]


@pytest.mark.parametrize("acks", [0, 1, "all"])
async def test_offsets_are_returned_unless_acks_is_0(
    kafka_bootstrap: str, kafka_topic: MakeTopic, acks: int | str
) -> None:
    topic = kafka_topic(partitions=1)
    async with producing(kafka_bootstrap, acks=acks) as (client, sent):
        await client.partition_count(topic, 5.0)
        batch = [outgoing(topic, partition=0) for _ in range(3)]
        await client.send(batch)
        offsets = [o.offset for o in await sent.reported(batch) if isinstance(o, RecordMetadata)]
    assert offsets == ([-1, -1, -1] if acks == 0 else [0, 1, 2])


async def test_messages_of_cancelled_send_are_sent(
    kafka_bootstrap: str, kafka_topic: MakeTopic
) -> None:
    topic = kafka_topic(partitions=1)
    async with producing(kafka_bootstrap) as (client, sent):
        await client.partition_count(topic, 5.0)
        batch = [outgoing(topic, partition=0) for _ in range(3)]
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.send(batch)
        assert scope.cancelled_caught
        assert all(isinstance(outcome, RecordMetadata) for outcome in await sent.reported(batch))


async def test_close_sends_lingering_messages(kafka_bootstrap: str, kafka_topic: MakeTopic) -> None:
    topic = kafka_topic(partitions=1)
    async with producing(kafka_bootstrap, linger=5.0, delivery_timeout=30.0) as (client, sent):
        await client.partition_count(topic, 5.0)
        batch = [outgoing(topic, partition=0) for _ in range(3)]
        await client.send(batch)
        with trio.fail_after(2.0):
            await client.close(5.0)
        assert all(isinstance(sent.outcomes[each], RecordMetadata) for each in batch)


async def test_kill_fails_lingering_messages(kafka_bootstrap: str, kafka_topic: MakeTopic) -> None:
    topic = kafka_topic(partitions=1)
    async with producing(kafka_bootstrap, linger=5.0, delivery_timeout=30.0) as (client, sent):
        await client.partition_count(topic, 5.0)
        batch = [outgoing(topic, partition=0) for _ in range(3)]
        await client.send(batch)
        await client.kill()
        assert all(isinstance(sent.outcomes[each], ClientClosed) for each in batch)


async def test_creating_an_existing_topic_does_nothing(kafka_bootstrap: str) -> None:
    topic = f"made-{uuid.uuid4().hex[:8]}"
    async with producing(kafka_bootstrap) as (client, _):
        for _ in range(2):
            await client.create_topic(topic, 3, 1, {"cleanup.policy": "compact"}, 10.0)
        assert await client.partition_count(topic, 5.0) == 3


async def test_bad_topic_name_raises_unknown_topic(kafka_bootstrap: str) -> None:
    async with producing(kafka_bootstrap) as (client, _):
        with pytest.raises(UnknownTopic):
            await client.partition_count("no/such", 5.0)
    async with consuming(kafka_bootstrap, []) as consumer:
        with pytest.raises(UnknownTopic):
            await consumer.subscribe(["no such"])


async def test_message_that_expires_in_client_fails_alone(
    kafka_broker: Broker,
) -> None:
    """The client alone then resets its producer id, and sends nothing after that."""
    settings = {"delivery_timeout": 6.0, "request_timeout": 1.0}
    async with producing(kafka_broker.bootstrap, **settings) as (client, sent):
        await client.create_topic("t", 1, 1, {}, 10.0)
        first = [outgoing("t", partition=0)]
        await client.send(first)
        assert isinstance((await sent.reported(first))[0], RecordMetadata)
        for _ in range(2):
            kafka_broker.freeze()
            late = [outgoing("t", partition=0)]
            await client.send(late)
            (outcome,) = await sent.reported(late, within=30.0)
            kafka_broker.thaw()
            assert isinstance(outcome, DeliveryTimeout)
            assert "Expiring" in str(outcome)  # the client's error, and not the driver's
            batch = [outgoing("t", partition=0)]
            await client.send(batch)
            (outcome,) = await sent.reported(batch, within=30.0)
            assert isinstance(outcome, RecordMetadata), outcome


# Transactions.


async def test_request_of_transaction_survives_failed_connection(
    kafka_bootstrap: str, kafka_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client forgets a request whose connection fails during the wait for the node."""
    broken: list[bool] = []
    wait = KafkaNetClient.await_ready

    def await_ready(self: KafkaNetClient, *args: Any, **options: Any) -> bool:
        if broken:
            broken.pop()
            raise kafka.errors.KafkaConnectionError("reset by peer")
        return bool(wait(self, *args, **options))

    monkeypatch.setattr(KafkaNetClient, "await_ready", await_ready)
    settings = {"transactional_id": kafka_topic(), "delivery_timeout": 120.0}
    async with producing(kafka_bootstrap, **settings) as (client, sent):
        for _ in range(2):
            await client.begin()
            broken.append(True)
            batch = [outgoing(settings["transactional_id"], partition=0)]
            await client.send(batch)
            (outcome,) = await sent.reported(batch, within=30.0)
            assert isinstance(outcome, RecordMetadata), outcome
            await client.commit(10.0)
            assert not broken


async def test_later_client_does_not_take_id_from_new_owner(
    kafka_bootstrap: str, kafka_topic: MakeTopic
) -> None:
    """The next client takes the id back unless another producer has taken it over."""
    settings = {"transactional_id": kafka_topic()}
    async with producing(kafka_bootstrap, **settings) as (old, _):
        old._discard()
        await old.begin()
        assert old._identity.epoch == 1
        await old.abort(10.0)
        async with producing(kafka_bootstrap, **settings) as (new, sent):
            for _ in range(2):
                old._discard()
                with pytest.raises(Fenced, match="another producer has taken over"):
                    await old.begin()
            await new.begin()
            batch = [outgoing(settings["transactional_id"], partition=0)]
            await new.send(batch)
            assert isinstance((await sent.reported(batch))[0], RecordMetadata)
            await new.commit(10.0)
