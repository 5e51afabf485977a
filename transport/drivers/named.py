"""A check that the partitions named in the setting `partitions` exist. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from transport.errors import UnknownTopic
from transport.types import TP


def check_named(named: Collection[TP] | None, counts: Mapping[str, int]) -> None:
    """Raise UnknownTopic for named partitions that their topics do not have.

    Args:
        named: the setting `partitions`; None: all partitions are read.
        counts: the number of partitions of each subscribed topic.
    """
    missing = sorted(
        tp for tp in named or () if tp.topic in counts and tp.partition >= counts[tp.topic]
    )
    if missing:
        names = ", ".join(map(str, missing))
        topics = sorted({tp.topic for tp in missing})
        there = ", ".join(f"{topic!r} has {counts[topic]} partitions" for topic in topics)
        raise UnknownTopic(f"no such partition: {names}, named by the setting partitions; {there}")
