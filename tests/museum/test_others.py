"""Reports of users of other libraries, each as a test.

A test name gives the number of the report and the rule that holds here. The docstring says what
happened in the other library.
"""

from __future__ import annotations

import functools
import time
import uuid
from importlib.metadata import requires, version

import pytest
import trio
import trio.testing

from tests.apps import app_on, broker_with, committed, nothing_comes, take, write
from tests.drivers.inside import move_all_brokers, on_the_loop
from tests.kafka.cluster import Broker
from tests.lanes import NEVER, Place
from tests.museum.members import Commits, Member, Work, every, member, send
from tests.nurseries.clock import jumping
from tests.scripted import fails, hangs, hold, replace, restore, scripted
from transport import (
    JSON,
    TP,
    App,
    CommitFailed,
    CommitUnknown,
    DecodeError,
    RebalanceInProgress,
    Sensor,
    TransactionAborted,
    TransportError,
    UnknownTopic,
)
from transport.consuming.stuck import StuckCase
from transport.drivers.memory.consumer import MemoryConsumer
from transport.drivers.settings import ClientSettings

ORDERS = [TP("orders", number) for number in range(2)]
both_ways = pytest.mark.parametrize("assignment", ["cooperative", "eager"])


# faust-streaming 502


@both_ways
async def test_faust_streaming_502_acked_messages_are_committed_at_a_revocation(
    place: Place, assignment: str
) -> None:
    """Three messages were handled and acked. Then a second replica joined and handled them again,
    because the partitions were revoked without a last commit."""
    tps = await place.create(2)
    settings = {"commit_interval": NEVER, "assignment": assignment}
    async with (one := member(place, **settings)):
        await send(one, tps, 3)
        for message in await take(one.topic(place.name).noack(), 6):
            message.ack()
        async with (two := member(place, **settings)):
            twos = two.topic(place.name).noack()
            (moved,) = await two.owns(1)
            assert await two.consumer.client.committed([moved]) == {moved: 3}
            await send(two, [moved], 1)
            assert (await anext(twos)).offset == 3


# librdkafka 2933, faststream 1414


async def test_librdkafka_2933_faststream_1414_commits_during_rebalances_do_not_stop_reading(
    place: Place,
) -> None:
    """A commit overlapped with a rebalance and failed. Fetching, which should have resumed after
    the commit, never did. Here handlers commit after every message during rebalances."""
    tps = await place.create(4)
    work = Work(every(tps, range(60)))
    async with (one := member(place)), trio.open_nursery() as nursery:
        await send(one, tps, 50)
        topic = one.topic(place.name)
        for _ in range(2):
            nursery.start_soon(work.handle, one, topic, 0.01, True)
        await one.owns(4)
        for _ in range(3):
            async with (guest := member(place)), trio.open_nursery() as guests:
                guests.start_soon(work.handle, guest, guest.topic(place.name), 0.01, True)
                await guest.owns(2)
                guests.cancel_scope.cancel()
        await one.owns(4)
        await send(one, tps, 10)
        await work.complete.wait()
        nursery.cancel_scope.cancel()
    assert await place.committed() == dict.fromkeys(tps, 60)


@pytest.mark.parametrize("error", [RebalanceInProgress, CommitFailed])
@jumping
async def test_librdkafka_2933_faststream_1414_failed_commits_in_a_rebalance_stop_nothing(
    error: type[Exception],
) -> None:
    """The same with a broker that refuses every commit, from before the rebalance until long after
    it. Both members still receive messages, and later commit all of them."""
    broker = broker_with(*ORDERS, records=5)
    async with app_on(broker) as one:
        ones = one.topic("orders").noack()
        for message in await take(ones, 10):
            message.ack()
        replace(one, "commit", fails(error("between two generations")))
        async with app_on(broker) as two:
            twos = two.topic("orders").noack()
            again = await anext(twos)  # redelivered, because its commit failed
            assert again.offset == 0
            again.ack()
            for message in await take(twos, 4):
                message.ack()
            for tp in ORDERS:
                write(broker, tp)
            if error is CommitFailed:
                # The consumer must assume its eviction: all that it delivers would come twice.
                assert await nothing_comes(ones, 100)
                restore(one, "commit")
            mine = await anext(ones)
            kept = mine.tp
            mine.ack()
            (await anext(twos)).ack()
            await trio.sleep(100)
            restore(one, "commit")
            write(broker, kept)
            (await anext(ones)).ack()
    assert {tp: broker.log(tp).end for tp in ORDERS} == committed(broker)


