"""Who gets which partition: balanced, and with as few moves as that takes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from transport.types import TP


def balance(
    topics: Mapping[str, frozenset[str]],
    owned: Mapping[str, frozenset[TP]],
    partitions: Iterable[TP],
) -> dict[str, set[TP]]:
    """Share out the partitions among the members that want their topics.

    Everybody keeps what it owns as far as the balance allows: in the end no member could
    hand a partition to one that has two less. Ties go by the order of the members.

    Args:
        topics: what each member is subscribed to.
        owned: what each member has now; of two who claim a partition the first has it.
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
    """The owner of each partition; of two who claim it, the first."""
    owners: dict[TP, str] = {}
    for member, tps in owned.items():
        for tp in tps:
            owners.setdefault(tp, member)
    return owners


def hold_back(
    shares: Mapping[str, set[TP]], owned: Mapping[str, frozenset[TP]]
) -> dict[str, frozenset[TP]]:
    """The cooperative first step: without the partitions that another member still owns.

    Their owner gives them up on seeing its share, and joins again; then they are free.
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
