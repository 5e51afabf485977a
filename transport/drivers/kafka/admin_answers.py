"""The translation of kafka-python's answers into the values of `Admin`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import kafka.errors

from transport.drivers.admin import (
    Config,
    GroupDescription,
    GroupListing,
    GroupMember,
    Node,
    Partition,
    TopicDescription,
)
from transport.drivers.kafka.errors import of_a_call
from transport.errors import AuthorizationFailed, TransportError, UnknownTopic
from transport.types import TP

_NOBODY = -1
_NO_RIGHT = kafka.errors.GroupAuthorizationFailedError.errno
# Errors whose cause is an argument of the call.
_ARGUMENTS = (
    kafka.errors.TopicAlreadyExistsError,
    kafka.errors.InvalidPartitionsError,
    kafka.errors.InvalidReplicationFactorError,
    kafka.errors.InvalidReplicationAssignmentError,
    kafka.errors.InvalidConfigurationError,
    kafka.errors.InvalidTopicError,
)


def check(subject: str, code: int, message: str | None) -> None:
    """Raise the transport's error for an error code of the broker; 0: there is no error.

    Raises ValueError if the cause is an argument.
    """
    kind = kafka.errors.for_code(code)
    if kind is kafka.errors.NoError:
        return
    if kind is kafka.errors.UnknownTopicOrPartitionError:
        raise UnknownTopic(f"{subject}: there is no such topic")
    if issubclass(kind, kafka.errors.AuthorizationError):
        raise AuthorizationFailed(f"{subject}: this client has no right to do that")
    text = f"{subject}: {message or _in_words(kind)}"
    if issubclass(kind, _ARGUMENTS):
        raise ValueError(text)
    raise type(of_a_call(kind("")))(text)


def _in_words(kind: type[Exception]) -> str:
    description = getattr(kind, "description", "")
    return str(description).rstrip(".") or kind.__name__


def node_of(broker: Mapping[str, Any]) -> Node:
    return Node(broker["broker_id"], broker["host"], broker["port"], broker.get("rack"))


def rights_of(answer: Mapping[str, Any]) -> frozenset[str] | None:
    rights = answer.get("authorized_operations")
    return None if rights is None else frozenset(rights)


def topic_of(topic: Mapping[str, Any]) -> TopicDescription:
    """Return the description of a topic. Raises UnknownTopic, AuthorizationFailed."""
    check(f"the topic {topic['name']!r}", topic["error_code"], None)
    partitions = (
        Partition(
            each["partition_index"],
            None if each["leader_id"] == _NOBODY else each["leader_id"],
            tuple(each["replica_nodes"]),
            tuple(each["isr_nodes"]),
        )
        for each in topic["partitions"]
    )
    in_order = tuple(sorted(partitions, key=lambda each: each.number))
    id = topic.get("topic_id")
    return TopicDescription(
        topic["name"],
        bool(topic["is_internal"]),
        in_order,
        rights_of(topic),
        None if id is None else str(id),
    )


def configs_of(configs: Mapping[str, Mapping[str, Any]]) -> list[Config]:
    return [
        Config(
            name,
            None if each["is_sensitive"] else each["value"],
            each["config_source"] != "DYNAMIC_TOPIC_CONFIG",
            bool(each["read_only"]),
        )
        for name, each in sorted(configs.items())
    ]


def listings_of(groups: Iterable[Mapping[str, Any]]) -> list[GroupListing]:
    listings = (
        GroupListing(
            each["group_id"], each.get("group_state") or "", (each.get("group_type") or "").lower()
        )
        for each in groups
    )
    return sorted(listings, key=lambda each: each.id)


def group_of(group: Mapping[str, Any]) -> GroupDescription | None:
    """Return the description of a group; None: there is no group with the classic protocol.

    Raises TransportError, AuthorizationFailed.
    """
    if group["error"]:
        if "GroupAuthorizationFailed" in group["error"]:
            check(f"the group {group['group_id']!r}", _NO_RIGHT, None)
        if "GroupIdNotFound" not in group["error"]:
            raise TransportError(f"the group {group['group_id']!r}: {group['error']}")
        return None
    members = tuple(_member_of(member) for member in group["members"])
    assignor = group["protocol_data"] or ""
    return GroupDescription(
        group["group_id"], group["group_state"], assignor, members, rights_of(group)
    )


def _member_of(member: Mapping[str, Any]) -> GroupMember:
    assignment = member["member_assignment"]
    # Bytes: the client could not decode them, or the member has none yet.
    topics = assignment["assigned_partitions"] if isinstance(assignment, Mapping) else ()
    assigned = frozenset(
        TP(topic["topic"], partition) for topic in topics for partition in topic["partitions"]
    )
    return GroupMember(
        member["member_id"],
        member["client_id"],
        member["client_host"].removeprefix("/"),
        member.get("group_instance_id"),
        assigned,
    )
