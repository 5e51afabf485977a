"""The offset at which the Kafka driver continues in a truncated log."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import kafka.errors
import pytest
import trio
from kafka import OffsetAndMetadata, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.consumer.subscription_state import SubscriptionState, TopicPartitionState

from tests.drivers.rig import Rig
from tests.records import fetched as fetched_of
from transport.drivers.base import Reset
from transport.drivers.kafka.starts import Starts
from transport.drivers.settings import ClientSettings
from transport.errors import OffsetOutOfRange
from transport.types import TP


@pytest.mark.parametrize(
    ("policy", "place", "held", "sought"),
    [
        ("earliest", 7, None, 7),
        ("latest", 7, None, 7),
        ("earliest", 7, 5, 5),  # the records held from 5 on were not delivered: fetched again
        ("earliest", 7, 8, 7),
        ("earliest", None, 5, -2),  # the broker does not know the place: the policy applies
        ("latest", None, None, -1),
    ],
)
def test_truncated_log_continues_at_divergent_offset(
    policy: str, place: int | None, held: int | None, sought: int
) -> None:
    consumer, partition = bare_consumer(), TopicPartition("t", 0)
    tp = TP("t", 0)
    starts = Starts(ClientSettings(group_id="g", auto_offset_reset=policy), lambda: None)
    starts.attach(consumer)
    state = consumer._subscription.assignment[partition]
    state.seek(OffsetAndMetadata(9, "", 0))
    where = None if place is None else OffsetAndMetadata(place, "", 1)
    fetched = {} if held is None else {tp: [fetched_of(held)]}
    starts.serve(kafka.errors.LogTruncationError({partition: where}), ["t"], fetched)
    assert not fetched
    if place is None:
        assert (state.position, state.reset_strategy) == (None, sought)
        consumer._subscription.set_reset_pending([partition], 0.0)
        consumer._fetcher._reset_offset_if_needed(partition, sought, 4)
        sought = 4
    assert state.position.offset == sought
    assert list(starts.resets) == [Reset(tp, 9, sought, False, policy == "latest")]


def test_an_answer_for_an_old_topic_does_not_start_the_new_one() -> None:
    """Both topics begin at the start of their logs, which is another offset."""
    consumer, partition = bare_consumer(), TopicPartition("t", 0)
    subscription = consumer._subscription
    starts = Starts(ClientSettings(group_id="g", auto_offset_reset="earliest"), lambda: None)
    starts.attach(consumer)
    starts.begin_at_the_start([TP("t", 0)])
    subscription.set_reset_pending([partition], 0.0)
    subscription.assignment[partition] = TopicPartitionState()  # as in `begin_anew`
    starts.begin_at_the_start([TP("t", 0)])
    consumer._fetcher._reset_offset_if_needed(partition, -2, 500)
    assert subscription.assignment[partition].position is None
    assert subscription.partitions_needing_reset() == {partition}
    subscription.set_reset_pending([partition], 0.0)
    consumer._fetcher._reset_offset_if_needed(partition, -2, 0)
    assert subscription.assignment[partition].position.offset == 0


def test_truncated_log_ends_reading_with_policy_error() -> None:
    starts = Starts(ClientSettings(group_id="g", auto_offset_reset="error"), lambda: None)
    consumer = bare_consumer()
    starts.attach(consumer)
    consumer._subscription.seek(TopicPartition("t", 0), OffsetAndMetadata(9, "", 0))
    cut_off = kafka.errors.LogTruncationError({TopicPartition("t", 0): None})
    with pytest.raises(OffsetOutOfRange, match=r"t-0: offset 9 is not in the log.*seek") as raised:
        starts.serve(cut_off, ["t"], {})
    assert raised.value.partitions == {TP("t", 0)}


@pytest.mark.parametrize("policy", ["latest", "error"])
@pytest.mark.parametrize("place", [None, OffsetAndMetadata(7, "", 1)])
@pytest.mark.parametrize("start", [None, 3, 9])
def test_a_new_start_is_not_moved_by_an_earlier_truncation(
    start: int | None, place: OffsetAndMetadata | None, policy: str
) -> None:
    """The partition was sought or assigned again after the answer of the broker."""
    consumer, partition = bare_consumer(), TopicPartition("t", 0)
    starts = Starts(ClientSettings(group_id="g", auto_offset_reset=policy), lambda: None)
    starts.attach(consumer)
    state = consumer._subscription.assignment[partition]
    if start is not None:
        state.seek(start)
    before = state.position
    starts.serve(kafka.errors.LogTruncationError({partition: place}), ["t"], {})
    assert (state.position, state.reset_strategy) == (before, None)
    assert not starts.resets


@pytest.mark.kafka
async def test_a_seek_after_a_truncation_keeps_its_offset(kafka_rig: Rig) -> None:
    topic = await kafka_rig.topic(1)
    tp = TP(topic, 0)
    async with kafka_rig.sender() as sender, kafka_rig.member([topic]) as member:
        await sender.fill(topic, 5, partitions=1)
        await member.take(5)
        fetcher = member.client._consumer._fetcher  # type: ignore[attr-defined]
        fetcher._cached_log_truncation = kafka.errors.LogTruncationError(
            {TopicPartition(*tp): OffsetAndMetadata(3, "", 0)}
        )
        await member.client.seek(tp, 1)
        with trio.fail_after(20):
            assert [record.offset for _, record in await member.take(4)] == [1, 2, 3, 4]


def bare_consumer() -> Any:
    """Return a consumer with the position of one partition, which makes no requests."""
    subscription = SubscriptionState("none")
    subscription.assign_from_user([TopicPartition("t", 0)])
    fetcher = SimpleNamespace(
        _subscriptions=subscription, _send_list_offsets_request=lambda *_: None
    )
    fetcher._reset_offset_if_needed = functools.partial(Fetcher._reset_offset_if_needed, fetcher)
    return SimpleNamespace(_subscription=subscription, _fetcher=fetcher)
