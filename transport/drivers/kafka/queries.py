"""Queries that run on the client's own loop, beside all other calls and beside each other.

A query on a worker's thread would wait for the call before it, and a commit behind it would wait
for the query. On the loop, no query waits for another call, and its timeout counts from the call
on. Look here for data from the broker that `poll` does not return: commits, topics and partitions.
The offsets of logs are in `log_offsets.py`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

import kafka.errors
import trio
from kafka import OffsetAndMetadata, TopicPartition
from kafka.admin import ConfigResourceType
from kafka.future import Future
from kafka.protocol.admin import DescribeConfigsRequest
from kafka.protocol.metadata import MetadataRequest

from transport.drivers.kafka.workarounds.stale_offsets import fetch_anew
from transport.errors import AuthorizationFailed, BrokerUnavailable, ClientClosed, UnknownTopic
from transport.excerpt import listed
from transport.types import TP, is_topic_name

# Extra seconds beyond the query's own bound, so that its more specific error wins.
_MARGIN = 1.0
# Seconds between two tries, as in the client's own queries.
_PAUSE = 0.1
# The client's values for the leader of a partition without one.
NOBODY = (None, -1)
UNKNOWN = kafka.errors.UnknownTopicOrPartitionError
REFUSED = kafka.errors.AuthorizationError


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


async def committed_offsets(
    consumer: Any, tps: Collection[TP], timeout: float
) -> dict[TP, OffsetAndMetadata]:
    """Return the group's committed offsets, without the partitions that have none.

    Raises BrokerUnavailable: no answer within `timeout` seconds.
    """
    if not tps:
        await trio.lowlevel.checkpoint()
        return {}
    # The public committed() blocks a thread, and makes one request for each partition.
    found = await ask(
        consumer._client,
        f"the committed offsets of {len(tps)} partitions",
        fetch_anew,
        consumer,
        [TopicPartition(*tp) for tp in tps],
        timeout * 1000,
        timeout=timeout,
    )
    return {TP(*tp): committed for tp, committed in found.items()}


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
    topics = await _described(client, None, time.monotonic() + timeout)
    return frozenset(
        topic.name
        for topic in topics
        if topic.error_code == kafka.errors.NoError.errno
        and not topic.is_internal
        and is_topic_name(topic.name)  # requests, logs and errors contain the name
    )


async def partitions_of(client: Any, topic: str, timeout: float) -> frozenset[TP]:
    """Return the partitions of a topic. Creates no topic, and leaves the metadata unchanged.

    Raises what `leaders_of` raises. BrokerUnavailable: no answer within `timeout` seconds.
    """
    leaders = await ask(client, f"topic {topic}", _leaders, client, topic, timeout, timeout=timeout)
    return frozenset(leaders)


async def settings_of(client: Any, topic: str, timeout: float) -> dict[str, str]:
    """Return the settings of a topic by name; empty: this client may not see them.

    Raises UnknownTopic. BrokerUnavailable: no answer within `timeout` seconds.
    """
    return await ask(  # type: ignore[no-any-return]
        client, f"the settings of {topic}", _settings, client, topic, timeout, timeout=timeout
    )


async def _settings(client: Any, topic: str, timeout: float) -> dict[str, str]:
    """Do the work of `settings_of`, on the client's loop."""
    deadline, manager = time.monotonic() + timeout, client._manager
    while (left := deadline - time.monotonic()) > 0:
        request = DescribeConfigsRequest(
            resources=[(ConfigResourceType.TOPIC, topic, None)], include_synonyms=False
        )
        with suppress(kafka.errors.RetriableError, kafka.errors.UnknownBrokerIdError):
            answer = await manager.wait_for(manager.send(request), left * 1000)
            (found,) = answer.results
            error = kafka.errors.for_code(found.error_code)
            if error is UNKNOWN:
                raise UnknownTopic(f"no such topic: {topic}")
            if issubclass(error, REFUSED):
                return {}
            if error is kafka.errors.NoError:
                return {each.name: each.value for each in found.configs if each.value is not None}
        await pause(client, deadline)
    raise kafka.errors.KafkaTimeoutError


async def _leaders(client: Any, topic: str, timeout: float) -> dict[TP, int]:
    return await leaders_of(client, [topic], time.monotonic() + timeout)


async def leaders_of(client: Any, topics: Collection[str], deadline: float) -> dict[TP, int]:
    """Return the leader of each partition of these topics, on the client's loop.

    A partition that has no leader now has a value of `NOBODY`. Creates no topic, and leaves the
    client's metadata unchanged.

    Args:
        deadline: by the monotonic clock, in seconds.

    Raises:
        UnknownTopic: a topic does not exist; the text names all of them.
        AuthorizationFailed: this client may not see a topic.
        KafkaTimeoutError: no answer before the deadline.
    """
    if invalid := [topic for topic in topics if not is_topic_name(topic)]:
        raise UnknownTopic(f"not a topic's name: {', '.join(map(repr, invalid))}")
    while True:
        described = {each.name: each for each in await _described(client, topics, deadline)}
        errors = {name: kafka.errors.for_code(described[name].error_code) for name in described}
        refused = [name for name in errors if issubclass(errors[name], REFUSED)]
        if refused:
            raise AuthorizationFailed(f"this app may not see {listed(sorted(refused))}")
        if gone := [name for name in topics if errors.get(name, UNKNOWN) is UNKNOWN]:
            raise UnknownTopic(f"no such topic: {listed(sorted(gone))}")
        if not any(issubclass(error, kafka.errors.RetriableError) for error in errors.values()):
            return {
                TP(name, partition.partition_index): partition.leader_id
                for name in topics
                for partition in described[name].partitions
            }
        await pause(client, deadline)  # a topic that was just created


async def _described(client: Any, topics: Collection[str] | None, deadline: float) -> Sequence[Any]:
    """Return a broker's answer about topics, on the client's loop. None: about all topics."""
    manager = client._manager
    while (left := deadline - time.monotonic()) > 0:
        request = MetadataRequest(
            topics=MetadataRequest.ALL_TOPICS
            if topics is None
            else [MetadataRequest.MetadataRequestTopic(name=topic) for topic in topics],
            allow_auto_topic_creation=False,
            include_cluster_authorized_operations=False,
            include_topic_authorized_operations=False,
        )
        with suppress(kafka.errors.RetriableError, kafka.errors.UnknownBrokerIdError):
            answer = await manager.wait_for(manager.send(request), left * 1000)
            return answer.topics  # type: ignore[no-any-return]
        await pause(client, deadline)
    raise kafka.errors.KafkaTimeoutError


async def pause(client: Any, deadline: float) -> None:
    """Wait before the next try of a query, on the client's loop, but not beyond the deadline."""
    # `_net`: a coroutine of the loop can sleep only through the loop.
    await client._manager._net.sleep(max(0.0, min(_PAUSE, deadline - time.monotonic())))


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
