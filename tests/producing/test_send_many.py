"""Tests of `send_many`: acceptance, outcomes, room, errors and transactions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.apps import app_on, broker_with, committed, take, write
from tests.lanes import NEVER
from tests.nurseries.clock import jumping
from tests.producing.held_back import HeldBack, app_with
from tests.producing.test_send_soon import all_of, values
from transport import (
    JSON,
    TP,
    AppClosed,
    DeliveryFailed,
    ManyDeliveries,
    MessageTooLarge,
    NotInTransaction,
    RecordMetadata,
    TransactionAborted,
    UnknownTopic,
)

ORDERS = TP("orders", 0)
IN, OUT = TP("in", 0), TP("out", 0)
TWO_FAILED = pytest.RaisesExc(DeliveryFailed, match="2 messages")


def pairs(count: int, first: int = 0) -> list[tuple[None, bytes]]:
    return [(None, b"%d" % number) for number in range(first, first + count)]


def numbers(count: int, first: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(first, first + count)]


# Acceptance


@jumping
async def test_pairs_and_mappings_are_sent_in_order() -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        many = await app.topic("orders").send_many(
            [
                (b"k", b"pair"),
                {"value": b"mapping"},
                {"key": b"k", "timestamp": 7.0, "partition": 0, "headers": {"h": b"1"}},
                (None, None),
            ]
        )
        written = await many
    assert [each.offset for each in written] == [0, 1, 2, 3]
    assert all_of(broker, ORDERS)[2] == (b"k", None, 7000, [("h", b"1")])
    assert values(broker) == [b"pair", b"mapping", None, None]


@jumping
async def test_send_many_reads_any_iterable_once() -> None:
    def messages() -> Iterator[tuple[None, bytes]]:
        yield from pairs(100)

    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        assert len(await (await app.topic("orders").send_many(messages()))) == 100
    assert values(broker) == numbers(100)


@jumping
async def test_keys_and_values_are_encoded_and_keys_choose_the_partitions() -> None:
    broker = broker_with(TP("orders", 3))
    async with app_on(broker) as app:
        orders = app.topic("orders", key_type=str, value_type=JSON)
        many = await orders.send_many([(f"k{n}", {"n": n}) for n in range(20)])
        for each, written in zip(many, await many, strict=True):
            assert written.tp == app.producer.key_partition("orders", each.key or b"")
        assert len({written.partition for written in await many}) > 1
        assert many[0].value == b'{"n": 0}' or many[0].value == b'{"n":0}'


@jumping
async def test_send_many_of_no_messages_returns_an_empty_sequence() -> None:
    async with app_on(broker_with(ORDERS)) as app:
        with assert_checkpoints():
            many = await app.topic("orders").send_many([])
        assert await many == []
        assert len(many) == 0


@jumping
async def test_send_many_and_awaiting_its_deliveries_are_checkpoints() -> None:
    async with app_on(broker_with(ORDERS)) as app:
        await app.topic("orders").send_and_wait(value=b"v")
        with assert_checkpoints():
            many = await app.topic("orders").send_many(pairs(2))
        await many
        with assert_checkpoints():
            await many
        with assert_checkpoints():
            await many.outcomes()


@jumping
async def test_send_many_keeps_the_order_with_sends_before_and_after() -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        orders = app.topic("orders")
        await orders.send(value=b"0")
        await orders.send_many(pairs(5, 1))
        await orders.send(value=b"6")
        await app.producer.flush()
    assert values(broker) == numbers(7)


@jumping
async def test_flush_waits_for_all_messages_of_send_many() -> None:
    client = HeldBack()
    async with app_with(client) as app, trio.open_nursery() as nursery:
        many = await app.topic("orders").send_many(pairs(3))
        nursery.start_soon(app.producer.flush)
        await wait_all_tasks_blocked()
        client.end(2)
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        client.end()
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert len(await many) == 3


# Outcomes


@jumping
async def test_each_message_of_send_many_has_its_own_outcome() -> None:
    client = HeldBack()
    async with app_with(client) as app:
        many = await app.topic("orders").send_many(pairs(4))
        assert "4 messages, 4 without an outcome" in repr(many)
        await wait_all_tasks_blocked()
        client.end(2)
        client.end(1, DeliveryFailed("first"))
        client.end(1, MessageTooLarge("second"))
        kinds = [type(outcome) for outcome in await many.outcomes()]
        assert kinds == [RecordMetadata, RecordMetadata, DeliveryFailed, MessageTooLarge]
        with pytest.raises(DeliveryFailed, match="first"):
            await many
        with pytest.raises(MessageTooLarge, match="second"):
            await many[3]
        assert isinstance(await many[0], RecordMetadata)
        assert many[1:3] == list(many)[1:3]


@jumping
async def test_awaiting_many_deliveries_raises_once_all_have_outcomes() -> None:
    client = HeldBack()
    raised: list[Exception] = []

    async def wait_for(many: ManyDeliveries) -> None:
        try:
            await many
        except DeliveryFailed as error:
            raised.append(error)

    async with app_with(client) as app, trio.open_nursery() as nursery:
        many = await app.topic("orders").send_many(pairs(2))
        nursery.start_soon(wait_for, many)
        await wait_all_tasks_blocked()
        client.end(1, DeliveryFailed("no"))
        await wait_all_tasks_blocked()
        assert not raised
        client.end()
        await wait_all_tasks_blocked()
        assert len(raised) == 1


@jumping
async def test_unseen_failures_are_raised_when_the_app_closes() -> None:
    client = HeldBack()
    with pytest.RaisesGroup(TWO_FAILED, flatten_subgroups=True):
        async with app_with(client) as app:
            await app.topic("orders").send_many(pairs(3))
            await wait_all_tasks_blocked()
            client.end(2, DeliveryFailed("no"))
            client.end()


@pytest.mark.parametrize("by", ["await", "outcomes"])
@jumping
async def test_failures_that_a_task_awaits_are_not_raised_when_the_app_closes(by: str) -> None:
    """That includes messages that the closing app itself fails."""
    client = HeldBack()
    seen: list[object] = []

    async def wait_for(many: ManyDeliveries) -> None:
        if by == "outcomes":
            seen.extend(await many.outcomes())
        else:
            with pytest.raises(DeliveryFailed):
                await many
            seen.extend(many)

    async with trio.open_nursery() as nursery, app_with(client, grace=1.0) as app:
        many = await app.topic("orders").send_many(pairs(3))
        nursery.start_soon(wait_for, many)
        await wait_all_tasks_blocked()
    assert len(seen) == 3


@jumping
async def test_cancelling_a_wait_for_many_deliveries_ends_only_the_wait() -> None:
    client = HeldBack()
    async with app_with(client) as app:
        many = await app.topic("orders").send_many(pairs(2))
        with trio.move_on_after(1) as waiting:
            await many
        assert waiting.cancelled_caught
        client.end(2)
        assert len(await many) == 2


# Room


@pytest.mark.parametrize(
    "bound", [{"send_buffer_messages": 3}, {"send_buffer_bytes": 3 * 80}], ids=["messages", "bytes"]
)
@jumping
async def test_messages_without_room_wait_and_the_bound_holds(bound: dict[str, int]) -> None:
    client = HeldBack()
    async with app_with(client, **bound) as app, trio.open_nursery() as nursery:
        done: list[ManyDeliveries] = []

        async def send() -> None:
            done.append(await app.topic("orders").send_many(pairs(8)))

        nursery.start_soon(send)
        seen: list[bytes | None] = []
        while not done:
            await wait_all_tasks_blocked()
            assert 0 < app.producer.in_flight <= 3
            seen.append(client.taken[0].value)
            client.end()
            await wait_all_tasks_blocked()
        seen += [each.value for each in client.taken]
        client.end(8)
        assert len(await done[0]) == 8
        assert seen == numbers(8)


@jumping
async def test_waiting_messages_are_accepted_before_those_of_later_senders() -> None:
    client = HeldBack()
    async with (
        app_with(client, send_buffer_messages=2) as app,
        trio.open_nursery() as nursery,
    ):
        orders = app.topic("orders")

        async def send_one(value: bytes) -> None:
            await orders.send(value=value)

        await orders.send(value=b"0")
        nursery.start_soon(orders.send_many, pairs(4, 1))
        await wait_all_tasks_blocked()
        nursery.start_soon(send_one, b"5")
        await wait_all_tasks_blocked()
        nursery.start_soon(orders.send_many, pairs(3, 6))
        seen: list[bytes | None] = []
        for _ in range(9):
            await wait_all_tasks_blocked()
            seen.append(client.taken[0].value)
            client.end()
        assert seen == numbers(9)


@jumping
async def test_send_many_sends_more_messages_than_the_buffer_holds() -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker, send_buffer_messages=7) as app:
        many = await app.topic("orders").send_many(pairs(100))
        assert [each.offset for each in await many] == list(range(100))
    assert values(broker) == numbers(100)


@jumping
async def test_send_many_cancelled_while_it_waits_sends_the_accepted_messages() -> None:
    client = HeldBack()
    async with app_with(client, send_buffer_messages=2) as app:
        orders = app.topic("orders")
        with trio.move_on_after(1) as waiting:
            await orders.send_many(pairs(4))
        assert waiting.cancelled_caught
        assert [each.value for each in client.taken] == numbers(2)
        assert app.producer.in_flight == 2
        client.end(2)
        # The cancelled sender has left the line, so the next sender does not wait.
        await orders.send(value=b"next")
        await wait_all_tasks_blocked()
        assert [each.value for each in client.taken] == [b"next"]
        client.end()


@jumping
async def test_send_many_in_a_cancelled_scope_sends_nothing() -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        with trio.CancelScope() as scope:
            scope.cancel()
            await app.topic("orders").send_many(pairs(3))
        assert app.producer.in_flight == 0
    assert values(broker) == []


@jumping
async def test_send_many_that_waits_for_room_raises_app_closed_at_the_end() -> None:
    client = HeldBack()
    refused: list[Exception] = []

    async with trio.open_nursery() as nursery:

        async def send(app: Any) -> None:
            try:
                await app.topic("orders").send_many(pairs(4))
            except AppClosed as error:
                refused.append(error)

        with pytest.RaisesGroup(TWO_FAILED, flatten_subgroups=True):
            async with app_with(client, send_buffer_messages=2, grace=1.0) as app:
                nursery.start_soon(send, app)
                await wait_all_tasks_blocked()
    assert len(refused) == 1


# Errors


@pytest.mark.parametrize(
    ("bad", "kind", "text"),
    [
        ((None, "text"), TypeError, "the value of a message for 'orders' must be bytes"),
        (("text", None), TypeError, "the key of a message for 'orders' must be bytes"),
        ({"value": 5}, TypeError, "the value of a message"),
        ({"value": b"", "topic": "t"}, TypeError, "no argument 'topic': use one of key, value"),
        ({"value": b"", "partition": 1}, ValueError, "there is no partition 1"),
        ({"value": b"", "partition": "1"}, TypeError, "the partition of a message for 'orders'"),
        ({"value": b"", "timestamp": -1}, ValueError, "the timestamp of a message for 'orders'"),
        ({"value": b"", "headers": {"h": "1"}}, TypeError, "the headers of a message"),
        ((None, b"x" * (2 << 20)), MessageTooLarge, "allow"),
        ((b"k", b"v", 0), TypeError, "must be a pair of key and value, or a mapping"),
        (b"value", TypeError, "must be a pair of key and value, or a mapping"),
        ([b"k", b"v"], TypeError, "must be a pair of key and value, or a mapping"),
    ],
)
@pytest.mark.parametrize("is_known", [True, False])
@jumping
async def test_a_bad_message_is_named_by_its_number_and_nothing_is_sent(
    bad: Any, kind: type[Exception], text: str, is_known: bool
) -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker) as app:
        orders = app.topic("orders")
        if is_known:
            await orders.send_and_wait(value=b"known")
        with pytest.raises(kind, match="message 2 of send_many: ") as raised:
            await orders.send_many([*pairs(2), bad, *pairs(1)])
        assert text in str(raised.value)
        assert app.producer.in_flight == 0
    assert len(values(broker)) == is_known


@pytest.mark.parametrize("bad", [b"bytes", "text", {"value": b"v"}, 5, None])
@jumping
async def test_send_many_refuses_an_argument_that_is_no_series_of_messages(bad: Any) -> None:
    async with app_on(broker_with(ORDERS)) as app:
        with pytest.raises(TypeError, match="messages must be pairs of key and value"):
            await app.topic("orders").send_many(bad)


@jumping
async def test_an_error_of_a_codec_has_the_number_of_its_message() -> None:
    async with app_on(broker_with(ORDERS)) as app:
        orders = app.topic("orders", value_type=JSON)
        with pytest.raises(TypeError, match=r"message 1 of send_many: .* cannot be encoded"):
            await orders.send_many([(None, 1), (None, object())])


@jumping
async def test_an_error_of_a_partitioner_keeps_its_class_and_gets_a_note() -> None:
    class Mine(ValueError): ...

    def choose(key: bytes, count: int) -> int:
        raise Mine("no")

    async with app_on(broker_with(ORDERS), partitioner=choose) as app:
        with pytest.raises(Mine) as raised:
            await app.topic("orders").send_many([(b"k", b"v")])
        assert raised.value.__notes__ == ["in message 0 of send_many"]


@jumping
async def test_send_many_to_a_missing_topic_raises_unknown_topic() -> None:
    async with app_on(
        broker_with(ORDERS), client_options={"allow_auto_create_topics": False}
    ) as app:
        with pytest.raises(UnknownTopic):
            await app.topic("others").send_many(pairs(2))


@jumping
async def test_send_many_raises_app_closed_if_the_app_is_not_open() -> None:
    app = app_on(broker_with(ORDERS))
    with pytest.raises(AppClosed):
        await app.topic("orders").send_many(pairs(2))


# Transactions


@pytest.mark.parametrize("mode", ["member", "partition"])
@jumping
async def test_send_many_sends_in_the_transaction_of_its_source(mode: str) -> None:
    broker = broker_with(IN, OUT)
    write(broker, IN, 2)
    async with app_on(broker, transactions=mode, commit_interval=NEVER) as app:
        messages = app.topic("in").noack()
        for message in await take(messages, 2):
            await app.topic("out").send_many(pairs(3), source=message)
            message.ack()
        log = broker.log(OUT)
        assert log.read(0, 1 << 20, committed=True).records == ()
        await app.consumer.commit()
        seen = [record.value for record in log.read(0, 1 << 20, committed=True).records]
        assert seen == [*numbers(3), *numbers(3)]
    assert committed(broker) == {IN: 2}


@jumping
async def test_the_default_source_is_the_message_that_the_task_handles() -> None:
    broker = broker_with(IN, OUT)
    write(broker, IN, 1)
    async with app_on(broker, transactions="member", commit_interval=NEVER) as app:
        with pytest.raises(NotInTransaction):
            await app.topic("out").send_many(pairs(1))
        await app.topic("out").send_many([(None, b"outside")], source=None)
        async for _ in app.topic("in"):
            many = await app.topic("out").send_many(pairs(2))
            assert len(await many) == 2
            break
        for message in app.consumer.unacked:
            message.ack()
        await app.consumer.commit()
    log = broker.log(OUT)
    seen = [record.value for record in log.read(0, 1 << 20, committed=True).records]
    assert seen == [b"outside", *numbers(2)]


@jumping
async def test_send_many_for_an_acked_source_raises_not_in_transaction() -> None:
    broker = broker_with(IN, OUT)
    write(broker, IN, 1)
    async with app_on(broker, transactions="member", commit_interval=NEVER) as app:
        (message,) = await take(app.topic("in").noack(), 1)
        message.ack()
        with pytest.raises(NotInTransaction):
            await app.topic("out").send_many(pairs(2), source=message)


@jumping
async def test_an_abort_fails_each_message_without_an_outcome() -> None:
    client = HeldBack()
    async with app_with(client) as app:
        many = await app.topic("orders").send_many(pairs(2))
        app.producer.give_up(TransactionAborted("undone"))
        outcomes = await many.outcomes()
    assert [type(outcome) for outcome in outcomes] == [TransactionAborted] * 2
