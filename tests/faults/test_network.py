"""The network between the programs and the brokers is cut, slow, or resets, under load.

In each test, acknowledged messages are handled at least once and copied exactly once. Nothing
hangs, and all programs end in order on SIGTERM. A program ends by itself only where the test says
so.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults import faults
from tests.faults.brokers import ThreeBrokers
from tests.faults.load import SHORT_SESSION, Load

pytestmark = pytest.mark.faults

Start = Callable[..., Load]


def test_no_message_is_lost_when_connections_are_refused(
    brokers: ThreeBrokers, load: Start
) -> None:
    """The clients reconnect until they are accepted. Members stay in their groups."""
    running = load()
    faults.connections_refused(brokers, running)
    running.check()


def test_no_message_is_lost_when_the_network_is_cut_for_a_moment(
    brokers: ThreeBrokers, load: Start
) -> None:
    """No byte gets through, and no connection is closed. Requests time out, and are repeated on new
    connections. Members stay in their groups."""
    running = load()
    faults.network_cut_for_a_moment(brokers, running)
    running.check()


def test_no_message_is_lost_when_the_network_is_cut_for_longer_than_the_session(
    brokers: ThreeBrokers, load: Start
) -> None:
    """The groups evict all members, which join again. Handled messages without a commit are
    redelivered, and open transactions are aborted. A copier may end only if its transactional id
    was taken over; another one is then started."""
    running = load(session=SHORT_SESSION, may_be_fenced=True)
    faults.network_cut_for_long(brokers, running)
    running.check()


def test_no_message_is_lost_with_a_high_latency(brokers: ThreeBrokers, load: Start) -> None:
    """All work goes on, with delays."""
    running = load()
    faults.latency(brokers, running)
    running.check()


def test_no_message_is_lost_when_connections_are_reset(brokers: ThreeBrokers, load: Start) -> None:
    """All connections are reset repeatedly, in the middle of requests, which are then repeated."""
    running = load()
    faults.resets(brokers, running)
    running.check()


def test_no_message_is_lost_when_connections_close_late(brokers: ThreeBrokers, load: Start) -> None:
    """Connections of a restarted broker stay open for a while. Requests on them get no answer, and
    go to the next leader later."""
    running = load()
    faults.slow_close(brokers, running)
    running.check()
