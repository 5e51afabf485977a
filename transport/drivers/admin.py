"""The contract of an admin client: questions and changes that are no part of sending or consuming.

The command line uses it. Each driver of the library has one. Every async call is a checkpoint, and
raises BrokerUnavailable, AuthorizationFailed, UnknownTopic, or TransportError for other refusals.
A change whose call was cancelled may be made or not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

import attrs

from transport.drivers.base import Driver
from transport.drivers.settings import ClientSettings
from transport.types import TP

# The states of a group in which it has no members and its offsets may be changed.
WITHOUT_MEMBERS = ("Empty", "Dead")


@attrs.frozen
class Node:
    """A broker, as the cluster advertises it."""

    id: int
    host: str
    port: int
    rack: str | None = None


@attrs.frozen
class Cluster:
    """The brokers of a cluster.

    Attributes:
        id: None: the cluster has none.
        version: of the broker that answered, such as "4.3".
        controller: the broker to which changes are sent; None: not known.
        rights: what this client may do with the cluster, such as "CREATE"; None: not known.
        clock: seconds since 1970 at the leader of the controllers; None: not known.
    """

    id: str | None
    version: str
    controller: int | None
    nodes: tuple[Node, ...]
    rights: frozenset[str] | None = None
    clock: float | None = None


@attrs.frozen
class Partition:
    """A partition and the brokers that have copies of it.

    Attributes:
        leader: None: there is none at the moment.
    """

    number: int
    leader: int | None
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


@attrs.frozen
class TopicDescription:
    """A topic with its partitions, in order.

    Attributes:
        id: another topic of the same name has another id; None: the broker has no ids.
        rights: what this client may do with the topic, such as "READ"; None: not known.
    """

    name: str
    is_internal: bool
    partitions: tuple[Partition, ...]
    rights: frozenset[str] | None = None
    id: str | None = None

    @property
    def tps(self) -> list[TP]:
        """The partitions, in order."""
        return [TP(self.name, partition.number) for partition in self.partitions]


@attrs.frozen
class Config:
    """A configuration of a topic.

    Attributes:
        value: None: it is not set, or secret.
        is_default: whether the topic has no value of its own.
    """

    name: str
    value: str | None
    is_default: bool
    is_read_only: bool = False


@attrs.frozen
class GroupListing:
    """A group in the list of all groups.

    Attributes:
        state: such as "Stable" or "Empty"; empty: the broker does not say.
        kind: "classic", "consumer" or another type; empty: the broker does not say.
    """

    id: str
    state: str
    kind: str


@attrs.frozen
class GroupMember:
    """A member of a group.

    Attributes:
        id: as the broker has named it.
        client_id: as the program has named it.
        instance_id: of a static member.
        assigned: the partitions that it has.
    """

    id: str
    client_id: str
    host: str
    instance_id: str | None
    assigned: frozenset[TP]

    @property
    def name(self) -> str:
        """The name that the program has given a static member, and otherwise the broker's."""
        return self.instance_id or self.id


@attrs.frozen
class GroupDescription:
    """A group with its members.

    Attributes:
        members: empty also if the broker does not name them, as for the protocol "consumer".
        assignor: how the members share the partitions; empty: not known.
        rights: what this client may do with the group; None: not known.
    """

    id: str
    state: str
    assignor: str
    members: tuple[GroupMember, ...]
    rights: frozenset[str] | None = None

    @property
    def has_members(self) -> bool:
        """Whether the group has members, also if they are not named."""
        return bool(self.members) or self.state not in WITHOUT_MEMBERS

    @property
    def owners(self) -> Mapping[TP, GroupMember]:
        """The member that has each assigned partition."""
        return {tp: member for member in self.members for tp in member.assigned}


class Admin(Protocol):
    """An admin client, which is open in its `async with` block."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    # Topics

    async def cluster(self) -> Cluster: ...

    async def topics(self) -> Sequence[TopicDescription]:
        """Return all topics that this client may see, internal ones as well, sorted by name."""

    async def topic(self, name: str) -> TopicDescription: ...

    async def configs(self, topic: str) -> Sequence[Config]:
        """Return all configurations of a topic, sorted by name."""

    async def set_configs(self, topic: str, changes: Mapping[str, str | None]) -> None:
        """Change configurations of a topic. None: return to the broker's default.

        Raises ValueError: a name or a value is not valid.
        """

    async def create_topic(
        self,
        name: str,
        partitions: int | None,
        replication: int | None,
        configs: Mapping[str, str],
    ) -> None:
        """Create a topic, and wait until it can be written.

        Args:
            partitions: None: the broker's default. The same for `replication`.

        Raises ValueError: the topic exists, or an argument is not valid.
        """

    async def delete_topic(self, name: str) -> None: ...

    async def grow_topic(self, name: str, partitions: int) -> None:
        """Add partitions to a topic until it has this number.

        Raises ValueError: the topic has as many or more.
        """

    # Offsets of logs

    async def beginnings(self, tps: Collection[TP]) -> dict[TP, int]: ...

    async def ends(self, tps: Collection[TP]) -> dict[TP, int]:
        """Return the high watermark of each log."""

    async def offsets_at(self, tps: Collection[TP], time: float) -> dict[TP, int]:
        """Return the offset of the first record since a time, in seconds since 1970.

        Partitions without such a record are missing.
        """

    # Groups

    async def groups(self) -> Sequence[GroupListing]:
        """Return all groups that this client may see, sorted by id."""

    async def group(self, id: str) -> GroupDescription:
        """Return a group. The state "Dead" with no members: there is no such group."""

    async def committed(self, group: str) -> dict[TP, int]:
        """Return all committed offsets of a group."""

    async def commit(self, group: str, offsets: Mapping[TP, int]) -> None:
        """Commit offsets for a group that has no members. Other offsets stay.

        Raises CommitFailed: the group has members. Nothing is committed for a partition that the
        text names.
        """


class AdministeredDriver(Driver, Protocol):
    """A driver that also has an admin client."""

    def admin(self, settings: ClientSettings) -> Admin:
        """Return a new admin client. Raises ValueError for settings that the client rejects."""