# reactor-kafka 240


async def test_reactor_kafka_240_acks_after_a_revocation_commit_nothing(
    place: Place,
) -> None:
    """Messages were still in the pipeline when their partition was revoked. Their acks were then
    committed, and moved the committed offset of the new owner back."""
    tps = await place.create(2)
    settings = {"commit_interval": NEVER, "drain_timeout": 1.0}
    async with (one := member(place, **settings)), (two := member(place, **settings)):
        await send(one, tps, 5)
        in_the_pipeline = await take(one.topic(place.name).noack(), 10)
        twos = two.topic(place.name).noack()
        (moved,) = await two.owns(1)  # after the bound
        for message in await take(twos, 5):
            assert message.tp == moved
            message.ack()
        await two.consumer.commit()
        for message in in_the_pipeline[:-1]:
            assert message.ack() == (message.tp != moved and message.tp in one.owned)
            await one.consumer.commit()
            assert await two.consumer.client.committed([moved]) == {moved: 5}


# alpakka-kafka 750, sentry 95753


@pytest.mark.parametrize("is_late", [False, True])
async def test_alpakka_kafka_750_sentry_95753_later_commits_leave_out_revoked_partitions(
    place: Place, is_late: bool
) -> None:
    """The committing task kept the offsets of revoked partitions. From then on every commit failed,
    also for the partitions that the member still had. The worst case: a message of a revoked
    partition is acked after the bound of the rebalance."""
    tps = set(await place.create(2))
    settings = {"commit_interval": 0.05, "drain_timeout": 1.0}
    async with (one := member(place, scripted(Member), **settings)):
        ones = one.topic(place.name).noack()
        await send(one, tps, 3)
        late = await take(ones, 6)
        for message in late:
            if not is_late or message.offset < 2:
                message.ack()
        async with (two := member(place, **settings)):
            twos = two.topic(place.name).noack()
            (moved,) = await two.owns(1)
            (kept,) = tps - {moved}
            commits = Commits(one)
            assert set(one.consumer.assignment) == {kept}
            for message in late:
                assert message.ack() == (is_late and message.tp == kept and message.offset == 2)
            if is_late:
                again = await anext(twos)
                assert (again.tp, again.offset) == (moved, 2)
                again.ack()
            for number in range(5):
                await send(one, tps, 1)
                mine, theirs = await anext(ones), await anext(twos)
                assert (mine.tp, theirs.tp) == (kept, moved)
                mine.ack()
                theirs.ack()
                for old in late:
                    old.ack()
                await commits.reach(kept, 4 + number)
            assert len(commits.tried) >= 5
            assert all(set(offsets) == {kept} for offsets in commits.tried)


# aiokafka 335


async def test_aiokafka_335_handler_and_rebalance_hook_may_share_a_lock(
    place: Place,
) -> None:
    """A handler held its lock while it waited for messages, and the revocation callback waited for
    that lock. No messages came until the rebalance was over, so both waited without end."""
    tps = await place.create(2)
    lock = trio.Lock()
    work = Work(every(tps, range(1, 3)))
    async with (
        (one := member(place, drain_timeout=1.0)),
        (two := member(place)),
        trio.open_nursery() as nursery,
    ):
        one.guard = lambda: lock
        mine = one.topic(place.name).noack()

        async def handle() -> None:
            while True:
                async with lock, await anext(mine) as message:
                    work.note(message)

        await send(one, tps, 1)
        nursery.start_soon(handle)
        await one.owns(2)
        nursery.start_soon(work.handle, two, two.topic(place.name))
        await two.owns(1)
        await send(one, tps, 2)
        await work.complete.wait()
        nursery.cancel_scope.cancel()


# confluent-kafka-python 1801


