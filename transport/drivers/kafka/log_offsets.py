"""Queries for the offsets of logs: their beginnings, their ends, and the records of a time.

They run on the client's own loop, as those of `queries.py`. They create no topic. The client's own
calls would add the topic to the metadata that the client requests again and again, also after the
topic is deleted.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import kafka.errors
import trio
from kafka import TopicPartition
from kafka.protocol.consumer import OffsetSpec

from transport.drivers.kafka.queries import NOBODY, ask, leaders_of, pause
from transport.errors import UnknownTopic
from transport.excerpt import listed
from transport.types import TP

_NOT_NOW = (kafka.errors.RetriableError, kafka.errors.UnknownBrokerIdError)


async def log_ends(
    consumer: Any, tps: Collection[TP], timeout: float, *, first: bool
) -> dict[TP, int]:
    """Return the first offset of each log, or the one after its last.

    Raises UnknownTopic, AuthorizationFailed. BrokerUnavailable: not all of them were known within
    `timeout` seconds.
    """
    place = OffsetSpec.EARLIEST if first else OffsetSpec.LATEST
    what = "first" if first else "end"
    found = await _look_up(consumer, dict.fromkeys(tps, place), timeout, f"the {what} offsets")
    return {tp: offset for tp, (offset, _) in found.items()}


async def first_records_since(
    consumer: Any, times: Mapping[TP, int], timeout: float
) -> dict[TP, tuple[int, int]]:
    """Return offset and timestamp of the first record with the given or a later timestamp.

    Partitions without such a record are missing. Raises what `log_ends` raises.
    """
    found = await _look_up(consumer, times, timeout, "the offsets for times")
    # `starts.py` lets the client answer with the end of a log that has no such record. The end has
    # no timestamp.
    return {tp: (offset, at) for tp, (offset, at) in found.items() if at >= 0}


async def _look_up(
    consumer: Any, places: Mapping[TP, int], timeout: float, subject: str
) -> dict[TP, tuple[int, int]]:
    if not places:
        await trio.lowlevel.checkpoint()
        return {}
    return await ask(  # type: ignore[no-any-return]
        consumer._client,
        f"{subject} of {len(places)} partitions",
        _on_the_loop,
        consumer,
        places,
        timeout,
        timeout=timeout,
    )


async def _on_the_loop(
    consumer: Any, places: Mapping[TP, int], timeout: float
) -> dict[TP, tuple[int, int]]:
    """Ask the leaders, until each partition has an answer; return offsets and timestamps."""
    client, deadline = consumer._client, time.monotonic() + timeout
    known = {tp: client.cluster.leader_for_partition(TopicPartition(*tp)) for tp in places}
    leaders = {tp: leader for tp, leader in known.items() if leader not in NOBODY}
    left, found = dict(places), dict[TP, tuple[int, int]]()
    while True:
        if any(tp not in leaders for tp in left):
            asked = await leaders_of(client, sorted({tp.topic for tp in left}), deadline)
            if gone := [tp for tp in left if tp not in asked]:
                raise UnknownTopic(f"no such partition: {listed(sorted(gone))}")
            leaders = {tp: asked[tp] for tp in left if asked[tp] not in NOBODY}
        wanted = {tp: left[tp] for tp in left if tp in leaders}
        for tps, answer in _requests(consumer, wanted, leaders):
            with suppress(*_NOT_NOW):
                time_left = max(0.0, deadline - time.monotonic())
                offsets, again = await client._manager.wait_for(answer, time_left * 1000)
                for tp in tps:
                    if (place := TopicPartition(*tp)) in again:
                        continue
                    del left[tp]
                    if place in offsets:
                        found[tp] = offsets[place].offset, offsets[place].timestamp
        if not left:
            return found
        if time.monotonic() >= deadline:
            raise kafka.errors.KafkaTimeoutError
        leaders = {}
        client.cluster.request_update()  # a leader may have moved to a broker that is not known yet
        await pause(client, deadline)


def _requests(
    consumer: Any, wanted: Mapping[TP, int], leaders: Mapping[TP, int]
) -> list[tuple[list[TP], Any]]:
    """Send one request to each leader; return the partitions of each, and the future answer."""
    by_node: defaultdict[int, list[TP]] = defaultdict(list)
    for tp in wanted:
        by_node[leaders[tp]].append(tp)
    # `_fetcher`, `_send_list_offsets_request`: one request to one broker. -1: any leader epoch.
    fetcher = consumer._fetcher
    return [
        (
            tps,
            fetcher._manager.call_soon(
                fetcher._send_list_offsets_request,
                node,
                {TopicPartition(*tp): (wanted[tp], -1) for tp in tps},
            ),
        )
        for node, tps in by_node.items()
    ]


async def current_ends(consumer: Any, tps: Collection[TP], timeout: float) -> dict[TP, int]:
    """Return the offset after the last one of each log, as far as its leader answers in time.

    Each leader is asked once. A partition without a leader, or a deleted one, delays no other.
    """
    cluster = consumer._client.cluster
    known = {tp: cluster.leader_for_partition(TopicPartition(*tp)) for tp in tps}
    leaders = {tp: leader for tp, leader in known.items() if leader not in NOBODY}
    if not leaders:
        await trio.lowlevel.checkpoint()
        return {}
    return await ask(  # type: ignore[no-any-return]
        consumer._client,
        f"the end offsets of {len(leaders)} partitions",
        _current_ends,
        consumer,
        leaders,
        timeout,
        timeout=timeout,
    )


async def _current_ends(consumer: Any, leaders: Mapping[TP, int], timeout: float) -> dict[TP, int]:
    """Do the work of `current_ends`, on the client's loop."""
    deadline, found = time.monotonic() + timeout, dict[TP, int]()
    for _, answer in _requests(consumer, dict.fromkeys(leaders, OffsetSpec.LATEST), leaders):
        with suppress(kafka.errors.KafkaError):
            left = max(0.0, deadline - time.monotonic())
            ends, _ = await consumer._client._manager.wait_for(answer, left * 1000)
            found |= {TP(*tp): at.offset for tp, at in ends.items()}
    return found
