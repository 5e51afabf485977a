"""Brokers are killed, frozen and restarted under load.

In each test, acknowledged messages are handled at least once and copied exactly once. Nothing
hangs, no program ends by itself, and all programs end in order on SIGTERM.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults import faults
from tests.faults.brokers import ThreeBrokers
from tests.faults.load import Load

pytestmark = pytest.mark.faults

Start = Callable[..., Load]


def test_no_message_is_lost_when_a_leader_is_killed(brokers: ThreeBrokers, load: Start) -> None:
    """Another broker becomes the leader when the session of the killed one has expired. The client
    retries messages that are not acknowledged yet, and they are written once."""
    running = load()
    faults.leader_killed(brokers, running)
    running.check()


def test_no_member_is_evicted_when_the_group_coordinator_is_killed(
    brokers: ThreeBrokers, load: Start
) -> None:
    """Another broker takes over the group with its members. Commits wait until then. No member is
    evicted."""
    running = load()
    faults.group_coordinator_killed(brokers, running)
    running.check()


def test_no_copier_ends_when_the_transaction_coordinator_is_killed(
    brokers: ThreeBrokers, load: Start
) -> None:
    """The next coordinator ends the open transactions: it commits them, or it aborts them and their
    messages are redelivered. No copier ends."""
    running = load()
    faults.transaction_coordinator_killed(brokers, running)
    running.check()


def test_a_broker_that_is_frozen_for_a_moment_stays_the_leader(
    brokers: ThreeBrokers, load: Start
) -> None:
    """The leader does not change: the partition waits for it, and goes on."""
    running = load()
    before = brokers.leader_of(running.topic, 0)
    faults.broker_frozen_for_a_moment(brokers, running)
    assert brokers.leader_of(running.topic, 0) is before
    running.check()


def test_no_message_is_lost_when_a_broker_is_frozen_for_long(
    brokers: ThreeBrokers, load: Start
) -> None:
    """The broker counts as dead, although its connections are open. Requests to it time out, and go
    to the next leader. The broker's old state does no harm after the freeze."""
    running = load()
    faults.broker_frozen_for_long(brokers, running)
    running.check()


def test_no_message_is_lost_in_a_rolling_restart(brokers: ThreeBrokers, load: Start) -> None:
    """Each broker moves its leaderships before it stops, so the interruptions are short."""
    running = load()
    faults.rolling_restart(brokers, running)
    running.check()