@jumping
async def test_confluent_kafka_python_1801_hanging_commit_does_not_stop_the_consumer() -> None:
    """A synchronous commit sometimes hung, and the consumer with it until it lost its partitions.
    Here a commit without an answer ends after its timeout, and blocks nothing else."""
    broker = broker_with(ORDERS[0], records=3)
    with pytest.RaisesGroup(CommitUnknown, flatten_subgroups=True):
        async with app_on(broker, grace=20.0, commit_timeout=10.0) as app:
            messages = app.topic("orders").noack()
            (await anext(messages)).ack()
            replace(app, "commit", hangs)
            with trio.fail_after(15.0), pytest.raises(CommitUnknown):
                await app.consumer.commit()
            write(broker, ORDERS[0], 2)
            for message in await take(messages, 4):
                assert message.ack()
            ended = trio.current_time()
    assert trio.current_time() <= ended + 20.0
    assert broker.group("group").members == {}


@jumping
async def test_confluent_kafka_python_1801_hanging_poll_does_not_stop_commits() -> None:
    """The same with a poll: requests to the polling task have a bound, too."""
    broker = broker_with(ORDERS[0], records=3)
    async with app_on(broker, grace=20.0, commit_timeout=5.0, commit_interval=NEVER) as app:
        for message in await take(app.topic("orders").noack(), 3):
            message.ack()
        may_poll = hold(app, "poll")
        app.consumer.resume_partitions(ORDERS)  # ends the poll in flight
        await trio.sleep(1.0)
        broker.gap(ORDERS[0])
        replace(app, "highwater", lambda _, tp: 4)  # lets a commit ask for the client's position
        with trio.fail_after(10.0):
            assert await app.consumer.commit()
        assert committed(broker) == {ORDERS[0]: 3}
        may_poll.set()
    assert committed(broker) == {ORDERS[0]: 4}


@pytest.mark.kafka
async def test_confluent_kafka_python_1801_every_commit_has_a_bound_and_an_outcome(
    kafka_broker: Broker,
) -> None:
    """The same with a broker that does not answer. The commit ends after its timeout, and the next
    commit settles its outcome when the broker is back."""
    place = Place(f"kafka://{kafka_broker.bootstrap}", "orders")
    (tp,) = await place.create(1, b"value", b"value")
    async with member(place, commit_interval=NEVER, commit_timeout=1.0) as app:
        messages = app.topic(place.name).noack()
        first, second = await take(messages, 2)
        first.ack()
        kafka_broker.freeze()
        try:
            with trio.fail_after(5.0), pytest.raises(CommitUnknown):
                await app.consumer.commit()
        finally:
            kafka_broker.thaw()
        second.ack()
        assert await app.consumer.commit()
        await send(app, [tp], 1)
        assert (await anext(messages)).offset == 2
        assert await place.committed() == {tp: 2}


# kafka-python 3131


async def test_kafka_python_3131_partition_without_records_is_reported_as_stuck(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """A healthy member got no records of one partition until the next rebalance, while its other
    partitions continued. No error or log line showed it. Here a check asks the broker, and a
    warning names the partition."""
    tps = await place.create(2)
    settings = {"stuck_response_timeout": 1.0, "stuck_highwater_timeout": 1.0}
    async with member(place, **settings) as app:
        messages = app.topic(place.name).noack()
        await send(app, tps, 1)
        for message in await take(messages, 2):
            message.ack()
        await app.consumer.commit()
        forget_to_fetch(app, tps[0])
        await send(app, tps, 3)
        for message in await take(messages, 3):
            assert message.tp == tps[1]
            message.ack()
        await app.consumer.verify_all_partitions_active()
        assert app.consumer.stuck == ()
        await trio.sleep(1.5)
        await app.consumer.verify_all_partitions_active()
        (stuck,) = app.consumer.stuck
        assert (stuck.tp, stuck.case) == (tps[0], StuckCase.NO_RESPONSE)
        assert (stuck.position, stuck.offset) == (1, 4)
        assert f"{tps[0]} is stuck: no response" in caplog.text


def forget_to_fetch(app: App, tp: TP) -> None:
    """Let the client stop fetching from the partition, without any sign of that."""
    client = app.consumer.client
    if isinstance(client, MemoryConsumer):
        client._paused.add(tp)
    else:
        client._assignment()[tp].paused = True  # type: ignore[attr-defined]


def test_kafka_python_3131_client_release_with_the_fix_is_required() -> None:
    """3.0.7 and 3.0.8 stopped returning the records of one partition until the next rebalance."""
    (required,) = [r for r in requires("kafka-nursery") or () if r.startswith("kafka-python")]
    specifiers = required.partition("]")[2].split(";")[0].split(",")
    (least,) = [text.removeprefix(">=") for text in specifiers if text.startswith(">=")]
    assert numbers(least) > (3, 0, 8)
    assert numbers(version("kafka-python")) >= numbers(least)


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.strip().split("."))


