"""I1 to I8 in histories that Hypothesis draws, with any members, handlers and faults."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model.events import EVENTS, Ack, AddPartitions, Break, Seek, Start, Stop, Take, Write
from tests.model.stage import Event, Settings, Stage
from transport.testing import run, slow, unanswered

SETTINGS = st.builds(
    Settings,
    assignment=st.sampled_from(["cooperative", "eager"]),
    buffer_size=st.sampled_from([1, 3, 8, 100]),
    commit_interval=st.sampled_from([0.3, 1.0, 100.0]),
)


def play(settings: Settings, events: Sequence[Event], seed: int) -> None:
    stage = Stage(settings)
    try:
        run(lambda: stage.play(events), seed=seed)
    except BaseException as error:
        error.add_note(str(stage.timeline))
        raise


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(SETTINGS, st.lists(EVENTS, max_size=50), st.integers(0, 1000))
def test_invariants(settings: Settings, events: Sequence[Event], seed: int) -> None:
    play(settings, events, seed)


def test_stop_during_a_rebalance_fetches_nothing_again() -> None:
    """I8: released partitions make room in the buffer, but must not be resumed."""
    events: list[Event] = [
        Start(then=1.0),
        Write(partition=0, count=9, then=0.5),
        Take(0, count=1),
        Ack(0, then=1.0),
        Write(partition=1, then=3.0),
        AddPartitions(),
    ]
    play(Settings(assignment="eager", buffer_size=1, commit_interval=0.3), events, seed=62)


def test_seek_during_the_end_of_its_consumer_moves_nothing() -> None:
    """The client still seeks when the consumer releases its partitions."""
    events: list[Event] = [
        Start(then=0.5),
        Write(partition=1),
        Break("seek", slow(0.1)),
        Seek(0, partition=0, offset=0, patience=0.001),
    ]
    play(Settings(commit_interval=0.3), events, seed=0)


@pytest.mark.parametrize("pause", [0.0, 3.0])
def test_commit_in_flight_during_a_seek_may_precede_the_commit_of_the_new_epoch(
    pause: float,
) -> None:
    """Offset 0 of partition 1 does not exist. The commit of 1 and the seek to 0 overlap."""
    events: list[Event] = [
        Write(partition=0),
        Write(partition=1, kind="gap"),
        Break("commit", unanswered(1.1, made=False)),
        Start(then=3.0),
        Seek(0, partition=1, offset=0, patience=0.001, then=pause),
    ]
    play(Settings(assignment="cooperative", buffer_size=1, commit_interval=1.0), events, seed=0)


def test_commit_may_reach_the_broker_after_a_seek_that_was_requested_later() -> None:
    """The commit belongs to the epoch of its request, although the client seeks before it."""
    events: list[Event] = [
        Write(partition=0, count=2),
        Write(partition=1, kind="gap"),
        Break("commit", slow(0.0)),
        Start(then=0.5),
        Write(partition=0, kind="gap", then=0.5),
        Write(partition=0, count=6),
        Seek(0, partition=1, offset=0, patience=0.001),
    ]
    play(Settings(assignment="cooperative", buffer_size=3, commit_interval=1.0), events, seed=0)


@pytest.mark.parametrize(
    ("seed", "pauses"), [(0, (0.5, 3.0, 0.0, 3.0)), (0, (3.0, 0.5, 3.0, 0.05)), (1, (0, 0, 0, 0))]
)
def test_partition_assigned_while_the_channel_is_full_is_not_fetched_from(
    seed: int, pauses: tuple[float, ...]
) -> None:
    """I8: the poll that assigns the partition must not fetch from it as well."""
    events: list[Event] = [
        Start(then=pauses[0]),
        Write(partition=0, then=pauses[1]),
        Start(then=pauses[2]),
        Stop(1, then=pauses[3]),
        Write(partition=1),
    ]
    play(Settings(assignment="cooperative", buffer_size=1), events, seed=seed)
