"""I9 on `memory://`: output and offset are committed together, or neither is."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from functools import partial

import attrs
import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from nurseries.service import Node
from tests.apps import (
    A_WHILE,
    app_on,
    broker_with,
    committed,
    evict_all,
    nothing_comes,
    take,
    write,
)
from tests.lanes import NEVER
from tests.nurseries.clock import jumping
from tests.scripted import (
    Function,
    fails,
    hangs,
    is_not_called,
    late,
    loses_the_answer,
    replace,
    replaced,
    restore,
    waits_for,
)
from transport import (
    TP,
    App,
    AppClosed,
    BrokerUnavailable,
    ClientClosed,
    CommitFailed,
    CommitUnknown,
    Fenced,
    FutureMessage,
    GroupMetadata,
    Message,
    MessageTooLarge,
    NotInTransaction,
    PendingMessage,
    RebalanceInProgress,
    RecordMetadata,
    TransactionAborted,
    TransactionFailed,
    TransportError,
)
from transport.committing.transactions import Scope
from transport.delivering.in_hand import in_hand
from transport.delivering.ledger import ledger_of
from transport.drivers.memory import MemoryBroker
from transport.producing.delivery import Delivery, ManyDeliveries

IN = [TP("in", number) for number in range(2)]
OUT = TP("out", 0)
MODES = pytest.mark.parametrize("mode", ["member", "partition"])


def exactly_once(broker: MemoryBroker, mode: str = "member", **settings: object) -> App:
    options: dict[str, object] = {"commit_interval": NEVER, "commit_timeout": 5.0, **settings}
    return app_on(broker, transactions=mode, **options)


def clock_of_the_run() -> MockClock:
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    return clock


async def elsewhere(call: Callable[[], Awaitable[object]]) -> None:
    """Make a call in a task that has no message in hand."""
    in_hand.set(None)
    await call()


async def wait_for_news(broker: MemoryBroker) -> None:
    """Wait until a transaction has ended."""
    ended = trio.Event()
    broker.transactions.changed.listen(ended.set)
    await ended.wait()


def results(broker: MemoryBroker, *, committed: bool = True) -> list[bytes | None]:
    log = broker.log(OUT)
    return [record.value for record in log.read(0, 1 << 20, committed=committed).records]


def pipeline(*, records: int = 0, partitions: int = 1) -> MemoryBroker:
    return (
        broker_with(*IN[:partitions], OUT, records=0)
        if not records
        else filled(broker_with(*IN[:partitions], OUT), records, partitions)
    )


def filled(broker: MemoryBroker, records: int, partitions: int) -> MemoryBroker:
    for number in range(records):
        for tp in IN[:partitions]:
            write(broker, tp, 1, b"%d-%d" % (tp.partition, number))
    return broker


def lose_the_answer_to_a_commit(app: App, transactional_id: str, *, was_made: bool) -> None:
    """Let the next commit of a transaction raise CommitUnknown."""
    lose = loses_the_answer(CommitUnknown("no answer"), made=was_made)
    replace(app, "producer.commit", lose, transactional_id=transactional_id, once=True)


def commits_wait_for(app: App, asked: trio.Event, answer: trio.Event) -> None:
    """Let the commits of the open transactions wait for `answer`; set `asked` when one is sent."""
    wait = waits_for(answer, asked=asked)
    for scope in app.consumer.transactions.scopes:
        replace(app, "producer.commit", wait, transactional_id=scope.transactional_id)


def linger_until_hurried(app: App) -> None:
    """Let messages of the open transaction linger until `hurry` or `without_linger` is called."""
    (scope,) = app.consumer.transactions.scopes
    is_hurried = trio.Event()
    token = trio.lowlevel.current_trio_token()

    @contextlib.contextmanager
    def without_linger(_: object) -> Iterator[None]:
        is_hurried.set()
        yield

    def hurry(_: object) -> None:  # also called in threads
        token.run_sync_soon(is_hurried.set)

    script = {"send": waits_for(is_hurried), "without_linger": without_linger, "hurry": hurry}
    for call, function in script.items():
        replace(app, f"producer.{call}", function, transactional_id=scope.transactional_id)


def without_membership(_: object) -> GroupMetadata:
    """Return the metadata of a client that is not a member of its group."""
    return GroupMetadata("group", -1, "")


async def fails_as_closed(call: Callable[[], Awaitable[object]]) -> None:
    in_hand.set(None)
    with pytest.raises(ClientClosed):
        await call()


@MODES
@jumping
async def test_sent_messages_become_visible_with_the_commit_of_their_source(mode: str) -> None:
    broker = pipeline(records=2)
    async with exactly_once(broker, mode) as app:
        out = app.topic("out")
        messages = app.topic("in").noack()
        for message in await take(messages, 2):
            async with message:
                await out.send(value=message.value)
        await app.producer.flush()
        await app.consumer.transactions.flush()
        assert results(broker, committed=False) == [b"0-0", b"0-1"]
        assert results(broker) == []
        assert committed(broker) == {}
        assert await app.consumer.commit()
        assert results(broker) == [b"0-0", b"0-1"]
        assert committed(broker) == {IN[0]: 2}


@MODES
@jumping
async def test_transactions_commit_at_each_interval_and_at_the_end(mode: str) -> None:
    broker = pipeline(records=3)
    async with exactly_once(broker, mode, commit_interval=1.0) as app:
        out = app.topic("out")
        async for message in app.topic("in"):
            await out.send(value=message.value)
            if message.offset == 1:
                await trio.sleep(10.0)  # the barrier waits for this handler
            if message.offset == 2:
                app.stop()
    assert results(broker) == [b"0-0", b"0-1", b"0-2"]
    assert committed(broker) == {IN[0]: 3}


@MODES
@jumping
async def test_commit_does_not_wait_for_the_linger(mode: str) -> None:
    """Nothing more is sent in the transaction, so no message needs to wait for others."""
    broker = pipeline(records=1)
    async with exactly_once(broker, mode) as app:
        out = app.topic("out")
        async with await anext(app.topic("in").noack()) as message:
            linger_until_hurried(app)
            delivery = await out.send(value=message.value)
        await trio.sleep(A_WHILE)
        assert delivery.outcome is None
        began = trio.current_time()
        assert await app.consumer.commit()
        assert trio.current_time() == began
        assert results(broker) == [b"0-0"]


async def _await_it(app: App, delivery: Delivery) -> None:
    await delivery


async def _await_many(app: App, delivery: Delivery) -> None:
    await ManyDeliveries([delivery])


async def _await_without_a_task(app: App, delivery: Delivery) -> None:
    known = trio.Event()
    delivery.call_at_end(known.set)
    await known.wait()


async def _flush(app: App, delivery: Delivery) -> None:
    await app.consumer.transactions.flush()


async def _wait_for_room(app: App, delivery: Delivery) -> None:
    sent = await app.topic("out").send(value=b"the next one")
    assert delivery.is_done
    await sent


@MODES
@jumping
@pytest.mark.parametrize(
    "wait", [_await_it, _await_many, _await_without_a_task, _flush, _wait_for_room]
)
async def test_wait_in_a_transaction_does_not_wait_for_the_linger(
    mode: str, wait: Callable[[App, Delivery], Awaitable[None]]
) -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker, mode, send_buffer_messages=1) as app:
        message = await anext(app.topic("in").noack())
        linger_until_hurried(app)
        delivery = await app.topic("out").send(value=message.value)
        await trio.sleep(A_WHILE)
        assert not delivery.is_done
        began = trio.current_time()
        await wait(app, delivery)
        assert trio.current_time() == began
        assert delivery.is_done
        message.ack()


@MODES
@jumping
@pytest.mark.parametrize("in_thread", [False, True])
async def test_wait_for_a_message_sent_soon_ends_the_linger(mode: str, in_thread: bool) -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker, mode) as app:
        message = await anext(app.topic("in").noack())
        linger_until_hurried(app)
        sent = app.topic("out").send_soon(value=message.value)
        if in_thread:
            await trio.to_thread.run_sync(sent.result)
        else:
            await sent
        message.ack()


@MODES
@jumping
async def test_crash_undoes_uncommitted_work(mode: str) -> None:
    broker = pipeline(records=3)
    settings = {"transaction_timeout": 10.0, "session_timeout": 5.0}
    async with exactly_once(broker, mode, **settings) as app:
        out = app.topic("out")
        messages = app.topic("in").noack()
        async with await anext(messages) as message:
            await out.send_and_wait(value=message.value)
        await app.consumer.commit()
        async with await anext(messages) as message:
            await out.send_and_wait(value=message.value)
        await app.kill()
    assert results(broker, committed=False) == [b"0-0", b"0-1"]
    async with exactly_once(broker, mode, **settings) as app:
        out = app.topic("out")
        for message in await take(app.topic("in").noack(), 2):
            async with message:
                await out.send(value=message.value)
        await app.consumer.commit()
        await trio.sleep(A_WHILE)  # the transaction of the first app has timed out by then
        broker.transactions.expire(trio.current_time())
    assert results(broker) == [b"0-0", b"0-1", b"0-2"]


@jumping
async def test_next_owner_of_a_partition_ends_the_open_transaction_of_the_last_owner() -> None:
    """With an id for each partition, no reader waits for the timeout of the transaction."""
    broker = pipeline(records=1)
    async with exactly_once(broker, "partition", session_timeout=5.0) as app:
        out = app.topic("out")
        (message,) = await take(app.topic("in").noack(), 1)
        await out.send_and_wait(value=b"undone")
        message.ack()
        await app.kill()
    async with exactly_once(broker, "partition") as app:
        out = app.topic("out")
        (message,) = await take(app.topic("in").noack(), 1)
        async with message:
            await out.send(value=b"done")
        await app.consumer.commit()
        assert results(broker) == [b"done"]


@MODES
@jumping
async def test_transactional_ids_follow_the_mode_and_the_transaction_group(mode: str) -> None:
    broker = pipeline(records=1, partitions=2)

    class Grouped(App):
        def transaction_group(self, tp: TP) -> str:
            return f"{tp.topic}put"

    async with app_on(broker, kind=Grouped, transactions=mode) as app:
        await take(app.topic("in").noack(), 2)
        ids = {scope.transactional_id for scope in app.consumer.transactions.scopes}
    if mode == "partition":
        assert ids == {"group-input-0", "group-input-1"}
    else:
        (transactional_id,) = ids
        assert transactional_id.startswith("group-")


@jumping
async def test_transactional_id_of_a_static_member_names_its_instance_id() -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker, group_instance_id="west") as app:
        await take(app.topic("in").noack(), 1)
        assert [s.transactional_id for s in app.consumer.transactions.scopes] == ["group-west"]


@MODES
@jumping
async def test_offset_and_output_are_committed_together_whatever_the_output_partition(
    mode: str,
) -> None:
    """The transaction belongs to the partition of the input, not of the output."""
    broker = broker_with(*IN, TP("wide", 4))
    filled(broker, 1, 2)
    async with exactly_once(broker, mode) as app:
        wide = app.topic("wide")
        first, second = await take(app.topic("in").noack(), 2)
        for partition in range(4):
            await wide.send(value=b"of the first", partition=partition, source=first)
            await wide.send(value=b"of the second", partition=partition, source=second)
        first.ack()
        if mode == "partition":
            await elsewhere(lambda: app.consumer.commit({first.tp}))
            seen = [broker.log(TP("wide", n)).read(0, 1 << 20).records for n in range(4)]
            assert committed(broker) == {first.tp: 1}
            assert broker.log(TP("wide", 0)).stable_end <= 1  # the second transaction is open
            assert all(len(records) == 2 for records in seen)
        second.ack()
        await app.consumer.commit()
        assert committed(broker) == {IN[0]: 1, IN[1]: 1}
        for partition in range(4):
            log = broker.log(TP("wide", partition))
            assert len(log.read(0, 1 << 20, committed=True).records) == 2


@MODES
@jumping
async def test_sent_message_keeps_all_its_arguments(mode: str) -> None:
    broker = broker_with(IN[0], TP("wide", 4), records=1)
    async with exactly_once(broker, mode) as app:
        (message,) = await take(app.topic("in").noack(), 1)
        send = app.consumer.transactions.send
        await send("wide", b"k", b"v", 3, 1.5, {"h": b"1"}, source=message)
        await send("wide", b"k", b"v", 3, 2.5, [("h", b"2")], source=None)
        await app.consumer.transactions.flush()
    written = broker.log(TP("wide", 3)).read(0, 1 << 20).records
    assert {
        (record.key, record.value, record.timestamp, *record.headers) for record in written
    } == {(b"k", b"v", 1500, ("h", b"1")), (b"k", b"v", 2500, ("h", b"2"))}


@MODES
@jumping
async def test_barrier_delivers_nothing_until_all_messages_are_acked(mode: str) -> None:
    broker = pipeline(records=4)
    async with exactly_once(broker, mode) as app, trio.open_nursery() as nursery:
        messages = app.topic("in").noack()
        first, second = await take(messages, 2)
        first.ack()
        nursery.start_soon(elsewhere, app.consumer.commit)
        await wait_all_tasks_blocked()
        with trio.move_on_after(1.0):
            await anext(messages)
            pytest.fail("a message was delivered during a barrier")
        assert committed(broker) == {}
        second.ack()
        third, _ = await take(messages, 2)
        assert third.offset == 2
        assert committed(broker) == {IN[0]: 2}


@MODES
@jumping
async def test_no_partition_starves_if_each_transaction_has_room_for_one_batch(
    mode: str,
) -> None:
    """A commit begins while a batch of one partition is in hand; then the other has its turn."""
    turns = []
    async with exactly_once(pipeline(records=4, partitions=2), mode, commit_interval=0.05) as app:
        async for batch in app.topic("in").batches(1):
            turns.append(batch.tp.partition)
            await trio.sleep(0.1)
            if len(turns) == 8:
                break
    assert turns == [0, 1] * 4


@MODES
@jumping
async def test_leave_returns_at_once_with_transactions(mode: str) -> None:
    """The broker refuses a late commit of a transaction by its generation."""
    async with exactly_once(pipeline(), mode) as app:
        with assert_checkpoints():
            await app.consumer.committer.leave([IN[0]])


@MODES
@jumping
async def test_barrier_aborts_and_redelivers_after_its_bound(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = pipeline(records=2)
    async with exactly_once(broker, mode, drain_timeout=5.0) as app:
        out = app.topic("out")
        messages = app.topic("in").noack()
        first, second = await take(messages, 2)
        await out.send(value=b"undone", source=first)
        first.ack()
        with pytest.RaisesGroup(pytest.RaisesExc(TransactionAborted, match="1 .* within 5 s")):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(elsewhere, app.consumer.commit)
        assert not second.ack(), "the message belongs to the epoch before"
        with pytest.raises(TransactionAborted):
            await out.send(value=b"too late", source=second)
        for message in await take(messages, 2):
            async with message:
                await out.send(value=message.value)
        await app.consumer.commit()
    assert results(broker) == [b"0-0", b"0-1"]
    assert committed(broker) == {IN[0]: 2}
    assert "was aborted" in caplog.text


@jumping
async def test_commit_and_seek_raise_in_a_task_with_a_message_in_hand() -> None:
    """The commit would wait for the task that calls it."""
    broker = pipeline(records=1)
    async with exactly_once(broker) as app:
        async for message in app.topic("in"):
            with pytest.raises(NotInTransaction):
                await app.consumer.commit()
            with pytest.raises(NotInTransaction):
                await app.consumer.seek(message.tp, 0)
            break


@MODES
@jumping
async def test_message_of_another_app_is_refused_as_source(mode: str) -> None:
    """The other app commits its offset, so no message sent here could be committed with it."""
    broker = pipeline(records=1)
    async with exactly_once(broker, mode) as app, exactly_once(broker, mode, id="other") as other:
        async for message in app.topic("in"):
            await take(other.topic("in").noack(), 1)
            in_hand.set(message)
            with pytest.raises(NotInTransaction, match="of another app"):
                await other.topic("out").send(value=b"v")
            with pytest.raises(NotInTransaction, match="of another app"):
                other.topic("out").send_soon(value=b"v", source=message)
            break


@jumping
async def test_child_tasks_of_a_handler_send_in_the_transaction_of_its_message() -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker) as app:
        out = app.topic("out")
        async for _ in app.topic("in"):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(lambda: out.send(value=b"x"))
            app.stop()
    assert results(broker) == [b"x"] * 3


@jumping
async def test_send_without_an_unacked_source_is_refused() -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker) as app:
        out = app.topic("out")
        with pytest.raises(NotInTransaction, match="source=None"):
            await out.send(value=b"of nothing")
        (message,) = await take(app.topic("in").noack(), 1)
        message.ack()
        with pytest.raises(NotInTransaction, match="acked"):
            await out.send(value=b"too late")
        await out.send_and_wait(value=b"outside", source=None)
        assert results(broker) == [b"outside"]


@jumping
async def test_second_topic_object_for_a_topic_is_refused_with_transactions() -> None:
    """One of two could be ahead: its results committed, but the offset held back by the other."""
    broker = pipeline(records=1)
    async with exactly_once(broker) as app:
        await take(app.topic("in").noack(), 1)
        with pytest.raises(RuntimeError, match="one topic object"):
            app.topic("in").noack()


@jumping
async def test_batch_in_hand_is_the_source() -> None:
    broker = pipeline(records=3)
    async with exactly_once(broker) as app:
        out = app.topic("out")
        async for batch in app.topic("in").batches():
            await out.send(value=b"%d" % len(batch))
            app.stop()
    assert results(broker) == [b"3"]
    assert committed(broker) == {IN[0]: 3}


@MODES
@jumping
async def test_failed_delivery_aborts_the_whole_transaction(mode: str) -> None:
    broker = pipeline(records=2)
    async with exactly_once(broker, mode) as app:
        out = app.topic("out")
        messages = app.topic("in").noack()
        for message in await take(messages, 2):
            async with message:
                await out.send(value=message.value)
        scope = next(iter(app.consumer.transactions.scopes))
        app.producer.writer(scope.transactional_id).failures.first = RuntimeError(
            "as the broker says"
        )
        with pytest.raises(TransactionAborted, match="not delivered"):
            await app.consumer.commit()
        assert results(broker) == []
        for message in await take(messages, 2):
            async with message:
                await out.send(value=message.value)
        await app.consumer.commit()
        assert results(broker) == [b"0-0", b"0-1"]


@MODES
@jumping
async def test_refused_message_sent_soon_aborts_the_whole_transaction(mode: str) -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker, mode, max_request_size=500) as app:
        out, messages = app.topic("out"), app.topic("in").noack()
        async with await anext(messages):
            out.send_soon(value=b"v" * 1000)
        with pytest.raises(TransactionAborted, match="not delivered"):
            await app.consumer.commit()
        assert committed(broker) == {}
        async with await anext(messages) as message:
            out.send_soon(value=message.value)
        await app.consumer.commit()
        assert results(broker) == [b"0-0"]


@MODES
@jumping
async def test_refusal_seen_by_the_handler_does_not_abort_the_transaction(mode: str) -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker, mode, max_request_size=500) as app:
        out = app.topic("out")
        async with await anext(app.topic("in").noack()):
            with pytest.raises(MessageTooLarge):
                await out.send_soon(value=b"v" * 1000)
            out.send_soon(value=b"without it")
        await app.consumer.commit()
        assert results(broker) == [b"without it"]


@MODES
@pytest.mark.parametrize("was_made", [True, False])
@jumping
async def test_unanswered_commit_is_settled_by_the_committed_offsets(
    mode: str, was_made: bool
) -> None:
    broker = pipeline(records=2)
    async with exactly_once(broker, mode) as app:
        out = app.topic("out")
        messages = app.topic("in").noack()
        (first,) = await take(messages, 1)
        async with first:
            await out.send(value=first.value)
        scope = next(iter(app.consumer.transactions.scopes))
        client = app.producer.writer(scope.transactional_id).client

        async def lose_the_answer(commit: Function, timeout: float) -> None:
            if was_made:
                await commit(timeout)
                await client.begin()
            raise CommitUnknown("no answer")

        async def look_late(committed: Function, tps: Collection[TP]) -> dict[TP, int]:
            await wait_all_tasks_blocked()  # redelivered messages are fetched by then
            return await committed(tps)

        replace(app, "producer.commit", lose_the_answer, once=True)
        replace(app, "committed", look_late)
        with pytest.raises(TransactionAborted):
            await app.consumer.commit()
        assert app.consumer.committer.commit_had_no_effect, "the outcome is known by now"
        for message in await take(messages, 1 if was_made else 2):
            async with message:
                await out.send(value=message.value)
        await app.consumer.commit()
    assert results(broker) == [b"0-0", b"0-1"]
    assert committed(broker) == {IN[0]: 2}


@pytest.mark.parametrize("was_made", [True, False])
@MODES
@jumping
async def test_unanswered_commit_is_settled_correctly_after_a_seek_backwards(
    mode: str, was_made: bool
) -> None:
    """A greater offset that was committed before the seek does not prove that it was made."""
    broker = pipeline(records=4)
    async with exactly_once(broker, mode) as app:
        out, messages = app.topic("out"), app.topic("in").noack()
        for message in await take(messages, 4):
            message.ack()
        await app.consumer.commit()
        await app.consumer.seek(IN[0], 0)
        for message in await take(messages, 2):
            async with message:
                await out.send(value=message.value)
        scope = next(iter(app.consumer.transactions.scopes))
        lose_the_answer_to_a_commit(app, scope.transactional_id, was_made=was_made)
        with pytest.raises(TransactionAborted):
            await app.consumer.commit()
        for message in await take(messages, 2 if was_made else 4):
            async with message:
                await out.send(value=message.value)
        await app.consumer.commit()
    assert results(broker) == [b"0-0", b"0-1", b"0-2", b"0-3"]
    assert committed(broker) == {IN[0]: 4}


@MODES
@jumping
async def test_nothing_is_delivered_until_an_unanswered_commit_is_settled(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = pipeline(records=2)
    async with exactly_once(broker, mode) as app:
        out, messages = app.topic("out"), app.topic("in").noack()
        async with await anext(messages) as message:
            await out.send(value=message.value)
        scope = next(iter(app.consumer.transactions.scopes))
        lose_the_answer_to_a_commit(app, scope.transactional_id, was_made=True)
        tries: list[float] = []
        moved_until = trio.current_time() + 10.0

        async def refuse(committed: Function, tps: Collection[TP]) -> dict[TP, int]:
            now = trio.current_time()
            assert not tries or 0 < now - tries[-1] < 1.1, "not at once, and not much later"
            tries.append(now)
            if now > moved_until:
                return await committed(tps)
            raise TransportError("the group's coordinator has moved")

        replace(app, "committed", refuse)
        with pytest.raises(TransactionAborted):
            await app.consumer.commit()
        assert len(tries) > 10
        assert "cannot be ended yet: the group's coordinator has moved" in caplog.text
        async with await anext(messages) as message:
            await out.send(value=message.value)
        await app.consumer.commit()
    assert results(broker) == [b"0-0", b"0-1"]


@pytest.mark.parametrize("error", [TransactionAborted, RebalanceInProgress])
@MODES
@jumping
async def test_refused_commit_counts_as_not_made_without_a_query(
    mode: str, error: type[TransportError]
) -> None:
    """After a seek backwards, the committed offset may equal that of the refused commit."""
    broker = pipeline(records=2)
    async with exactly_once(broker, mode, drain_timeout=5.0) as app:
        out, messages = app.topic("out"), app.topic("in").noack()
        for message in await take(messages, 2):
            message.ack()
        await app.consumer.commit()
        await app.consumer.seek(IN[0], 0)
        replace(app, "committed", is_not_called("the answer to the commit is known: a refusal"))
        for message in await take(messages, 2):
            async with message:
                await out.send(value=b"undone")
        with (
            replaced(app, "producer.send_offsets", fails(error("as the broker says"))),
            pytest.raises(TransactionAborted),
        ):
            await app.consumer.commit()
        for message in await take(messages, 2):
            async with message:
                await out.send(value=message.value)
        await app.consumer.commit()
    assert results(broker) == [b"0-0", b"0-1"]


@MODES
@jumping
async def test_stopped_producer_undoes_its_transaction_and_the_next_has_a_new_producer(
    mode: str,
) -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker, mode) as app:
        out, messages = app.topic("out"), app.topic("in").noack()
        async with await anext(messages):
            await out.send_and_wait(value=b"undone")
        (scope,) = app.consumer.transactions.scopes
        await app.producer.stop_transaction(scope.transactional_id)
        with pytest.raises(TransactionAborted):
            await app.consumer.commit()
        async with await anext(messages) as message:
            await out.send(value=message.value)
        await app.consumer.commit()
    assert results(broker) == [b"0-0"]
    assert committed(broker) == {IN[0]: 1}


@jumping
async def test_late_commit_of_a_released_scope_leaves_the_new_epoch_unaffected() -> None:
    """It belongs to a released scope, whose producer is about to end."""
    broker = pipeline(records=1, partitions=2)
    settings = {"drain_timeout": 2.0, "commit_timeout": 1e3, "max_poll_interval": 1e4}
    async with exactly_once(broker, "partition", **settings) as app, trio.open_nursery() as nursery:
        out, messages = app.topic("out"), app.topic("in").noack()
        for message in await take(messages, 2):
            message.ack()
        asked, answer = trio.Event(), trio.Event()
        commits_wait_for(app, asked, answer)
        nursery.start_soon(elsewhere, app.consumer.commit)
        await asked.wait()
        async with app_on(broker) as other:  # gets one of them, after the bound, and leaves
            other.topic("in").listen()
            await trio.sleep(10.0)
            assert len(app.consumer.assignment) == 1
        await trio.sleep(10.0)
        assert len(app.consumer.assignment) == 2
        filled(broker, 1, 2)
        answer.set()
        for message in await take(messages, 2):
            async with message:
                await out.send(value=message.value)
        await trio.sleep(10.0)
        await app.consumer.commit()
    assert len(results(broker)) == 2
    assert committed(broker) == {IN[0]: 2, IN[1]: 2}


@jumping
async def test_partition_is_released_even_if_its_transaction_cannot_be_aborted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The broker ends the open transaction by its timeout, so the app need not end."""
    broker = pipeline(records=1, partitions=2)
    async with exactly_once(broker, "partition") as app:
        messages = app.topic("in").noack()
        for message in await take(messages, 2):
            message.ack()
        replace(app, "producer.abort", fails(BrokerUnavailable("nobody is there")))
        async with app_on(broker) as other:
            other.topic("in").listen()
            await trio.sleep(A_WHILE)
            assert len(app.consumer.assignment) == len(other.consumer.assignment) == 1
    assert committed(broker) == {IN[0]: 1, IN[1]: 1}
    assert "could not abort its transaction" in caplog.text


