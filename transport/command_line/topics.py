"""The verb `topics`: list, describe, create, change and delete topics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from cyclopts import App, Parameter

from transport.command_line.connection import Connection
from transport.command_line.output import Json, print_fields, print_json, print_rows
from transport.command_line.usage import UsageError
from transport.drivers.admin import Admin, Config, TopicDescription
from transport.errors import AuthorizationFailed
from transport.types import TP

topics = App(name="topics", help="List, describe, create, change and delete topics.")


@topics.default
@topics.command(name="list")
async def list_topics(
    *, internal: bool = False, json: Json = False, connection: Connection = Connection()
) -> None:
    """List the topics, with their partitions and copies.

    Example: kafka-nursery topics list --json

    Parameters
    ----------
    internal:
        Also list internal topics, such as __consumer_offsets.
    """
    async with connection.admin() as admin:
        found = [topic for topic in await admin.topics() if internal or not topic.is_internal]
    print_rows(map(_summary, found), _SUMMARY, is_json=json)


_SUMMARY = ("topic", "partitions", "replicas", "out_of_sync", "without_leader")


def _summary(topic: TopicDescription) -> dict[str, Any]:
    return {
        "topic": topic.name,
        "partitions": len(topic.partitions),
        "replicas": max((len(each.replicas) for each in topic.partitions), default=0),
        "out_of_sync": sum(len(each.in_sync) < len(each.replicas) for each in topic.partitions),
        "without_leader": sum(each.leader is None for each in topic.partitions),
    }


@topics.command
async def describe(
    topic: str, /, *, json: Json = False, connection: Connection = Connection()
) -> None:
    """Describe a topic: its own configuration, and the offsets and copies of its partitions.

    Example: kafka-nursery topics describe orders

    Parameters
    ----------
    topic:
        The topic.
    """
    async with connection.admin() as admin:
        found = await admin.topic(topic)
        beginnings, ends = await admin.beginnings(found.tps), await admin.ends(found.tps)
        configs: Sequence[Config] | None = None
        with contextlib.suppress(AuthorizationFailed):
            configs = await admin.configs(topic)
    rows = [
        {
            "partition": each.number,
            "beginning": beginnings[TP(topic, each.number)],
            "end": ends[TP(topic, each.number)],
            "leader": each.leader,
            "replicas": each.replicas,
            "in_sync": each.in_sync,
        }
        for each in found.partitions
    ]
    own = None
    if configs is not None:
        own = {each.name: each.value for each in configs if not each.is_default}
    if json:
        print_json({"topic": topic, "configs": own, "partitions": rows})
        return
    shown = " ".join(f"{name}={value}" for name, value in (own or {}).items())
    print_fields({**_summary(found), "configs": "no right to see them" if own is None else shown})
    print_rows(rows, ("partition", "beginning", "end", "leader", "replicas", "in_sync"))


@topics.command
async def create(
    topic: str,
    /,
    *,
    partitions: Annotated[int | None, Parameter(name=("--partitions", "-p"))] = None,
    replication: Annotated[int | None, Parameter(name=("--replication", "-r"))] = None,
    config: Annotated[tuple[str, ...], Parameter(name=("--config", "-c"), negative="")] = (),
    json: Json = False,
    connection: Connection = Connection(),
) -> None:
    """Create a topic, and wait until it can be written. A topic that exists is an error.

    Example: kafka-nursery topics create orders --partitions 12 --config retention.ms=86400000

    Parameters
    ----------
    topic:
        The topic.
    partitions:
        The number of partitions. Without it, the broker chooses.
    replication:
        The number of copies of each partition. Without it, the broker chooses.
    config:
        A configuration as NAME=VALUE. May be repeated.
    """
    wanted = _assignments("--config", config)
    async with connection.admin() as admin:
        await admin.create_topic(topic, partitions, replication, wanted)
        await _print_changed(admin, topic, json)


@topics.command
async def delete(
    topic: str,
    /,
    *,
    yes: Annotated[bool, Parameter(name=("--yes", "-y"), negative="")] = False,
    json: Json = False,
    connection: Connection = Connection(),
) -> None:
    """Delete a topic with all its messages, and the offsets that groups have committed for it.

    Example: kafka-nursery topics delete orders.old --yes

    Parameters
    ----------
    topic:
        The topic.
    yes:
        Confirm it. Without this, nothing is deleted.
    """
    if not yes:
        raise UsageError(f"{topic!r} would be deleted with all its messages: confirm it with --yes")
    async with connection.admin() as admin:
        await admin.delete_topic(topic)
    if json:
        print_json({"topic": topic})


@topics.command
async def configs(
    topic: str,
    /,
    *,
    set: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    unset: Annotated[tuple[str, ...], Parameter(name="--unset", negative="")] = (),
    all: Annotated[bool, Parameter(name=("--all", "-a"), negative="")] = False,
    json: Json = False,
    connection: Connection = Connection(),
) -> None:
    """Print the configuration of a topic, after changes if some are given.

    Example: kafka-nursery topics configs orders --set retention.ms=86400000

    Parameters
    ----------
    topic:
        The topic.
    set:
        A configuration to set, as NAME=VALUE. May be repeated.
    unset:
        A configuration to return to the default of the broker. May be repeated.
    all:
        Also print those that have the default of the broker.
    """
    changes: dict[str, str | None] = {**_assignments("--set", set), **dict.fromkeys(unset)}
    async with connection.admin() as admin:
        if changes:
            await admin.set_configs(topic, changes)
        found = [each for each in await admin.configs(topic) if all or not each.is_default]
    print_rows(map(_config, found), ("config", "value", "is_default"), is_json=json)


def _config(config: Config) -> dict[str, Any]:
    return {"config": config.name, "value": config.value, "is_default": config.is_default}


@topics.command
async def partitions(
    topic: str, count: int, /, *, json: Json = False, connection: Connection = Connection()
) -> None:
    """Add partitions to a topic, until it has this number. Keys then change their partitions.

    Example: kafka-nursery topics partitions orders 24

    Parameters
    ----------
    topic:
        The topic.
    count:
        The number of partitions that the topic will have.
    """
    async with connection.admin() as admin:
        await admin.grow_topic(topic, count)
        await _print_changed(admin, topic, json)


async def _print_changed(admin: Admin, topic: str, is_json: bool) -> None:
    """With `--json`, print the topic as `list` does. Without it, a change prints nothing."""
    if is_json:
        print_json(_summary(await admin.topic(topic)))


def _assignments(option: str, texts: Iterable[str]) -> dict[str, str]:
    """Return texts of the form NAME=VALUE as a dict. Raises UsageError."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"{option} takes NAME=VALUE, not {text!r}")
        found[name] = value
    return found