# KAFKA-9910


@pytest.mark.parametrize("mode", ["member", "partition"])
async def test_kafka_9910_work_of_a_timed_out_transaction_is_repeated(
    place: Place, mode: str
) -> None:
    """The broker aborted a transaction after its timeout, and then refused the producer as if
    another one had taken its id. The program had to end. Here the app repeats the undone work."""
    values = [b"%d" % number for number in range(5)]
    await place.create(1, *values)
    out = f"{place.name}-out"
    stood_still: list[int] = []

    async def copy(app: App) -> None:
        async for message in app.topic(place.name):
            assert message.value is not None
            try:
                await app.topic(out).send_and_wait(value=message.value)
                if message.offset == 2 and not stood_still:
                    stood_still.append(2)
                    stand_still(14.0)  # the broker checks for expired transactions every 10 s
                await app.topic(out).send(value=message.value + b"+")
            except TransactionAborted:
                continue

    settings = {"transactions": mode, "transaction_timeout": 2.0, "commit_interval": 0.5}
    reader = App(f"{place.name}-reader", place.url)
    async with place.app(**settings) as app, trio.open_nursery() as nursery, reader:
        nursery.start_soon(copy, app)
        taken = await take(reader.topic(out).noack(), 2 * len(values))
        results = [message.value for message in taken]
        app.stop()
    assert stood_still
    assert sorted(map(bytes, results)) == sorted(values + [value + b"+" for value in values])


def stand_still(seconds: float) -> None:
    """Block the whole program, as a blocking call does."""
    clock = trio.lowlevel.current_clock()
    if isinstance(clock, trio.testing.MockClock):
        clock.jump(seconds)
    else:
        time.sleep(seconds)


# KAFKA-12478, sarama 1739


class Committed(Sensor):
    """A sensor that sets `event` at the first commit."""

    def __init__(self) -> None:
        self.event = trio.Event()

    def on_commit_completed(self, consumer: object, state: object, moved: bool) -> None:
        self.event.set()


async def test_kafka_12478_added_partition_is_read_from_its_beginning_with_latest(
    place: Place,
) -> None:
    """With "latest", the first records of an added partition were lost. The consumer found the
    partition after they were written, and began behind them."""
    has_begun = Committed()
    settings = {"auto_offset_reset": "latest", "metadata_max_age": 2.0, "monitor": has_begun}
    (old,) = await place.create(1)
    new = TP(place.name, 1)
    async with place.app(**settings) as app, place.app(metadata_max_age=0.5) as writer:
        messages = app.topic(place.name).noack()
        await has_begun.event.wait()
        assert await place.committed() == {old: 0}
        await place.widen(2)
        for number in range(5):
            await writer.producer.send_and_wait(place.name, None, b"%d" % number, 1)
        early = await take(messages, 5)
        assert [(message.tp, message.value) for message in early] == [
            (new, b"%d" % number) for number in range(5)
        ]


# kafka-go 1319


async def test_kafka_go_1319_crash_before_the_first_commit_loses_nothing_with_latest(
    place: Place,
) -> None:
    """A reader with "latest" began at the end, and lost its connection before its first commit. It
    then began at the new end, and all messages in between were lost."""
    settings = {"auto_offset_reset": "latest", "session_timeout": 6.0}
    (tp,) = await place.create(1)
    has_begun = Committed()
    async with place.app(commit_interval=NEVER, monitor=has_begun, **settings) as app:
        messages = app.topic(place.name).noack()
        await has_begun.event.wait()
        assert await place.committed() == {tp: 0}
        await app.topic(place.name).send_and_wait(value=b"an order")
        assert (await anext(messages)).value == b"an order"
        await app.kill()
    async with place.app(**settings) as app:
        assert (await anext(app.topic(place.name).noack())).value == b"an order"


