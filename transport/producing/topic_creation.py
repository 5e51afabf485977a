"""The creation of topics: the request to the broker, and one request at a time for each topic.

Identical concurrent requests share one result. A different request for the same topic waits until
the request before it has ended, so that two requests never race.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import attrs
import trio

from transport.arguments import (
    MOST,
    MOST_OFFSET,
    MOST_SECONDS,
    flag,
    instance,
    or_none,
    seconds,
    text,
    topic_name,
    whole,
)
from transport.drivers.base import ProducerClient

# Kafka's protocol stores the number of replicas in 16 bits.
_MOST_REPLICAS = 2**15 - 1
# Kafka stores a topic's `retention.ms` in 64 bits.
_MOST_RETENTION = MOST_OFFSET // 1000


@attrs.frozen
class _Wanted:
    """The request to create a topic.

    Attributes:
        timeout: seconds for the broker's answer and for `wait`.
        wait: wait until the topic can be written to.
    """

    partitions: int
    replication: int
    config: Mapping[str, str]
    timeout: float
    wait: bool


@attrs.define(eq=False)
class _Creation:
    """A topic that is being created.

    Attributes:
        ended: set once the request has ended, or its caller was cancelled.
        is_done: the request has ended, with `error` if that is not None.
    """

    wanted: _Wanted
    ended: trio.Event = attrs.field(factory=trio.Event)
    is_done: bool = False
    error: Exception | None = None


class Creations:
    """The topics that one client is creating."""

    def __init__(self, client: ProducerClient) -> None:
        self._client = client
        self._running: dict[str, _Creation] = {}  # by topic

    async def create(
        self,
        topic: str,
        partitions: int,
        replication: int,
        *,
        config: Mapping[str, Any] | None,
        timeout: float | timedelta,
        retention: float | timedelta | None,
        compacting: bool | None,
        deleting: bool | None,
        ensure_created: bool,
    ) -> None:
        """Create a topic; see `Producer.create_topic`."""
        topic_name("topic", topic)
        partitions = whole(f"partitions of {topic!r}", partitions, least=1, most=MOST)
        replication = whole(f"replication of {topic!r}", replication, least=1, most=_MOST_REPLICAS)
        flag("ensure_created", ensure_created)
        texts = _config(config, retention, compacting, deleting)
        wanted = _Wanted(
            partitions,
            replication,
            texts,
            _seconds("timeout", timeout, MOST_SECONDS),
            ensure_created,
        )
        while (creation := self._running.get(topic)) is not None:
            await creation.ended.wait()
            if creation.is_done and creation.wanted == wanted:
                if creation.error is not None:
                    raise creation.error
                return
        await self._create(topic, _Creation(wanted))

    @trio.lowlevel.enable_ki_protection
    async def _create(self, topic: str, creation: _Creation) -> None:
        wanted = creation.wanted
        self._running[topic] = creation
        try:
            await self._client.create_topic(
                topic,
                wanted.partitions,
                wanted.replication,
                wanted.config,
                wanted.timeout,
                wait=wanted.wait,
            )
            creation.is_done = True
        except Exception as exc:
            creation.error = exc
            creation.is_done = True
            raise
        finally:
            del self._running[topic]
            creation.ended.set()


def _config(
    config: Mapping[str, Any] | None,
    retention: float | timedelta | None,
    compacting: bool | None,
    deleting: bool | None,
) -> dict[str, str]:
    """Return the topic's configuration as texts. The other arguments take precedence."""
    texts: dict[str, str] = {}
    if config is not None:
        instance("config", config, Mapping, 'a mapping such as {"retention.ms": 60000}')
        for name, value in config.items():
            text("each key of config", name)
            texts[name] = _text(name, value)
    or_none(flag, "compacting", compacting)
    or_none(flag, "deleting", deleting)
    if retention is not None:
        texts["retention.ms"] = str(round(_seconds("retention", retention, _MOST_RETENTION) * 1000))
    if policy := _cleanup_policy(compacting, deleting):
        texts["cleanup.policy"] = policy
    return texts


def _seconds(name: str, duration: float | timedelta, most: int) -> float:
    if isinstance(duration, timedelta):
        duration = duration.total_seconds()
    seconds(name, duration, most=most)
    return duration


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    instance(f"{name!r} in config", value, (str, int, float), "a str, a number or a bool")
    return str(value)


def _cleanup_policy(compacting: bool | None, deleting: bool | None) -> str:
    """Return the topic's `cleanup.policy`; "" for the default of the broker."""
    if compacting is None and deleting is None:
        return ""
    policies = [name for name, on in (("compact", compacting), ("delete", deleting)) if on]
    if not policies:
        raise ValueError(
            "a topic must compact or delete old records: set compacting or deleting to True"
        )
    return ",".join(policies)
