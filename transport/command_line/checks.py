"""The checks of `doctor`: from the answers of a broker to findings. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from transport.command_line.finding import Finding, ok, warning, wrong
from transport.command_line.group_lag import GroupLag
from transport.drivers.admin import Cluster, GroupDescription, Node, TopicDescription
from transport.excerpt import listed

# The oldest broker that the library is tested with.
OLDEST = (3, 9)
# Seconds by which two clocks may differ: a time in an option or a retention has no finer use.
MOST_SKEW = 1.0
_NTP = "synchronize both clocks, as with NTP: times of messages and retention depend on them"


def version_found(cluster: Cluster) -> Finding:
    """Return the finding about the version of the broker. Raises nothing."""
    parts = cluster.version.split(".")
    text = f"the broker has version {cluster.version}"
    if all(part.isdigit() for part in parts) and tuple(map(int, parts)) < OLDEST:
        tested = ".".join(map(str, OLDEST))
        return warning(
            "version", text, f"the library is tested with Kafka {tested} and later: upgrade it"
        )
    return ok("version", text)


def clock_found(cluster: Cluster, before: float, after: float) -> Finding:
    """Return the finding about the clocks.

    Args:
        before: our time at the question, in seconds since 1970. `after` is that at the answer.
    """
    if cluster.clock is None:
        return ok("clock", "the broker does not tell its time to this client")
    # The broker has read its clock between both.
    skew = max(before - cluster.clock, cluster.clock - after, 0.0)
    if skew <= MOST_SKEW:
        most = skew + after - before
        return ok("clock", f"ours and the broker's differ by {most:.3f} s at most")
    direction = "behind" if cluster.clock < before else "ahead of"
    found = f"the broker's clock is {skew:.1f} s {direction} ours"
    return (wrong if skew > 60 else warning)("clock", found, _NTP)


def node_found(node: Node, failure: str | None) -> Finding:
    """Return the finding about the connection to the address that a broker advertises."""
    address = f"{node.host}:{node.port}"
    if failure is None:
        return ok(f"broker {node.id}", f"{address} accepts connections")
    return wrong(
        f"broker {node.id}",
        f"it advertises {address}, which this machine cannot reach: {failure}",
        "correct advertised.listeners of the broker, or the name server or firewall",
    )


def topic_found(topic: TopicDescription, configs: Mapping[str, str | None]) -> Iterator[Finding]:
    """Yield the findings about a topic.

    Args:
        configs: the configurations of the topic; empty: not known.
    """
    subject = f"topic {topic.name}"
    yield ok(subject, f"it has {len(topic.partitions)} partitions")
    numbers = [each.number for each in topic.partitions if each.leader is None]
    if numbers:
        yield wrong(
            subject,
            f"these partitions have no leader: {listed(numbers)}",
            "start the brokers that have their replicas: topics describe names these",
        )
    behind = [each.number for each in topic.partitions if len(each.in_sync) < len(each.replicas)]
    if behind:
        yield warning(
            subject,
            f"replicas of these partitions are not in sync: {listed(behind)}",
            "check the brokers that topics describe does not name under IN SYNC",
        )
    yield from _copies_found(subject, topic, configs)
    yield from rights_found(subject, topic.rights, ("READ", "WRITE"))


def _copies_found(
    subject: str, topic: TopicDescription, configs: Mapping[str, str | None]
) -> Iterator[Finding]:
    copies = min((len(each.replicas) for each in topic.partitions), default=0)
    needed = configs.get("min.insync.replicas") or "1"
    if needed.isdigit() and int(needed) > copies:
        yield wrong(
            subject,
            f"it has {copies} replicas, but min.insync.replicas is {needed}: no write succeeds",
            f"topics configs {topic.name} --set min.insync.replicas={copies}, or add replicas",
        )
    elif copies == 1:
        yield warning(
            subject,
            "each partition has one copy, which is lost with its broker",
            "in production, create topics with --replication 3",
        )


def rights_found(
    subject: str, rights: frozenset[str] | None, wanted: tuple[str, ...]
) -> Iterator[Finding]:
    """Yield the finding about the rights to something."""
    if rights is None:
        return
    missing = [each for each in wanted if each not in rights]
    if missing:
        yield warning(
            subject,
            f"this client has no right to {' and '.join(missing)}",
            "if your program needs it, add it with kafka-acls.sh --add --operation"
            f" {missing[0].title()}",
        )
    else:
        yield ok(subject, f"this client has the right to {' and '.join(wanted)}")


def group_found(group: GroupDescription, behind: GroupLag | None) -> Iterator[Finding]:
    """Yield the findings about a group.

    Args:
        behind: None: the group does not exist.
    """
    subject = f"group {group.id}"
    if behind is None:
        yield warning(
            subject,
            "there is no such group",
            "start a program with this group, or correct the name: groups list has all",
        )
        return
    yield ok(subject, f"it is {group.state}")
    if not group.has_members:
        yield warning(subject, "no program reads for it", "start the program, if it should run")
    gone = [str(each.tp) for each in behind.partitions if each.end is None]
    if gone:
        yield warning(
            subject,
            f"it has offsets of partitions that do not exist: {listed(gone)}",
            "nothing, if the topic was deleted: the broker removes them later",
        )
    idle = [str(each.tp) for each in behind.partitions if each.lag and each.owner is None]
    if group.members and idle:
        yield wrong(
            subject,
            f"no member reads these partitions, which have a lag: {listed(idle)}",
            "subscribe to their topics again, or seek the group to the end of them",
        )
    yield ok(subject, f"its lag is {behind.total}: see kafka-nursery lag {group.id} --watch")
    yield from rights_found(subject, group.rights, ("READ",))
