"""Queries that run on the client's own loop, beside all other calls and beside each other.

A query on a worker's thread would wait for the call before it, and a commit behind it would wait
for the query. On the loop, no query waits for another call, and its timeout counts from the call
on. Look here for data from the broker that `poll` does not return: offsets, commits and topics.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Any

import kafka.errors
import trio
from kafka import TopicPartition
from kafka.future import Future
from kafka.protocol.consumer import OffsetSpec
from kafka.protocol.metadata import MetadataRequest

from transport.errors import BrokerUnavailable, ClientClosed
from transport.types import TP, is_topic_name

# Extra seconds beyond the query's own bound, so that its more specific error wins.
_MARGIN = 1.0
# Seconds between two tries, as in the client's own queries.
_PAUSE = 0.1
# The client's values for the leader of a partition without one.
_NOBODY = (None, -1)


@trio.lowlevel.enable_ki_protection
async def ask(
    client: Any, subject: str, query: Callable[..., Awaitable[Any]], *args: Any, timeout: float
) -> Any:
    """Run a coroutine function on the client's loop and return its value.

    Args:
        client: the KafkaNetClient of a consumer or producer.
        subject: the object of the query, for the error.
        query: the coroutine function. It applies `timeout` itself.
        timeout: seconds that `query` takes at most.

    Raises:
        BrokerUnavailable: no answer within `timeout`, or no answer of the loop a second later.
        ClientClosed: the loop was closed.
        Any other error of `query`.

    A checkpoint. Cancelled: only the waiting ends.
    """
    # `_manager`: the one way to run something on the client's loop.
    try:
        future = client._manager.call_soon(query, *args)
    except RuntimeError:
        raise ClientClosed("the client was closed") from None
    try:
        with trio.move_on_after(timeout + _MARGIN):
            return await _landed(client, future)
    except kafka.errors.KafkaTimeoutError as error:  # whose text is empty
        raise BrokerUnavailable(f"no broker returned {subject} within {timeout:g} s") from error
    raise BrokerUnavailable(f"the client did not look up {subject} within {timeout:g} s")


async def log_ends(
    consumer: Any, tps: Collection[TP], timeout: float, *, first: bool
) -> dict[TP, int]:
    """Return the first offset of each log, or the one after its last.

    Raises BrokerUnavailable: not all of them were known within `timeout` seconds.
    """
    if not tps:
        await trio.lowlevel.checkpoint()
        return {}
    # `_fetcher`: the public beginning_offsets() and end_offsets() block a thread on this coroutine.
    # The coroutine removes entries from its argument.
    spec = OffsetSpec.EARLIEST if first else OffsetSpec.LATEST
    wanted = {TopicPartition(*tp): spec for tp in tps}
    found = await ask(
        consumer._client,
        f"the {'first' if first else 'end'} offsets of {len(wanted)} partitions",
        consumer._fetcher._fetch_offsets_by_times_async,
        wanted,
        timeout * 1000,
        timeout=timeout,
    )
    return {TP(*tp): at.offset for tp, at in found.items()}


async def current_ends(consumer: Any, tps: Collection[TP], timeout: float) -> dict[TP, int]:
    """Return the offset after the last one of each log, as far as its leader answers in time.

    Each leader is asked once. A partition without a leader, or a deleted one, delays no other.
    """
    # `_fetcher`: the public end_offsets() answers for all of its partitions or for none.
    fetcher, cluster = consumer._fetcher, consumer._client.cluster
    wanted = {TopicPartition(*tp): OffsetSpec.LATEST for tp in tps}
    led = {tp: at for tp, at in wanted.items() if cluster.leader_for_partition(tp) not in _NOBODY}
    if not led:
        await trio.lowlevel.checkpoint()
        return {}
    found = await ask(
        consumer._client,
        f"the end offsets of {len(led)} partitions",
        _current_ends,
        fetcher,
        led,
        timeout,
        timeout=timeout,
    )
    return {TP(*tp): at.offset for tp, at in found.items()}


async def _current_ends(fetcher: Any, wanted: dict[Any, int], timeout: float) -> dict[Any, Any]:
    """Do the work of `current_ends`, on the client's loop."""
    manager, deadline = fetcher._manager, time.monotonic() + timeout
    # `_group_list_offset_requests`, `_send_list_offsets_request`: one request to one broker.
    answers = [
        manager.call_soon(fetcher._send_list_offsets_request, node, places)
        for node, places in fetcher._group_list_offset_requests(wanted).items()
    ]
    found: dict[Any, Any] = {}
    for answer in answers:
        with suppress(kafka.errors.KafkaError):
            left = max(0.0, deadline - time.monotonic())
            ends, _ = await manager.wait_for(answer, left * 1000)
            found |= ends
    return found


async def committed_offsets(consumer: Any, tps: Collection[TP], timeout: float) -> dict[TP, int]:
    """Return the group's committed offsets, without the partitions that have none.

    Raises BrokerUnavailable: no answer within `timeout` seconds.
    """
    if not tps:
        await trio.lowlevel.checkpoint()
        return {}
    # `_coordinator`: the public committed() blocks a thread, and makes one request for each
    # partition.
    found = await ask(
        consumer._client,
        f"the committed offsets of {len(tps)} partitions",
        consumer._coordinator.fetch_committed_offsets_async,
        [TopicPartition(*tp) for tp in tps],
        timeout * 1000,
        timeout=timeout,
    )
    return {TP(*tp): committed.offset for tp, committed in found.items()}


async def all_topics(client: Any, timeout: float) -> frozenset[str]:
    """Return the names of all topics that this client may see, without the internal ones.

    Raises BrokerUnavailable: no answer within `timeout` seconds.

    The client's metadata stays unchanged. The public topics() has no bound, and makes the client
    remember every topic of the cluster.
    """
    return await ask(  # type: ignore[no-any-return]
        client, "the topics", _all_topics, client, timeout, timeout=timeout
    )


async def _all_topics(client: Any, timeout: float) -> frozenset[str]:
    """Do the work of `all_topics`, on the client's loop."""
    manager, deadline = client._manager, time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        request = MetadataRequest(
            topics=MetadataRequest.ALL_TOPICS,
            allow_auto_topic_creation=False,
            include_cluster_authorized_operations=False,
            include_topic_authorized_operations=False,
        )
        with suppress(kafka.errors.RetriableError, kafka.errors.UnknownBrokerIdError):
            answer = await manager.wait_for(manager.send(request), left * 1000)
            return frozenset(
                topic.name
                for topic in answer.topics
                if topic.error_code == kafka.errors.NoError.errno
                and not topic.is_internal
                and is_topic_name(topic.name)  # requests, logs and errors contain the name
            )
        # `_net`: a coroutine of the loop can sleep only through the loop.
        await manager._net.sleep(max(0.0, min(_PAUSE, deadline - time.monotonic())))
    raise BrokerUnavailable(f"no broker returned the list of topics within {timeout:g} s")


async def _landed(client: Any, future: Future) -> Any:
    token = trio.lowlevel.current_trio_token()
    done = trio.Event()

    def wake(_: object) -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(done.set)

    future.add_both(wake)
    await done.wait()
    if future.exception is None:
        return future.value
    # `_net`, `_closed`: any error of a closed loop only means that it was closed.
    if isinstance(future.exception, Exception) and not client._net._closed:
        raise future.exception
    # Closing the loop throws GeneratorExit into its coroutines.
    raise ClientClosed("the client was closed") from None
