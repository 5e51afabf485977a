"""The lookup of topics' partitions, on the client's own loop and beside all other calls.

The client's public calls for this block a thread for one topic at a time, or fetch the metadata of
all topics. This coroutine runs on the loop that owns the metadata. So it waits for any number of
topics at once, and a bad one delays no other.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Sequence
from typing import Any

import kafka.errors
import trio

from transport.drivers.kafka.queries import ask
from transport.drivers.kafka.waiting import Waiting
from transport.errors import AuthorizationFailed, BrokerUnavailable, UnknownTopic
from transport.excerpt import excerpt, listed

# Seconds after which a log line names the wait. A topic that the broker creates at the first
# request exists sooner.
SOON = 1.0


def known_partitions(cluster: Any, topic: str) -> Collection[int]:
    """Return a topic's partitions, as the client knows them now; else none. From any thread."""
    try:
        return cluster.partitions_for_topic(topic) or ()
    except KeyError:
        return ()  # the client reads twice, and its thread has removed the topic in between


def known_id(cluster: Any, topic: str) -> uuid.UUID | None:
    """Return the topic's id, as the client knows it now; None: not known. From any thread.

    For a topic that does not exist the broker answers with an id of zeros. Brokers before 2.8 have
    no ids.
    """
    topic_id = cluster.topic_id(topic)
    return topic_id if topic_id is not None and topic_id.int else None


async def partition_counts(
    client: Any,
    topics: Sequence[str],
    timeout: float,
    waiting: Waiting,
    absent: set[str] | None = None,
) -> dict[str, int]:
    """Return the number of partitions of each topic; the broker may create missing topics.

    Args:
        client: the KafkaNetClient of a consumer or producer.
        timeout: seconds.
        waiting: logs that the query waits, and for which topics.
        absent: gets the names of the topics that a broker did not know at first.

    Raises:
        UnknownTopic: some topics did not exist within the timeout; the text names them.
        BrokerUnavailable: no broker answered within the timeout.
        AuthorizationFailed: this client may not see one of the topics.

    A checkpoint. Cancelled: only the waiting ends.
    """
    known = {topic: known_partitions(client.cluster, topic) for topic in topics}
    if all(known.values()) and not _is_cut_off(client.cluster, waiting):
        await trio.lowlevel.checkpoint()
        return {topic: len(partitions) for topic, partitions in known.items()}
    # Only the loop may change the set of topics, which it iterates over for each request.
    wanted = (client, topics, timeout, waiting, absent)
    counts: dict[str, int] = await ask(client, listed(topics), _look_up, *wanted, timeout=timeout)
    return counts


async def _look_up(
    client: Any,
    topics: Sequence[str],
    timeout: float,
    waiting: Waiting,
    absent: set[str] | None = None,
) -> dict[str, int]:
    """Do the work of `partition_counts`, on the client's loop."""
    began = time.monotonic()
    cluster, deadline = client.cluster, began + timeout
    answered = is_logged = False
    while True:
        missing = [topic for topic in topics if not cluster.partitions_for_topic(topic)]
        cut_off = not missing and _is_cut_off(cluster, waiting)
        if not missing and not cut_off:
            waiting.present(topics)
            return {topic: len(cluster.partitions_for_topic(topic)) for topic in topics}
        if answered and absent is not None:
            absent.update(missing)
        # Only after an answer to this query: the right may have been granted since an earlier one.
        if answered and (refused := cluster.unauthorized_topics.intersection(missing)):
            _forget(cluster, missing)
            raise AuthorizationFailed(f"this app may not see {listed(sorted(refused))}")
        left = deadline - time.monotonic()
        if left <= 0:
            _forget(cluster, missing)
            if cut_off:
                raise BrokerUnavailable(f"no broker can be reached: {waiting.why()}")
            names = listed(missing)
            if answered:
                raise UnknownTopic(
                    f"no such topic: {names}; waited {timeout:g} s for it. Create it, or raise"
                    " connect_timeout"
                )
            why = waiting.why() or "no broker answered"
            raise BrokerUnavailable(
                f"no broker answered about topic {names} within {timeout:g} s: {why}"
            )
        if not is_logged and time.monotonic() - began >= SOON:
            is_logged = True
            if answered:
                waiting.absent(missing, timeout)  # empty if the brokers cannot be reached
            else:
                waiting.unanswered(missing, timeout)
        try:
            for topic in missing:
                cluster.add_topic(topic)
        except (TypeError, ValueError) as error:
            _forget(cluster, missing)
            raise UnknownTopic(excerpt(str(error))) from error
        try:
            # The client updates no sooner than retry_backoff_ms after its last update.
            await client._manager.wait_for(cluster.request_update(), _slice(left, is_logged) * 1000)
            answered = True
        except kafka.errors.BrokerResponseError:
            answered = True
        except kafka.errors.RetriableError:
            pass


def _is_cut_off(cluster: Any, waiting: Waiting) -> bool:
    """Return whether a given address answers, and no address that it advertises ever did."""
    return waiting.is_cut_off([f"{each.host}:{each.port}" for each in cluster.brokers()])


def _slice(left: float, is_logged: bool) -> float:
    """Return the seconds of the next wait: at first only until the log line is due."""
    return left if is_logged else min(left, SOON)


def _forget(cluster: Any, topics: Sequence[str]) -> None:
    # `_topics`: no public call removes a topic. As long as an unknown topic is in this set, the
    # client asks for it ten times a second and logs an error each time.
    for topic in topics:
        if not cluster.partitions_for_topic(topic):
            cluster._topics.discard(topic)
