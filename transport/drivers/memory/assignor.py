"""The assignment of partitions to members: balanced, with as few moves as possible. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from transport.types import TP


def balance(
    topics: Mapping[str, frozenset[str]],
    owned: Mapping[str, frozenset[TP]],
    partitions: Iterable[TP],
) -> dict[str, set[TP]]:
    """Return the share of each member: partitions of the topics that the member subscribes to.

    Each member keeps the partitions that it owns, as far as the balance allows. The result is
    balanced: no partition can move to a member that has at least two partitions fewer. The order of
    the members decides ties.

    Args:
        topics: the topics that each member subscribes to.
        owned: the partitions that each member has now. If two members claim a partition, the first
            one owns it.
        partitions: every partition of all these topics.
    """
    shares: dict[str, set[TP]] = {member: set() for member in topics}
    owners = owners_of(owned)
    free: list[TP] = []
    for tp in sorted(partitions):
        owner = owners.get(tp)
        if owner is not None and tp.topic in topics[owner]:
            shares[owner].add(tp)
        else:
            free.append(tp)
    for tp in free:
        wanting = [member for member in topics if tp.topic in topics[member]]
        if wanting:
            shares[min(wanting, key=lambda member: len(shares[member]))].add(tp)
    while (move := _next_move(topics, shares)) is not None:
        tp, giver, taker = move
        shares[giver].remove(tp)
        shares[taker].add(tp)
    return shares


def owners_of(owned: Mapping[str, frozenset[TP]]) -> dict[TP, str]:
    """Return the owner of each partition; if two members claim a partition, the first one."""
    owners: dict[TP, str] = {}
    for member, tps in owned.items():
        for tp in tps:
            owners.setdefault(tp, member)
    return owners


def hold_back(
    shares: Mapping[str, set[TP]], owned: Mapping[str, frozenset[TP]]
) -> dict[str, frozenset[TP]]:
    """Return the shares without the partitions that another member still owns.

    This is the first step of a cooperative rebalance. The owner gives up these partitions when it
    receives its share, and joins again. In the second step they are free.
    """
    owners = owners_of(owned)
    return {
        member: frozenset(tp for tp in tps if owners.get(tp, member) == member)
        for member, tps in shares.items()
    }


def _next_move(
    topics: Mapping[str, frozenset[str]], shares: Mapping[str, set[TP]]
) -> tuple[TP, str, str] | None:
    by_load = sorted(shares, key=lambda member: len(shares[member]))
    for giver in reversed(by_load):
        for taker in by_load:
            if len(shares[giver]) - len(shares[taker]) < 2:
                break
            movable = [tp for tp in shares[giver] if tp.topic in topics[taker]]
            if movable:
                return max(movable), giver, taker
    return None
