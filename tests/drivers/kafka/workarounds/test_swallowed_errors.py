"""An error in a thread, a task or a callback of the client is reported at once (Kafka only)."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import trio
from kafka.producer.sender import Sender as ClientSender

from tests.drivers.rig import Rig, Sender, outgoing
from transport.errors import CommitUnknown, DeliveryFailed, TransactionAborted
from transport.types import RecordMetadata

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.usefixtures("quiet_client"),
]


def client_of(sender: Sender) -> Any:
    """Return the current KafkaProducer of a sender."""
    return sender.client._producer  # type: ignore[attr-defined]


def once(owner: Any, name: str, error: BaseException) -> None:
    """Let the next call of a method raise before it has any effect."""
    method = getattr(owner, name)

    def fail(*args: Any, **options: Any) -> Any:
        setattr(owner, name, method)
        raise error

    setattr(owner, name, fail)


def before_a_request(client: Any, error: BaseException) -> None:
    """Let the next pass that has taken batches raise."""
    create = client._sender._create_produce_requests

    def fail(collated: Any) -> Any:
        if not any(collated.values()):
            return create(collated)
        client._sender._create_produce_requests = create
        raise error

    client._sender._create_produce_requests = fail


def at_the_answer(client: Any, error: BaseException) -> None:
    once(client._sender, "_complete_batch", error)


def in_a_task(client: Any, error: BaseException) -> None:
    def fail() -> None:
        raise error

    client._sender._client._net.call_soon_threadsafe(fail)


@pytest.mark.parametrize("error", [struct.error("too large"), SystemExit()], ids=["error", "exit"])
async def test_next_client_sends_unsent_messages_of_failed_client_in_order(
    kafka_rig: Rig, error: BaseException
) -> None:
    topic = await kafka_rig.topic(1)
    async with kafka_rig.sender() as sender:
        await sender.fill(topic, 1, 1)
        failed = client_of(sender)
        before_a_request(failed, error)
        batches = [[outgoing(topic, partition=0) for _ in range(10)] for _ in range(5)]
        with trio.fail_after(20):
            for batch in batches:
                await sender.client.send(batch)
            outcomes = await sender.reported([m for batch in batches for m in batch])
        assert [o.offset for o in outcomes if isinstance(o, RecordMetadata)] == [*range(1, 51)]
        assert client_of(sender) is not failed
        failed._sender.join(5.0)
        assert not failed._sender.is_alive()
        assert failed._sender._client._net._closed


async def test_possibly_written_message_fails_at_once_and_next_message_is_sent(
    kafka_rig: Rig,
) -> None:
    topic = await kafka_rig.topic(1)
    async with kafka_rig.sender() as sender:
        await sender.fill(topic, 1, 1)
        at_the_answer(client_of(sender), struct.error("too short"))
        with trio.fail_after(20):
            (failed,) = await sender.send([outgoing(topic, partition=0)])
            assert isinstance(failed, DeliveryFailed)
            assert "too short" in str(failed)
            assert "may have the message or not" in str(failed)
            (sent,) = await sender.send([outgoing(topic, partition=0)])
        assert isinstance(sent, RecordMetadata)


async def test_failed_pass_without_batches_is_repeated(kafka_rig: Rig) -> None:
    topic = await kafka_rig.topic(1)
    async with kafka_rig.sender() as sender:
        await sender.fill(topic, 1, 1)
        client = client_of(sender)
        once(client._sender._accumulator, "ready", RuntimeError("changed size during iteration"))
        with trio.fail_after(20):
            (sent,) = await sender.send([outgoing(topic, partition=0)])
        assert isinstance(sent, RecordMetadata)
        assert client_of(sender) is client


async def test_failed_loop_task_replaces_client(kafka_rig: Rig) -> None:
    topic = await kafka_rig.topic(1)
    async with kafka_rig.sender() as sender:
        await sender.fill(topic, 1, 1)
        failed = client_of(sender)
        in_a_task(failed, ValueError("of a reader"))
        with trio.fail_after(20):
            await trio.to_thread.run_sync(failed._sender.join)
            (sent,) = await sender.send([outgoing(topic, partition=0)])
        assert isinstance(sent, RecordMetadata)


async def test_message_that_fails_network_thread_fails_alone(kafka_rig: Rig) -> None:
    """The message cannot be encoded. The next client sends all other messages."""
    topic = await kafka_rig.topic(2)
    async with kafka_rig.sender() as sender:
        await sender.fill(topic, 2, 2)
        bad = outgoing(topic, partition=0, timestamp_ms=2**70)
        good = [outgoing(topic, partition=1) for _ in range(10)]
        with trio.fail_after(20):
            failed, *sent = await sender.send([bad, *good])
        assert isinstance(failed, DeliveryFailed)
        assert all(isinstance(outcome, RecordMetadata) for outcome in sent), sent


async def test_message_that_fails_two_clients_fails(
    kafka_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a message that cannot be encoded would be retried forever."""

    def fail(*args: Any) -> Any:
        raise ValueError("each time")

    topic = await kafka_rig.topic(1)
    async with kafka_rig.sender() as sender:
        await sender.client.partition_count(topic, 5.0)
        with monkeypatch.context() as context, trio.fail_after(30):
            context.setattr(ClientSender, "_create_produce_requests", fail)
            (failed,) = await sender.send([outgoing(topic, partition=0)])
        assert isinstance(failed, DeliveryFailed)
        assert "each time" in str(failed)
        (sent,) = await sender.send([outgoing(topic, partition=0)])
        assert isinstance(sent, RecordMetadata)


# Transactions.


async def test_transaction_of_failed_client_is_aborted(kafka_rig: Rig) -> None:
    topic = await kafka_rig.topic(1)
    settings = {"transactional_id": kafka_rig.name(), "transaction_timeout": 10.0}
    async with kafka_rig.sender(**settings) as sender:
        await sender.client.begin()
        await sender.send([outgoing(topic, partition=0, value=b"undone")])
        before_a_request(client_of(sender), struct.error("too large"))
        with trio.fail_after(30):
            (failed,) = await sender.send([outgoing(topic, partition=0, value=b"never sent")])
            assert isinstance(failed, DeliveryFailed)
            with pytest.raises(TransactionAborted):
                await sender.client.commit(5.0)
            await sender.client.abort(5.0)
            await sender.client.begin()
            await sender.send([outgoing(topic, partition=0, value=b"done")])
            await sender.client.commit(5.0)
    async with kafka_rig.member([topic]) as reader:
        assert [record.value for _, record in await reader.take(1)] == [b"done"]


async def test_commit_whose_answer_fails_client_is_unknown_at_once(kafka_rig: Rig) -> None:
    topic = await kafka_rig.topic(1)
    settings = {"transactional_id": kafka_rig.name(), "transaction_timeout": 10.0}
    async with kafka_rig.sender(**settings) as sender:
        await sender.client.begin()
        await sender.send([outgoing(topic, partition=0, value=b"1")])
        once(client_of(sender)._transaction_manager, "_complete_transaction", ValueError("no"))
        with trio.fail_after(30):
            with pytest.raises(CommitUnknown):
                await sender.client.commit(60.0)
            await sender.client.abort(5.0)
    async with kafka_rig.member([topic]) as reader:
        assert [record.value for _, record in await reader.take(1)] == [b"1"]
