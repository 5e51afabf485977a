"""Brokers are killed, frozen and restarted under load.

In each of these: what was acknowledged to the producer is handled at least once and copied exactly
once, nothing hangs, no program ends by itself, and all of them end in order when they are asked to.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults import faults
from tests.faults.brokers import ThreeBrokers
from tests.faults.load import Load

pytestmark = pytest.mark.faults

Start = Callable[..., Load]


def test_the_leader_of_a_partition_is_killed(brokers: ThreeBrokers, load: Start) -> None:
    """Another broker takes the partition over when the dead one's session has run out. What was
    not acknowledged yet is sent again, by the client itself, and written once."""
    running = load()
    faults.leader_killed(brokers, running)
    running.check()


def test_the_coordinator_of_the_group_is_killed(brokers: ThreeBrokers, load: Start) -> None:
    """Another broker takes the group over as it was: commits have no place to go for a while, and
    are made then. Nobody is thrown out."""
    running = load()
    faults.group_coordinator_killed(brokers, running)
    running.check()


def test_the_coordinator_of_a_transaction_is_killed(brokers: ThreeBrokers, load: Start) -> None:
    """A transaction that was open, or about to be committed, is ended by whoever takes over: it is
    committed, or it is aborted and its messages come again. No copier ends."""
    running = load()
    faults.transaction_coordinator_killed(brokers, running)
    running.check()


def test_a_broker_is_frozen_for_a_moment(brokers: ThreeBrokers, load: Start) -> None:
    """Nothing moves: the partition waits for its leader, and gets on with it."""
    running = load()
    before = brokers.leader_of(running.topic, 0)
    faults.broker_frozen_for_a_moment(brokers, running)
    assert brokers.leader_of(running.topic, 0) is before
    running.check()


def test_a_broker_is_frozen_for_long(brokers: ThreeBrokers, load: Start) -> None:
    """It counts as dead, though its connections are open: requests to it run out, and go to the
    next leader. What it still believes when it wakes up does no harm."""
    running = load()
    faults.broker_frozen_for_long(brokers, running)
    running.check()


def test_all_are_restarted_one_by_one(brokers: ThreeBrokers, load: Start) -> None:
    """Each hands over what it leads before it goes: it is hardly felt."""
    running = load()
    faults.rolling_restart(brokers, running)
    running.check()