# kafka-python 2004


async def test_kafka_python_2004_header_without_a_value_is_read(place: Place) -> None:
    """The client raised an error for `len(None)`, and the reader never got past the message."""
    await place.create(1)
    async with place.app() as app:
        topic = app.topic(place.name)
        await topic.send(value=b"1", headers=[("trace", None), ("empty", b"")])
        await topic.send(value=b"2")
        first, second = await take(topic.noack(), 2)
    assert list(first.headers) == [("trace", None), ("empty", b"")]
    assert second.value == b"2"


# kafka-python 2083


async def test_kafka_python_2083_reader_creates_no_topic_if_the_option_forbids_it(
    place: Place,
) -> None:
    """The option `allow_auto_create_topics` should prevent that, but the metadata requests of the
    client ignored it."""
    options = {"client_options": {"allow_auto_create_topics": False}, "connect_timeout": 0.5}
    absent = pytest.RaisesExc(UnknownTopic, match=place.name)
    with pytest.RaisesGroup(absent, flatten_subgroups=True):
        async with place.app(**options) as app:
            await anext(app.topic(place.name).noack())
    outsider = place.app().driver.consumer(ClientSettings(group_id=place.name))
    await outsider.open()
    try:
        assert place.name not in await outsider.topics()
    finally:
        with trio.CancelScope(shield=True):
            await outsider.close(5.0)


# confluent-kafka-python 384


@pytest.mark.parametrize("factor", [1e3, 1e6, 1e9])
async def test_confluent_kafka_python_384_timestamp_in_another_unit_is_refused(
    place: Place, factor: float
) -> None:
    """The documentation named the wrong unit, so brokers stored timestamps in the far future."""
    now = 1_764_000_000
    await place.create(1)
    async with place.app() as app:
        topic = app.topic(place.name)
        before = await topic.send(value=b"before", timestamp=now)
        with pytest.raises(ValueError, match=rf"{place.name}.*divide it by {factor:,.0f}"):
            await topic.send(value=b"bad", timestamp=now * factor)
        with pytest.raises(ValueError, match=rf"{place.name}.*divide it by {factor:,.0f}"):
            topic.send_soon(value=b"bad", timestamp=now * factor)
        after = await topic.send_and_wait(value=b"after", timestamp=now)
        assert ((await before).offset, after.offset) == (0, 1)


# KAFKA-13488, wolff 89


