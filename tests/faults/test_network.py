"""The network between the programs and the brokers is cut, slow, or resets, under load.

In each of these: what was acknowledged to the producer is handled at least once and copied exactly
once, nothing hangs, and all programs end in order when they are asked to. None ends by itself, but
where it is said.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults import faults
from tests.faults.brokers import ThreeBrokers
from tests.faults.load import SHORT_SESSION, Load

pytestmark = pytest.mark.faults

Start = Callable[..., Load]


def test_connections_are_refused(brokers: ThreeBrokers, load: Start) -> None:
    """They are closed, and opened again and again until they are taken. Memberships are kept."""
    running = load()
    faults.connections_refused(brokers, running)
    running.check()


def test_the_network_is_cut_for_a_moment(brokers: ThreeBrokers, load: Start) -> None:
    """No byte gets through, and no connection is closed: requests run out and are made again on
    new ones. Memberships are kept."""
    running = load()
    faults.network_cut_for_a_moment(brokers, running)
    running.check()


def test_the_network_is_cut_for_longer_than_the_session(brokers: ThreeBrokers, load: Start) -> None:
    """The groups have thrown everybody out. Who handles joins anew, and what was handled and not
    committed comes again. Who copies has lost what it was writing for: it ends with Fenced if
    something was written, and is started anew by whoever runs it."""
    running = load(session=SHORT_SESSION, may_be_fenced=True)
    faults.network_cut_for_long(brokers, running)
    running.check()


def test_each_answer_takes_long(brokers: ThreeBrokers, load: Start) -> None:
    """Everything gets on, later."""
    running = load()
    faults.latency(brokers, running)
    running.check()


def test_connections_are_reset(brokers: ThreeBrokers, load: Start) -> None:
    """All at once, again and again, in the middle of requests: those are made again."""
    running = load()
    faults.resets(brokers, running)
    running.check()


def test_connections_close_late(brokers: ThreeBrokers, load: Start) -> None:
    """A broker that is restarted seems to be there for a while longer: requests to it get no
    answer, and go to the next leader in the end."""
    running = load()
    faults.slow_close(brokers, running)
    running.check()