@jumping
async def test_kill_during_the_release_of_an_abandoned_partition_raises_no_error() -> None:
    """The bound of the rebalance has passed, and the release waits for a commit in flight."""
    broker = pipeline(records=1, partitions=2)
    async with exactly_once(broker, "partition", drain_timeout=2.0) as app:
        for message in await take(app.topic("in").noack(), 2):
            async with message:
                await app.topic("out").send(value=message.value)
        asked, answer = trio.Event(), trio.Event()
        commits_wait_for(app, asked, answer)
        async with app_on(broker) as other, trio.open_nursery() as nursery:
            nursery.start_soon(fails_as_closed, lambda: app.consumer.commit({IN[1]}))
            await asked.wait()
            other.topic("in").listen()
            await trio.sleep(10.0)
            assert list(app.consumer.assignment) == [IN[0]]
            nursery.start_soon(fails_as_closed, app.consumer.commit)
            await wait_all_tasks_blocked()
            await app.kill()
            answer.set()


@jumping
async def test_transaction_that_cannot_begin_is_begun_by_the_next_commit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = pipeline(records=2)
    async with exactly_once(broker) as app:
        messages = app.topic("in").noack()
        (await anext(messages)).ack()
        replace(
            app, "producer.begin", fails(TransportError("the coordinator is loading")), once=True
        )
        in_hand.set(None)
        assert await app.consumer.commit()
        assert "the next commit retries: the coordinator is loading" in caplog.text
        assert await nothing_comes(messages)
        await app.consumer.commit()
        (await anext(messages)).ack()
    assert committed(broker) == {IN[0]: 2}


