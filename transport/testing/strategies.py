"""Hypothesis strategies for histories and faults. A failing history shrinks to its few causes.

This module needs Hypothesis, which the extra `testing` installs.
"""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import strategies as st

from transport.arguments import instance, or_none, whole
from transport.errors import BrokerUnavailable, RebalanceInProgress
from transport.testing.faults import Fault, check_call, refused, slow, unanswered
from transport.testing.history import (
    AddPartitions,
    Break,
    Crash,
    Event,
    Gap,
    History,
    Start,
    Stop,
    Write,
    WriteAborted,
    numbers_of_partitions,
)
from transport.testing.payloads import PayloadArg
from transport.types import TP

_counts = st.integers(1, 5)
_members = st.integers(0, 7)
# Whole tenths of a second, so that shrunk histories are easy to read.
_pauses = st.integers(0, 50).map(lambda tenths: tenths / 10)


def faults(call: str) -> st.SearchStrategy[Fault]:
    """Return a strategy for faults of a call that an app must survive.

    Args:
        call: a method of `ConsumerClient`, or "producer." and a method of `ProducerClient`.
    """
    check_call("call", call)
    late = st.integers(0, 30).map(lambda tenths: tenths / 10)
    kinds: list[st.SearchStrategy[Fault]] = [late.map(slow)]
    if call in ("commit", "producer.commit"):
        kinds.append(st.builds(unanswered, late, made=st.booleans()))
    if call == "commit":
        kinds.append(st.just(refused(RebalanceInProgress("a random fault"))))
    if call in ("producer.begin", "producer.abort"):
        kinds.append(st.just(refused(BrokerUnavailable("a random fault"))))
    return st.one_of(kinds)


def _breaks() -> st.SearchStrategy[Break]:
    calls = ["poll", "commit", "committed", "producer.send", "producer.commit", "producer.begin"]
    return st.sampled_from(calls).flatmap(
        lambda call: st.builds(Break, st.just(call), faults(call), after=_pauses)
    )


def _writes(
    tps: st.SearchStrategy[TP], records: st.SearchStrategy[PayloadArg] | None
) -> st.SearchStrategy[Write]:
    if records is None:
        return st.builds(Write, tps, _counts, after=_pauses)
    some = st.lists(records, min_size=1, max_size=5)
    return st.builds(Write, tps, records=some, after=_pauses)


def events(
    topics: Mapping[str, int], *, records: st.SearchStrategy[PayloadArg] | None = None
) -> st.SearchStrategy[Event]:
    """Return a strategy for one event of a group that reads these topics.

    Args:
        topics: the topics with their numbers of partitions.
        records: as in `histories`.
    """
    numbers_of_partitions("topics", topics)
    or_none(instance, "records", records, kind=st.SearchStrategy, expected="a strategy or None")
    tps = st.sampled_from([TP(topic, n) for topic, count in topics.items() for n in range(count)])
    return st.one_of(
        _writes(tps, records),
        st.builds(Start, after=_pauses),
        st.builds(Gap, tps, _counts, after=_pauses),
        st.builds(WriteAborted, tps, _counts, after=_pauses),
        st.builds(Stop, _members, after=_pauses),
        st.builds(Crash, _members, after=_pauses),
        st.builds(AddPartitions, st.sampled_from(sorted(topics)), after=_pauses),
        _breaks(),
    )


def histories(
    topics: Mapping[str, int],
    *,
    most: int = 40,
    records: st.SearchStrategy[PayloadArg] | None = None,
) -> st.SearchStrategy[History]:
    """Return a strategy for histories of a group that reads these topics.

    Args:
        topics: the topics with their numbers of partitions.
        most: the largest number of events in a history.
        records: a strategy for the payload of a record: a tuple of key, value and headers, or of
            key and value. The events `Write` then have payloads, which shrink as well. None:
            `simulate` decides.
    """
    whole("most", most)
    return st.lists(events(topics, records=records), max_size=most).map(
        lambda drawn: History(dict(topics), tuple(drawn))
    )
