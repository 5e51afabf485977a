"""Fetches that the client returns encoded: their bound, and the offset in errors about them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import kafka.errors
import pytest
from kafka import TopicPartition

from transport.drivers.kafka.records.choice import codec_for
from transport.drivers.kafka.unpacking import keep_encoded
from transport.errors import UnreadableBatch

LIMIT = 1 << 20
CODEC, _ = codec_for("auto")


def test_fetches_that_wait_for_a_resume_are_bounded() -> None:
    parked = {
        TopicPartition("t", number): SimpleNamespace(
            partition_data=SimpleNamespace(records=bytes(1000) if number else None)
        )
        for number in range(10)
    }
    fetcher = SimpleNamespace(
        _parse_fetched_data=None,
        fetched_records=lambda: ({}, False),
        _paused_completed_fetches=parked,
    )
    keep_encoded(SimpleNamespace(_fetcher=fetcher), CODEC, LIMIT, waiting=4500)
    assert fetcher.fetched_records() == ({}, False)
    assert [tp.partition for tp in parked] == [0, 1, 2, 3, 4]


def test_damage_reported_by_broker_is_error_with_its_offset() -> None:
    def parse(fetch: Any) -> None:
        raise kafka.errors.CorruptRecordError("Unexpected error while fetching data")

    fetcher = SimpleNamespace(_parse_fetched_data=parse, fetched_records=None)
    keep_encoded(SimpleNamespace(_fetcher=fetcher), CODEC, LIMIT, waiting=LIMIT)
    fetch = SimpleNamespace(topic_partition=TopicPartition("t", 0), fetched_offset=7)
    with pytest.raises(UnreadableBatch, match=r"t-0 offset 7: .*fetching data"):
        fetcher._parse_fetched_data(fetch)
