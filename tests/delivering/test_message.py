"""The attributes of messages and batches, and messages with several holders."""

from __future__ import annotations

import attrs
import pytest

from tests.delivering.lanes import take_batch, take_one
from tests.records import FakeRecord
from transport.delivering.ledger import Lane, Ledger
from transport.fetched import FetchedRecords
from transport.message import Batch, Message


def put_one(ledger: Ledger, lane: Lane, record: FakeRecord) -> Message:
    """Return the message of a record."""
    ledger.put(FetchedRecords([record]))
    return take_one(lane)


def put_batch(ledger: Ledger, lane: Lane, count: int) -> Batch:
    """Return a batch of `count` messages, whose keys and values contain the offset."""
    records = [FakeRecord(i, key=b"key %d" % i, value=b"value %d" % i) for i in range(count)]
    ledger.put(FetchedRecords(records))
    return take_batch(lane, count)


@pytest.mark.parametrize(
    ("timestamp", "seconds"), [(None, None), (-1, None), (0, 0.0), (1, 0.001), (1500, 1.5)]
)
def test_a_record_without_a_time_has_no_timestamp(
    ledger: Ledger, lane: Lane, timestamp: int | None, seconds: float | None
) -> None:
    record = attrs.evolve(FakeRecord(0), timestamp=timestamp)
    assert put_one(ledger, lane, record).timestamp == seconds


@pytest.mark.parametrize(("type_", "expected"), [(None, 0), (0, 0), (1, 1)])
def test_timestamp_type_defaults_to_the_clock_of_the_producer(
    ledger: Ledger, lane: Lane, type_: int | None, expected: int
) -> None:
    record = attrs.evolve(FakeRecord(0), timestamp_type=type_)
    assert put_one(ledger, lane, record).timestamp_type == expected


@pytest.mark.parametrize("n", [0, -1, True, 0.5])
def test_incref_and_decref_refuse_all_but_positive_whole_numbers(
    ledger: Ledger, lane: Lane, n: int
) -> None:
    message = put_one(ledger, lane, FakeRecord(0))
    with pytest.raises((TypeError, ValueError)):
        message.incref(n)
    with pytest.raises((TypeError, ValueError)):
        message.decref(n)
    assert message.refcount == 1


def test_decref_can_remove_several_holders(ledger: Ledger, lane: Lane) -> None:
    message = put_one(ledger, lane, FakeRecord(0))
    message.incref(2)
    assert not message.decref(2)
    assert not message.acked
    assert message.decref()
    assert message.acked


@pytest.mark.parametrize("are_made", [False, True])
def test_a_batch_has_the_keys_values_and_records_of_its_messages(
    ledger: Ledger, lane: Lane, are_made: bool
) -> None:
    batch = put_batch(ledger, lane, 2)
    if are_made:
        assert [message.offset for message in batch] == [0, 1]
    assert batch.keys() == [b"key 0", b"key 1"]
    assert batch.values() == [b"value 0", b"value 1"]
    assert [record.offset for record in batch.records] == [0, 1]


def test_a_batch_without_a_left_out_message_has_the_others(ledger: Ledger, lane: Lane) -> None:
    batch = put_batch(ledger, lane, 3)
    batch.messages = batch[:2]
    assert len(batch) == 2
    assert batch.values() == [b"value 0", b"value 1"]


def test_weights_of_messages_add_up_to_the_weight_of_their_batch(
    ledger: Ledger, lane: Lane
) -> None:
    batch = put_batch(ledger, lane, 3)
    batch.weight = 11
    assert [message.weight for message in batch] == [5, 3, 3]


def test_the_messages_of_an_acked_batch_are_acked(ledger: Ledger, lane: Lane) -> None:
    batch = put_batch(ledger, lane, 2)
    assert batch.ack()
    assert [(message.acked, message.refcount) for message in batch] == [(True, 0), (True, 0)]
    assert list(batch.open_messages()) == []
    with pytest.raises(ValueError, match="no holder"):
        batch[0].incref()


def test_a_message_of_a_batch_is_open_until_its_own_ack(ledger: Ledger, lane: Lane) -> None:
    first, second = batch = put_batch(ledger, lane, 2)
    assert list(ledger.unacked) == [first, second]
    first.ack()
    assert [message.is_open for message in (first, second)] == [False, True]
    assert list(batch.open_messages()) == list(ledger.unacked) == [second]


def test_no_message_of_a_batch_is_open_after_its_epoch(ledger: Ledger, lane: Lane) -> None:
    first, _ = put_batch(ledger, lane, 2)
    ledger.shut()
    assert not first.is_open


def test_unacked_messages_of_a_batch_are_made_for_the_ledger(ledger: Ledger, lane: Lane) -> None:
    batch = put_batch(ledger, lane, 2)
    assert list(ledger.unacked) == list(batch)
    assert [message.offset for message in batch] == [0, 1]