@MODES
@jumping
async def test_fence_at_the_begin_of_the_next_transaction_ends_the_app(mode: str) -> None:
    with pytest.RaisesGroup(Fenced, flatten_subgroups=True):
        async with exactly_once(pipeline(records=1), mode) as app:
            (await anext(app.topic("in").noack())).ack()
            replace(app, "producer.begin", fails(Fenced("another has it")))
            with pytest.raises(Fenced):
                await app.consumer.commit()
            await trio.sleep_forever()  # the app ends by itself


@MODES
@jumping
async def test_closed_client_at_the_begin_of_the_next_transaction_raises_to_the_caller(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No later commit attempt begins it, so nothing may wait for that."""
    async with exactly_once(pipeline(records=1), mode) as app:
        (await anext(app.topic("in").noack())).ack()
        replace(app, "producer.begin", fails(ClientClosed("it was killed")))
        with pytest.raises(ClientClosed):
            await app.consumer.commit()
        assert caplog.messages == []


@jumping
async def test_kill_during_a_release_raises_no_error() -> None:
    broker = pipeline(records=1, partitions=2)
    async with exactly_once(broker, "partition") as app:
        await take(app.topic("in").noack(), 2)
        first, second = [scope.transactional_id for scope in app.consumer.transactions.scopes]

        async def kill_late(kill: Function) -> None:
            await app.producer.stop_transaction(second)
            await kill()

        replace(app, "producer.kill", kill_late, transactional_id=first)
        await app.kill()


@MODES
@jumping
async def test_app_fails_after_transaction_attempts_aborts_in_a_row(mode: str) -> None:
    broker = pipeline(records=1)
    refused: list[Mapping[TP, int]] = []

    async def refuse(_: object, offsets: Mapping[TP, int], *args: object) -> None:
        refused.append(offsets)
        raise TransactionAborted("for ever")

    with pytest.RaisesGroup(TransactionFailed, flatten_subgroups=True):
        async with exactly_once(broker, mode, commit_interval=1.0, transaction_attempts=3) as app:
            replace(app, "producer.send_offsets", refuse)
            async for message in app.topic("in"):
                await app.topic("out").send(value=message.value)
    assert refused == [{IN[0]: 1}] * 3
    assert results(broker) == []


@MODES
@jumping
async def test_fenced_member_ends_with_the_error(mode: str) -> None:
    broker = pipeline(records=2)
    with pytest.RaisesGroup(Fenced, flatten_subgroups=True):
        async with exactly_once(broker, mode, commit_interval=1.0) as app:
            async for message in app.topic("in"):
                await app.topic("out").send(value=message.value)
                (scope,) = app.consumer.transactions.scopes
                broker.transactions.register(scope.transactional_id, 60.0)
    assert results(broker) == []
    assert committed(broker) == {}


@MODES
@jumping
async def test_process_stalled_beyond_its_transaction_timeout_undoes_and_repeats_the_work(
    mode: str,
) -> None:
    """KAFKA-9910: no other process has the id, so the timed-out work is undone and repeated."""
    broker = pipeline(records=10)
    stood_still: list[int] = []
    aborted: list[int] = []

    async def copy(app: App) -> None:
        out = app.topic("out")
        async for message in app.topic("in"):
            assert message.value is not None
            try:
                await out.send_and_wait(
                    value=message.value
                )  # the transaction has begun at the broker
                if message.offset == 4 and not stood_still:
                    stood_still.append(4)
                    clock_of_the_run().jump(16.0)
                await out.send(value=message.value + b"+")
            except TransactionAborted:
                aborted.append(message.offset)

    settings = {"commit_interval": 0.5, "transaction_timeout": 2.0}
    async with exactly_once(broker, mode, **settings) as app, trio.open_nursery() as nursery:
        nursery.start_soon(copy, app)
        while committed(broker) != {IN[0]: 10}:
            await wait_for_news(broker)
        app.stop()
    assert aborted
    assert sorted(results(broker)) == sorted(
        b"0-%d" % n + suffix for n in range(10) for suffix in (b"", b"+")
    )


@MODES
@jumping
async def test_abort_after_a_timeout_raises_fenced_if_another_process_has_the_id(mode: str) -> None:
    broker = pipeline(records=2)
    with pytest.RaisesGroup(Fenced, flatten_subgroups=True):
        async with exactly_once(broker, mode, commit_interval=0.5, transaction_timeout=2.0) as app:
            message = await anext(aiter(app.topic("in")))
            await app.topic("out").send_and_wait(value=message.value)
            (scope,) = app.consumer.transactions.scopes
            clock_of_the_run().jump(3.0)
            broker.transactions.expire(trio.current_time())
            broker.transactions.register(scope.transactional_id, 60.0)
            with pytest.raises(TransactionAborted):
                await app.topic("out").send_and_wait(value=b"of the old one")
            await trio.sleep_forever()
    assert results(broker) == []


@MODES
@jumping
async def test_barrier_aborts_if_a_message_is_not_delivered_within_its_bound(mode: str) -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker, mode, transaction_timeout=10.0) as app:
        messages, out = app.topic("in").noack(), app.topic("out")
        async with await anext(messages):

            async def lose(*_: object) -> None:
                await trio.lowlevel.checkpoint()

            replace(app, "producer.send", lose, once=True)
            await out.send(value=b"lost")
        began = trio.current_time()
        with pytest.raises(TransactionAborted, match="1 messages were not delivered"):
            await elsewhere(app.consumer.commit)
        assert trio.current_time() - began == pytest.approx(5.0)
        async with await anext(messages):
            await out.send(value=b"found")
        await elsewhere(app.consumer.commit)
    assert results(broker) == [b"found"]


@MODES
@jumping
async def test_member_evicted_within_a_transaction_undoes_it_and_joins_again(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """After an expired session no other process has the transactional id."""
    broker = pipeline(records=2)
    evicted: list[str] = []
    async with exactly_once(broker, mode, commit_interval=0.5) as app, trio.open_nursery() as tasks:

        async def copy() -> None:
            async for message in app.topic("in"):
                with contextlib.suppress(TransactionAborted):
                    await app.topic("out").send(value=message.value)
                if message.offset == 1 and not evicted:
                    group = broker.group("group")
                    evicted.extend(group.members)
                    group.leave(evicted[0], trio.current_time())

        tasks.start_soon(copy)
        while committed(broker) != {IN[0]: 2}:
            await wait_for_news(broker)
        app.stop()
    assert evicted
    assert results(broker) == [b"0-0", b"0-1"]
    assert "this member was evicted from its group during the transaction of" in caplog.text


@MODES
@jumping
async def test_commit_of_an_evicted_member_fails_at_the_loss_and_delivers_nothing_before(
    mode: str,
) -> None:
    broker = pipeline(records=1)
    failed_at = []

    async def commit() -> None:
        in_hand.set(None)
        with pytest.raises(TransactionAborted, match="no such member"):
            await app.consumer.commit()
        failed_at.append(trio.current_time())

    async with exactly_once(broker, mode) as app:
        messages = app.topic("in").noack()
        for _ in range(2):
            (message,) = await take(messages, 1)
            assert message.offset == 0
            await app.topic("out").send(value=b"undone", source=message)
            message.ack()
            replace(app, "producer.send_offsets", fails(CommitFailed("no such member")), once=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(commit)
                assert await nothing_comes(messages, 20.0)  # within the bound of the barrier
                evicted_at = trio.current_time()
                evict_all(broker)
            assert failed_at.pop() == evicted_at
        (message,) = await take(messages, 1)
        assert message.offset == 0
    assert results(broker) == []


@MODES
@pytest.mark.parametrize("identity", [(-1, "member"), (3, "")])
@jumping
async def test_consumer_without_membership_commits_nothing(
    mode: str, identity: tuple[int, str]
) -> None:
    """The broker does not fence offsets without a member id or without a generation."""
    broker = pipeline(records=1)
    async with exactly_once(broker, mode, drain_timeout=5.0) as app:
        messages, out = app.topic("in").noack(), app.topic("out")
        async with await anext(messages) as message:
            await out.send(value=b"undone")
        sent: list[Mapping[TP, int]] = []

        async def noted(send_offsets: Function, offsets: Mapping[TP, int], *args: object) -> None:
            sent.append(offsets)
            await send_offsets(offsets, *args)

        replace(app, "producer.send_offsets", noted)
        with (
            replaced(app, "group_metadata", lambda _: GroupMetadata("group", *identity)),
            pytest.raises(TransactionAborted, match="not a member"),
        ):
            await app.consumer.commit()
        assert (sent, committed(broker), results(broker)) == ([], {}, [])
        async with await anext(messages) as message:
            await out.send(value=message.value)
        await app.consumer.commit()
        assert sent == [{IN[0]: 1}]
    assert committed(broker) == {IN[0]: 1}
    assert results(broker) == [b"0-0"]


@MODES
@jumping
async def test_revocation_commits_before_it_releases_partitions(mode: str) -> None:
    broker = pipeline(records=50, partitions=2)

    async def work(app: App) -> None:
        out = app.topic("out")
        async with app:
            async for message in app.topic("in"):
                await trio.sleep(0.1)
                await out.send(value=message.value)

    with trio.fail_after(600):
        async with trio.open_nursery() as nursery:
            settings = {"commit_interval": 1.0}
            nursery.start_soon(work, exactly_once(broker, mode, **settings))
            await trio.sleep(2.05)
            nursery.start_soon(work, exactly_once(broker, mode, **settings))
            while sum(committed(broker).values()) < 100:
                await wait_for_news(broker)
            nursery.cancel_scope.cancel()
    seen = results(broker)
    assert len(seen) == 100
    assert len(set(seen)) == 100


@MODES
@jumping
async def test_start_new_transaction_false_delivers_nothing_until_the_next_commit(
    mode: str,
) -> None:
    broker = pipeline(records=2)
    async with exactly_once(broker, mode) as app:
        messages = app.topic("in").noack(), None
        (first,) = await take(messages[0], 1)
        first.ack()
        assert await app.consumer.commit(start_new_transaction=False)
        write(broker, IN[0])
        assert await nothing_comes(messages[0])
        await app.consumer.commit()
        assert (await anext(messages[0])).offset == 1


@MODES
@jumping
async def test_transactional_producers_are_in_the_tree_and_end_with_the_app(mode: str) -> None:
    broker = pipeline(records=1, partitions=2)

    def names(node: Node) -> list[str]:
        return [node.name, *(name for child in node.children for name in names(child))]

    async with exactly_once(broker, mode) as app:
        await take(app.topic("in").noack(), 2)
        writers = [name for name in names(app.tree()) if name.startswith("Producer of group-")]
        assert len(writers) == (2 if mode == "partition" else 1)
    assert names(app.tree()) == ["App(group)"]


def test_unknown_argument_of_the_transaction_manager_is_refused() -> None:
    app = exactly_once(pipeline())
    with pytest.raises(TypeError, match="consumers"):
        app.transport.create_transaction_manager(app.consumer, app.producer, consumers=None)


@MODES
@jumping
async def test_failed_message_is_redelivered_at_once_with_on_task_error_go_on(mode: str) -> None:
    broker = pipeline(records=2)
    async with exactly_once(broker, mode, on_task_error="go_on") as app:
        out = app.topic("out")
        messages = app.topic("in").noack()
        for failures in range(3):
            message = await anext(messages)
            await out.send(value=b"half of it")
            began = trio.current_time()
            await app.consumer.on_task_error(ZeroDivisionError())
            assert trio.current_time() - began < 1, "the barrier waits for the failed message"
            assert message.offset == 0, failures
        for message in await take(messages, 2):
            async with message:
                await out.send(value=message.value)
        await app.consumer.commit()
    assert results(broker) == [b"0-0", b"0-1"]


# What belongs to a transaction, and when it is delivered


def refuse_the_next_commit(app: App, transactional_id: str) -> None:
    refuse = fails(TransactionAborted("refused"))
    replace(app, "producer.send_offsets", refuse, transactional_id=transactional_id, once=True)


def test_scope_delivers_from_its_begin_and_not_at_a_barrier() -> None:
    scope = Scope("id")
    assert not scope.delivers(IN[0])
    scope.is_ready = True
    assert scope.delivers(IN[0])
    scope.is_suspended = True
    assert not scope.delivers(IN[0])


@MODES
@jumping
async def test_partition_without_an_open_transaction_is_not_delivered(mode: str) -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker, mode) as app:
        (message,) = await take(app.topic("in").noack(), 1)
        transactions = app.consumer.transactions
        (scope,) = transactions.scopes
        assert transactions.delivers(IN[0])
        assert transactions.delivers(IN[1]) == (mode == "member")  # its scope has all partitions
        scope.is_ready = False
        assert not transactions.delivers(IN[0])
        scope.is_ready = True
        message.ack()


@jumping
async def test_on_partitions_revoked_with_no_partitions_is_a_checkpoint() -> None:
    async with exactly_once(pipeline()) as app:
        with assert_checkpoints():
            await app.consumer.transactions.on_partitions_revoked([])


@MODES
@jumping
async def test_send_with_a_transactional_id_needs_no_source(mode: str) -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker, mode) as app:
        await app.producer.begin_transaction("mine")
        send = app.consumer.transactions.send_and_wait
        await send("out", None, b"v", transactional_id="mine")
        assert results(broker) == []
        await app.producer.commit_transaction("mine")
        assert results(broker) == [b"v"]


@MODES
@jumping
async def test_message_sent_soon_without_a_transaction_is_visible_at_once(mode: str) -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker, mode) as app:
        fut = FutureMessage(PendingMessage(topic="out", value=b"v"))
        app.consumer.transactions.send_soon(fut, source=None)
        await fut
        assert results(broker) == [b"v"]


@MODES
@jumping
async def test_send_soon_uses_the_transaction_of_its_source_or_refuses_at_once(
    mode: str,
) -> None:
    async with exactly_once(pipeline(records=1), mode) as app:
        (message,) = await take(app.topic("in").noack(), 1)
        out = app.topic("out")
        out.send_soon(value=b"v", source=message)
        (scope,) = app.consumer.transactions.scopes
        assert set(scope.written) == {ledger_of(message)}
        message.ack()
        with pytest.raises(NotInTransaction, match="acked"):
            out.send_soon(value=b"too late", source=message)


@pytest.mark.parametrize("inside", [True, False])
@MODES
@jumping
async def test_flush_waits_for_messages_inside_and_outside_of_transactions(
    mode: str, inside: bool
) -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker, mode) as app:
        transactions = app.consumer.transactions
        (message,) = await take(app.topic("in").noack(), 1)
        replace(app, "producer.send", late(5.0))
        source = message if inside else None
        delivery = await transactions.send("out", None, b"v", source=source)
        await transactions.flush()
        assert isinstance(delivery.outcome, RecordMetadata)
        message.ack()


@jumping
async def test_commit_of_an_unassigned_partition_is_refused() -> None:
    async with exactly_once(pipeline(records=1), "partition") as app:
        await take(app.topic("in").noack(), 1)
        with pytest.raises(TransactionAborted, match="not assigned"):
            await app.consumer.transactions.commit({IN[1]: 1})


@MODES
@jumping
async def test_next_transaction_begins_after_a_commit_by_default(mode: str) -> None:
    async with exactly_once(pipeline(records=1), mode) as app:
        (message,) = await take(app.topic("in").noack(), 1)
        transactions = app.consumer.transactions
        assert await transactions.commit({IN[0]: 1})
        assert transactions.delivers(IN[0])
        message.ack()


@MODES
@jumping
async def test_commit_with_work_resets_the_count_of_aborts(mode: str) -> None:
    broker = pipeline(records=3)
    with pytest.RaisesGroup(TransactionFailed, flatten_subgroups=True):
        async with exactly_once(broker, mode, transaction_attempts=3) as app:
            messages = app.topic("in").noack()
            for outcome in ("aborted", "aborted", "made", "aborted", "aborted", "the last"):
                async with await anext(messages) as message:
                    await app.topic("out").send(value=message.value)
                if outcome == "made":
                    assert await app.consumer.commit()
                    continue
                (scope,) = app.consumer.transactions.scopes
                refuse_the_next_commit(app, scope.transactional_id)
                error = TransactionFailed if outcome == "the last" else TransactionAborted
                with pytest.raises(error):
                    await app.consumer.commit()
            await trio.sleep_forever()  # the app ends by itself
    assert results(broker) == [b"0-0"]


@MODES
@jumping
async def test_commit_of_acked_messages_without_output_resets_the_count_of_aborts(
    mode: str,
) -> None:
    async with exactly_once(pipeline(records=3), mode, transaction_attempts=2) as app:
        messages = app.topic("in").noack()
        for _ in range(2):
            (await anext(messages)).ack()
            (scope,) = app.consumer.transactions.scopes
            refuse_the_next_commit(app, scope.transactional_id)
            with pytest.raises(TransactionAborted):
                await app.consumer.commit()
            (await anext(messages)).ack()
            assert await app.consumer.commit()


@MODES
@jumping
async def test_commit_without_work_does_not_reset_the_count_of_aborts(mode: str) -> None:
    """A message that always aborts its transaction ends the app, despite commits in between."""
    broker = pipeline(records=1)
    with pytest.RaisesGroup(TransactionFailed, flatten_subgroups=True):
        async with exactly_once(broker, mode, transaction_attempts=3) as app:
            messages = app.topic("in").noack()
            for error in (TransactionAborted, TransactionAborted, TransactionFailed):
                async with await anext(messages) as message:
                    await app.topic("out").send(value=message.value)
                (scope,) = app.consumer.transactions.scopes
                refuse_the_next_commit(app, scope.transactional_id)
                with pytest.raises(error):
                    await app.consumer.commit()
                await trio.sleep(A_WHILE)  # the message is fetched again, and not delivered yet
                if error is TransactionAborted:
                    await app.consumer.commit()
            await trio.sleep_forever()  # the app ends by itself


@MODES
@jumping
async def test_messages_sent_for_an_ended_epoch_are_undone(mode: str) -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker, mode) as app:
        out, messages = app.topic("out"), app.topic("in").noack()
        (message,) = await take(messages, 1)
        await out.send(value=b"undone", source=message)
        app.consumer.ownership.begin_epoch(IN[0], 0)  # as after a reset by the client
        with pytest.raises(TransactionAborted):
            await app.consumer.commit()
        assert results(broker) == []


@MODES
@jumping
async def test_loss_is_logged_if_the_open_transaction_has_messages_of_the_partition(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker, mode) as app:
        transactions = app.consumer.transactions
        (message,) = await take(app.topic("in").noack(), 1)
        await app.topic("out").send(value=b"v", source=message)
        transactions.on_partitions_lost(IN[1:])
        assert "is undone" not in caplog.text
        transactions.on_partitions_lost(IN)
        assert "and lost in-0: the transaction is undone" in caplog.text
        caplog.clear()
        message.ack()
        assert await app.consumer.commit()
        transactions.on_partitions_lost(IN)
        assert "is undone" not in caplog.text


@MODES
@jumping
async def test_nothing_is_delivered_between_an_abort_and_the_next_transaction(mode: str) -> None:
    broker = pipeline(records=2)
    async with exactly_once(broker, mode) as app:
        messages = app.topic("in").noack()
        async with await anext(messages) as message:
            await app.topic("out").send(value=message.value)
        (scope,) = app.consumer.transactions.scopes
        refuse_the_next_commit(app, scope.transactional_id)
        with pytest.raises(TransactionAborted):
            await app.consumer.commit(start_new_transaction=False)
        assert not app.consumer.transactions.delivers(IN[0])
        assert await nothing_comes(messages)
        assert await app.consumer.commit() is False, "this commit only begins the next transaction"
        assert committed(broker) == {}
        assert [message.offset for message in await take(messages, 2)] == [0, 1]


@MODES
@jumping
async def test_commit_with_nothing_due_does_not_wait_for_handlers(mode: str) -> None:
    broker = pipeline(records=2)
    async with exactly_once(broker, mode) as app:
        messages = app.topic("in").noack()
        (await anext(messages)).ack()
        await app.consumer.commit()
        (message,) = await take(messages, 1)
        in_hand.set(None)
        before = trio.current_time()
        assert await app.consumer.commit() is False
        assert trio.current_time() == before
        assert message.ack()


@MODES
@jumping
async def test_failed_message_is_redelivered_even_if_nothing_was_sent_for_it(
    mode: str,
) -> None:
    broker = pipeline(records=2)
    async with exactly_once(broker, mode, on_task_error="go_on") as app:
        messages = app.topic("in").noack()
        (await anext(messages)).ack()
        await app.consumer.commit()
        (message,) = await take(messages, 1)
        await app.consumer.on_task_error(ZeroDivisionError())
        assert not message.ack()
        (again,) = await take(messages, 1)
        assert again.offset == message.offset == 1


@MODES
@jumping
async def test_seek_to_committed_aborts_nothing_if_no_transaction_has_begun(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = pipeline(records=2)
    async with exactly_once(broker, mode) as app:
        messages = app.topic("in").noack()
        (await anext(messages)).ack()
        await app.consumer.commit(start_new_transaction=False)
        assert await app.consumer.seek_to_committed() == {IN[0]: 1}
        assert "aborted" not in caplog.text
        assert (await anext(messages)).offset == 1


@pytest.mark.parametrize("fenced_after", [1.0, 3.0])
@jumping
async def test_fatal_error_is_raised_whatever_the_outcome_of_other_partitions(
    fenced_after: float,
) -> None:
    broker = pipeline(records=1, partitions=2)
    with pytest.RaisesGroup(Fenced, flatten_subgroups=True):
        async with exactly_once(broker, "partition") as app:
            for message in await take(app.topic("in").noack(), 2):
                message.ack()
            outcomes = ((fenced_after, Fenced("another has it")), (2.0, TransactionAborted("no")))
            scopes = app.consumer.transactions.scopes
            for scope, (seconds, error) in zip(scopes, outcomes, strict=True):

                async def fail(*_: object, after: float = seconds, why: Exception = error) -> None:
                    await trio.sleep(after)
                    raise why

                id = scope.transactional_id
                replace(app, "producer.send_offsets", fail, transactional_id=id)
            with pytest.raises(Fenced):
                await app.consumer.commit()
            await trio.sleep_forever()  # the app ends by itself


@pytest.mark.parametrize(
    ("generation", "member", "error"),
    [
        (-1, "member", RebalanceInProgress),
        (1, "", RebalanceInProgress),
        (0, "member", CommitFailed),  # the broker does not know the member
    ],
)
@jumping
async def test_transaction_commit_without_membership_is_refused(
    generation: int, member: str, error: type[Exception]
) -> None:
    """The broker does not fence a commit without a member."""
    broker = pipeline(records=1)
    async with exactly_once(broker) as app:
        (message,) = await take(app.topic("in").noack(), 1)

        def other(own: Function) -> GroupMetadata:
            return attrs.evolve(own(), generation_id=generation, member_id=member)

        with replaced(app, "group_metadata", other), pytest.raises(error):
            await app.consumer.transactions.commit({IN[0]: 1})
        message.ack()


# Callers, waits, and the end


@MODES
@jumping
async def test_commit_returns_false_before_the_join_and_after_the_end(
    mode: str,
) -> None:
    async with exactly_once(pipeline(records=1), mode) as app:
        assert await app.consumer.commit() is False
        (await anext(app.topic("in").noack())).ack()
    assert await app.consumer.commit() is False


@MODES
@jumping
async def test_commit_is_allowed_with_a_message_of_another_app_in_hand(mode: str) -> None:
    """Only a message for which this commit would wait forbids it."""
    broker = pipeline(records=1)
    async with exactly_once(broker, mode) as app, exactly_once(broker, mode, id="other") as other:
        (mine,) = await take(app.topic("in").noack(), 1)
        mine.ack()
        async for _ in other.topic("in"):
            assert await app.consumer.commit()
            break
    assert committed(broker) == {IN[0]: 1}


@MODES
@jumping
async def test_shared_commit_begins_the_next_transaction_only_if_all_callers_want_it(
    mode: str,
) -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker, mode) as app:
        (message,) = await take(app.topic("in").noack(), 1)
        message.ack()
        async with trio.open_nursery() as nursery:
            for begins_next in (True, False, True):
                nursery.start_soon(partial(app.consumer.committer.commit, begins_next=begins_next))
        assert committed(broker) == {IN[0]: 1}
        assert not app.consumer.transactions.delivers(IN[0])


@MODES
@jumping
async def test_commit_covers_the_topics_and_partitions_that_it_names(mode: str) -> None:
    broker = pipeline(records=1, partitions=2)
    async with exactly_once(broker, mode) as app:
        for message in await take(app.topic("in").noack(), 2):
            message.ack()
        assert not await app.consumer.commit({"out"})
        assert not await app.consumer.commit({TP("in", 5)})
        assert await app.consumer.commit({"in"})
        assert committed(broker) == {IN[0]: 1, IN[1]: 1}


@MODES
@jumping
async def test_commit_during_a_rebalance_is_made_after_it(mode: str) -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker, mode) as app, trio.open_nursery() as nursery:
        async with await anext(app.topic("in").noack()) as message:
            await app.topic("out").send(value=message.value)
        replace(app, "group_metadata", without_membership)

        async def join_again() -> None:
            await trio.sleep(2.0)
            restore(app, "group_metadata")

        nursery.start_soon(join_again)
        assert await app.consumer.commit()
        assert results(broker) == [b"0-0"]
        assert committed(broker) == {IN[0]: 1}


@MODES
@jumping
async def test_commit_that_waits_for_a_rebalance_leaves_out_lost_partitions(
    mode: str,
) -> None:
    broker = pipeline(records=1, partitions=2)
    async with exactly_once(broker, mode) as app, trio.open_nursery() as nursery:
        for message in await take(app.topic("in").noack(), 2):
            message.ack()
        scope = app.consumer.transactions.scope_of(IN[1])
        assert scope is not None
        # The scope of the first partition has committed by then.
        replace(app, "producer.commit", late(1.0), transactional_id=scope.transactional_id)
        replace(app, "group_metadata", without_membership)

        async def join_without_the_second() -> None:
            await trio.sleep(2.0)
            app.consumer.ownership.drop(IN[1:])
            restore(app, "group_metadata")

        nursery.start_soon(join_without_the_second)
        assert await app.consumer.commit()
        assert committed(broker) == {IN[0]: 1}


@MODES
@jumping
async def test_wait_for_a_commit_includes_its_barrier(mode: str) -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker, mode) as app, trio.open_nursery() as nursery:
        (message,) = await take(app.topic("in").noack(), 1)
        assert await app.consumer.maybe_wait_for_commit_to_finish() is False
        nursery.start_soon(elsewhere, app.consumer.commit)
        await wait_all_tasks_blocked()
        nursery.start_soon(acks_later, message)
        assert await app.consumer.maybe_wait_for_commit_to_finish() is True
        assert committed(broker) == {IN[0]: 1}


async def acks_later(message: Message) -> None:
    await trio.sleep(1.0)
    message.ack()


@MODES
@jumping
async def test_commit_outcome_is_unknown_from_the_request_to_the_answer(
    mode: str,
) -> None:
    async with exactly_once(pipeline(records=1), mode) as app:
        committer = app.consumer.committer
        (message,) = await take(app.topic("in").noack(), 1)
        assert committer.commit_had_no_effect
        message.ack()
        asked, answer = trio.Event(), trio.Event()
        commits_wait_for(app, asked, answer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(committer.commit)
            await asked.wait()
            assert not committer.commit_had_no_effect
            answer.set()
        assert committer.commit_had_no_effect


@MODES
@jumping
async def test_seek_to_committed_undoes_uncommitted_work(mode: str) -> None:
    broker = pipeline(records=3)
    async with exactly_once(broker, mode) as app:
        out, messages = app.topic("out"), app.topic("in").noack()
        (message,) = await take(messages, 1)
        assert await app.consumer.seek_to_committed() == {IN[0]: 0}, "the start of the epoch"
        assert not message.ack()
        for outcome in (b"kept", b"undone"):
            async with await anext(messages):
                await out.send(value=outcome)
            if outcome == b"kept":
                await app.consumer.commit()
        assert await app.consumer.seek_to_committed() == {IN[0]: 1}
        assert [message.offset for message in await take(messages, 2)] == [1, 2]
    assert results(broker) == [b"kept"]


@MODES
@jumping
async def test_seek_to_committed_raises_app_closed_if_the_app_ends_meanwhile(mode: str) -> None:
    async def abort_and_rewind() -> None:
        with pytest.raises(AppClosed):
            await app.consumer.seek_to_committed()

    async with trio.open_nursery() as nursery, exactly_once(pipeline(records=1), mode) as app:
        (message,) = await take(app.topic("in").noack(), 1)
        await app.topic("out").send(value=b"undone", source=message)
        replace(app, "producer.abort", hangs)
        nursery.start_soon(abort_and_rewind)
        await wait_all_tasks_blocked()
        await app.kill()


@jumping
async def test_redone_transaction_is_the_only_one_of_its_attempt_that_is_aborted() -> None:
    async def commit() -> None:
        with pytest.raises(TransactionAborted):
            await app.consumer.commit()

    broker = pipeline(records=1, partitions=2)
    async with trio.open_nursery() as nursery, exactly_once(broker, "partition") as app:
        messages = {each.tp: each for each in await take(app.topic("in").noack(), 2)}
        for message in messages.values():
            await app.topic("out").send(value=message.value, source=message)
        nursery.start_soon(elsewhere, partial(app.consumer.commit, {IN[1]}))
        await wait_all_tasks_blocked()
        nursery.start_soon(elsewhere, commit)
        nursery.start_soon(app.consumer.redo, IN[0])
        await wait_all_tasks_blocked()
        messages[IN[1]].ack()
        await wait_all_tasks_blocked()
        assert (results(broker), committed(broker)) == ([b"1-0"], {IN[1]: 1})
        scope = app.consumer.transactions.scope_of(IN[1])
        assert scope is not None
        assert scope.aborts == 0


@jumping
async def test_abort_for_a_partition_that_is_not_assigned_any_more_ends() -> None:
    """The messages of the other partitions in the same transaction are delivered again."""
    broker = pipeline(records=1)
    async with exactly_once(broker, "member") as app:
        out, messages = app.topic("out"), app.topic("in").noack()
        async with await anext(messages) as message:
            await out.send(value=message.value)
        with trio.fail_after(A_WHILE):
            await app.consumer.redo(IN[1])
            again = await anext(messages)
        assert again.offset == message.offset
        assert results(broker) == []


@pytest.mark.parametrize("ending", ["commit", "abort", "loss"])
@jumping
async def test_isolated_partition_delivers_alone_until_the_next_commit_or_abort(
    ending: str,
) -> None:
    broker = pipeline(records=2, partitions=2)
    async with exactly_once(broker, "member", buffer_size=1) as app:
        out, messages = app.topic("out"), app.topic("in").noack()
        async with await anext(messages) as first:
            await out.send(value=first.value)
        await app.consumer.isolate(IN[1])
        assert results(broker) == [first.value], "what was done before is committed"
        assert app.consumer.transactions.is_alone(IN[1])
        delivered = [first.value]
        for _ in range(2 if first.tp == IN[0] else 1):
            async with await anext(messages) as message:
                assert message.tp == IN[1]
                delivered.append(message.value)
        assert await nothing_comes(messages)
        if ending == "commit":
            await app.consumer.commit()
        elif ending == "abort":
            await app.consumer.redo(IN[1])
            delivered = [first.value]
        else:
            evict_all(broker)
            delivered = [first.value]
        while len(delivered) < 4:
            async with await anext(messages) as message:
                delivered.append(message.value)
        assert sorted(delivered) == [b"0-0", b"0-1", b"1-0", b"1-1"]


@pytest.mark.parametrize("at_a_barrier", [True, False])
@MODES
@jumping
async def test_end_undoes_unacked_work_at_once_and_begins_no_transaction(
    mode: str, at_a_barrier: bool
) -> None:
    broker = pipeline(records=1)

    async def commit() -> None:
        with pytest.raises(TransactionAborted, match="not acked at the end"):
            await app.consumer.commit()

    async with trio.open_nursery() as nursery:
        async with exactly_once(broker, mode) as app:
            (message,) = await take(app.topic("in").noack(), 1)
            await app.topic("out").send(value=b"undone", source=message)
            (scope,) = app.consumer.transactions.scopes
            replace(app, "producer.begin", is_not_called("the app ends"))
            if at_a_barrier:
                nursery.start_soon(elsewhere, commit)
                await wait_all_tasks_blocked()
            before = trio.current_time()
        assert trio.current_time() - before < 1
        assert not scope.is_ready
    assert (results(broker), committed(broker)) == ([], {})


@pytest.mark.parametrize("is_last", [True, False])
@MODES
@jumping
async def test_end_does_not_wait_for_the_loss_of_an_evicted_member(
    mode: str, is_last: bool
) -> None:
    async def commit() -> None:
        with pytest.raises(TransactionAborted, match="no such member"):
            await app.consumer.commit()

    broker = pipeline(records=1)
    async with trio.open_nursery() as nursery:
        async with exactly_once(broker, mode) as app:
            async with await anext(app.topic("in").noack()):
                await app.topic("out").send(value=b"undone")
            replace(app, "producer.send_offsets", fails(CommitFailed("no such member")))
            if not is_last:
                nursery.start_soon(commit)
                await wait_all_tasks_blocked()
            before = trio.current_time()
        assert trio.current_time() - before < 1
    assert (results(broker), committed(broker)) == ([], {})


@MODES
@jumping
async def test_end_does_not_wait_for_the_begin_of_the_next_transaction(mode: str) -> None:
    broker = pipeline(records=1)
    async with trio.open_nursery() as nursery:
        async with exactly_once(broker, mode) as app:
            (await anext(app.topic("in").noack())).ack()
            replace(app, "producer.begin", hangs)
            nursery.start_soon(elsewhere, app.consumer.commit)
            await wait_all_tasks_blocked()
            before = trio.current_time()
        assert trio.current_time() - before < 1
    assert committed(broker) == {IN[0]: 1}


@MODES
@jumping
async def test_rebalance_that_outlasts_the_end_is_logged_and_no_unknown_commit(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker, mode) as app:
        async with await anext(app.topic("in").noack()) as message:
            await app.topic("out").send(value=message.value)
        replace(app, "group_metadata", without_membership)
    assert "the last commit was not made within" in caplog.text
    assert (results(broker), committed(broker)) == ([], {})


@MODES
@jumping
async def test_last_commit_without_an_answer_raises_commit_unknown(mode: str) -> None:
    broker = pipeline(records=1)
    with pytest.RaisesGroup(CommitUnknown, flatten_subgroups=True):
        async with exactly_once(broker, mode) as app:
            async with await anext(app.topic("in").noack()) as message:
                await app.topic("out").send(value=message.value)
            commits_wait_for(app, trio.Event(), trio.Event())
    assert (results(broker), committed(broker)) == ([], {})


# Revoked partitions


@MODES
@jumping
async def test_seek_during_a_revocation_fails_at_once(mode: str) -> None:
    """The commit before the seek would wait for the same handlers as the revocation."""
    broker = pipeline(records=1, partitions=2)
    async with exactly_once(broker, mode, drain_timeout=50.0) as one, app_on(broker) as other:
        held = await take(one.topic("in").noack(), 2)
        other.topic("in").listen()
        await wait_all_tasks_blocked()
        assert one.consumer.rebalances.is_under_way
        in_hand.set(None)
        before = trio.current_time()
        for message in held:
            with pytest.raises(RebalanceInProgress):
                await one.consumer.seek(message.tp, 0)
        assert trio.current_time() == before


@MODES
@jumping
async def test_partition_is_released_even_if_its_last_transaction_is_undone(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker, mode, max_request_size=500) as app:
        async with await anext(app.topic("in").noack()):
            app.topic("out").send_soon(value=b"v" * 1000)
        app.conductor.clear()
        await trio.sleep(A_WHILE)
        assert not app.consumer.assignment
    assert "the last commit of in-0 failed" in caplog.text
    assert committed(broker) == {}


@MODES
@jumping
async def test_partitions_revoked_after_the_end_are_released_without_a_commit(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[frozenset[TP]] = []

    class Told(App):
        async def on_partitions_revoked(self, revoked: frozenset[TP]) -> None:
            told.append(revoked)

    async with app_on(pipeline(records=1), kind=Told, transactions=mode) as app:
        (await anext(app.topic("in").noack())).ack()
    told.clear()
    await app.consumer.on_partitions_revoked(frozenset(IN))
    assert "the last commit of in[0-1] failed: the app is closing" in caplog.text
    assert told == [frozenset(IN)]


def producers_of(app: App) -> list[str]:
    (producer,) = [node for node in app.tree().children if node.name == "Producer"]
    return [node.name for node in producer.children if node.name.startswith("Producer of")]


@jumping
async def test_producer_of_an_abandoned_partition_ends_without_a_later_commit() -> None:
    broker = pipeline(records=1, partitions=2)
    async with exactly_once(broker, "partition", drain_timeout=2.0) as one, app_on(broker) as other:
        held = await take(one.topic("in").noack(), 2)
        assert len(producers_of(one)) == 2
        other.topic("in").listen()
        await trio.sleep(10.0)
        (kept,) = one.consumer.assignment
        assert producers_of(one) == [f"Producer of group-in-{kept.partition}"]
        assert [message.tp for message in held if message.ack()] == [kept]


@jumping
async def test_lost_partition_that_is_assigned_again_has_a_new_transaction() -> None:
    broker = pipeline(records=1)
    async with exactly_once(broker, "partition") as app:
        messages = app.topic("in").noack()
        (message,) = await take(messages, 1)
        (scope,) = app.consumer.transactions.scopes
        evict_all(broker)
        async with await anext(messages) as again:
            await app.topic("out").send(value=again.value)
        assert not message.ack()
        assert [*app.consumer.transactions.scopes] != [scope]
        await app.consumer.force_commit()
        assert app.consumer.transactions.delivers(IN[0])
    assert results(broker) == [b"0-0"]
