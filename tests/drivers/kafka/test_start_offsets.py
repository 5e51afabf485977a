"""The offset at which the Kafka driver continues in a truncated log, without a broker."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import kafka.errors
import pytest
from kafka import OffsetAndMetadata, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.consumer.subscription_state import SubscriptionState

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
    state.seek(9)
    where = None if place is None else OffsetAndMetadata(place, "", 1)
    fetched = {} if held is None else {tp: [fetched_of(held)]}
    starts.serve(kafka.errors.LogTruncationError({partition: where}), ["t"], fetched)
    assert not fetched
    if place is None:
        assert (state.position, state.reset_strategy) == (None, sought)
        consumer._fetcher._reset_offset_if_needed(partition, sought, 4)
        sought = 4
    assert state.position.offset == sought
    assert list(starts.resets) == [Reset(tp, 9, sought, False, policy == "latest")]


def test_truncated_log_ends_reading_with_policy_error() -> None:
    starts = Starts(ClientSettings(group_id="g", auto_offset_reset="error"), lambda: None)
    consumer = bare_consumer()
    starts.attach(consumer)
    consumer._subscription.seek(TopicPartition("t", 0), 9)
    cut_off = kafka.errors.LogTruncationError({TopicPartition("t", 0): None})
    with pytest.raises(OffsetOutOfRange, match=r"t-0: offset 9 is not in the log.*seek") as raised:
        starts.serve(cut_off, ["t"], {})
    assert raised.value.partitions == {TP("t", 0)}


def bare_consumer() -> Any:
    """Return a consumer with the position of one partition, which makes no requests."""
    subscription = SubscriptionState("none")
    subscription.assign_from_user([TopicPartition("t", 0)])
    fetcher = SimpleNamespace(
        _subscriptions=subscription, _send_list_offsets_request=lambda *_: None
    )
    fetcher._reset_offset_if_needed = functools.partial(Fetcher._reset_offset_if_needed, fetcher)
    return SimpleNamespace(_subscription=subscription, _fetcher=fetcher)