async def test_kafka_13488_producer_uses_the_partitions_of_a_recreated_topic(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """A topic was deleted and created again with fewer partitions. The producer kept the old number
    of partitions. All keys of the missing partitions failed until the producer was restarted."""
    await place.create(8)
    keys = [b"%d" % number for number in range(20)]
    async with place.app(delivery_timeout=5.0, metadata_max_age=0.5) as app:
        topic = app.topic(place.name)
        for key in keys:
            await topic.send_and_wait(key=key, value=b"old")
        await place.create_again(4)
        written: list[int] = []
        with trio.fail_after(20):
            while len(written) < 2 * len(keys):
                for key in keys:
                    try:
                        written.append((await topic.send_and_wait(key=key, value=b"new")).partition)
                    except TransportError:
                        written.clear()
    assert set(written) <= {0, 1, 2, 3}
    assert any("created again" in r.getMessage() for r in caplog.records)


# kafka-python 265


async def test_kafka_python_265_producer_uses_added_partitions(place: Place) -> None:
    """Partitions were added while a producer with keys was running. Its partitioner never used
    them, so they stayed empty."""
    await place.create(1)
    async with place.app(metadata_max_age=0.5) as app:
        topic = app.topic(place.name)
        assert (await topic.send_and_wait(key=b"0", value=b"v")).partition == 0
        await place.widen(4)
        used = {0}
        with trio.fail_after(10):
            while used != {0, 1, 2, 3}:
                for number in range(20):
                    used.add((await topic.send_and_wait(key=b"%d" % number, value=b"v")).partition)
                await trio.sleep(0.2)


# librdkafka 3255, confluent-kafka-python 1787


@pytest.mark.parametrize("policy", ["earliest", "latest"])
async def test_librdkafka_3255_recreated_topic_is_read_from_its_first_message(
    place: Place, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The topic of a subscribed consumer was deleted and created again. The consumer continued at
    its old position, and missed the messages before that position in the new topic."""
    await place.create(1)
    settings = {"auto_offset_reset": policy, "metadata_max_age": 0.5}
    async with place.app(**settings) as app, place.app(metadata_max_age=0.5) as writer:
        messages = app.topic(place.name).noack()
        await app.conductor.wait_for_subscriptions()
        with trio.fail_after(20):
            await trio.sleep(1)
            old = 0
            while old < 3:
                await writer.producer.send_and_wait(place.name, None, b"old", 0)
                with trio.move_on_after(1):
                    (await anext(messages)).ack()
                    old += 1
        await place.create_again(1)
        for number in range(20):
            await writer.producer.send_and_wait(place.name, None, b"%d" % number, 0)
        values: list[bytes] = []
        with trio.fail_after(30):
            while len(values) < 20:
                message = await anext(messages)
                message.ack()
                if message.value != b"old":
                    values.append(message.value or b"")
        assert values == [b"%d" % number for number in range(20)]
    assert sum("created again" in r.getMessage() for r in caplog.records) >= 1


# kafka-python 1683, kafka-python 1083, aiokafka 456


@pytest.mark.kafka
async def test_kafka_python_1683_clients_find_brokers_that_have_moved(
    kafka_bootstrap: str,
) -> None:
    """All brokers came back under new addresses, as in a cluster of containers. The clients kept
    connecting to the old addresses without end, and reported no error. Here the client asks the
    given address again, and both reading and sending continue."""
    place = Place(f"kafka://{kafka_bootstrap}", f"moved-{uuid.uuid4().hex[:8]}")
    tps = await place.create(1)
    async with member(place) as app:
        messages = app.topic(place.name).noack()
        await send(app, tps, 1)
        (await anext(messages)).ack()
        for owner in (app.consumer, app.producer):
            client = owner.client._client  # type: ignore[attr-defined]
            await on_the_loop(client, functools.partial(move_all_brokers, client))
        with trio.fail_after(30):
            await send(app, tps, 1)
            assert (await anext(messages)).offset == 1


# data-prepper 3247, aiokafka 744


async def test_data_prepper_3247_undecodable_message_does_not_stop_commits(
    place: Place,
) -> None:
    """After a record that was not JSON, later records were handled, but no offset was committed any
    more; or the error was raised again and again. Here the reader acks the message, and receives
    all others."""
    async with place.opened(1, b"0", b"no JSON", b"2", b"3") as app:
        topic = app.topic(place.name, value_type=JSON)
        handled: list[int] = []
        errors = 0
        while len(handled) < 3:
            try:
                async for batch in topic.batches():
                    handled += [message.value for message in batch]
                    if len(handled) == 3:
                        batch.ack()
                        break
            except DecodeError as error:
                errors += 1
                error.message.ack()
        assert (handled, errors) == ([0, 2, 3], 1)
        assert await app.consumer.commit()
    assert await place.committed() == {TP(place.name, 0): 4}


# confluent-kafka-python 759, kafka-python 2437, librdkafka 2076


@jumping
async def test_confluent_kafka_python_759_backlog_of_large_messages_stays_within_buffer_bytes() -> (
    None
):
    """20,000 messages of 175 KB were waiting. The client bounded its buffer by their number, and
    used more memory than the container had, though one message at a time was polled."""
    size, count = 175_000, 1000
    tps = [TP("orders", number) for number in range(4)]
    broker = broker_with(*tps)
    for tp in tps:
        write(broker, tp, count // 4, bytes(size))
    most = handled = 0
    async with app_on(broker) as app:
        async for _ in app.topic("orders"):
            await trio.sleep(0.05)
            handled += 1
            most = max(most, app.conductor.memory.bytes)
            if handled == count:
                app.stop()
    settings = app.settings
    assert count * size > 2 * settings.buffer_bytes, "the backlog must not fit into the buffer"
    assert most <= settings.buffer_bytes + settings.client.fetch_max_bytes
