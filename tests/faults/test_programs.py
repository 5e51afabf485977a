"""Programs are frozen, for less and for longer than their session timeouts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults import faults
from tests.faults.brokers import ThreeBrokers
from tests.faults.load import SHORT_SESSION, Load

pytestmark = pytest.mark.faults

Start = Callable[..., Load]


def test_programs_that_are_frozen_for_a_moment_keep_their_partitions(
    brokers: ThreeBrokers, load: Start
) -> None:
    """No member is evicted, so no partition moves, and no message is handled twice."""
    running = load()
    before = running.generations()
    faults.programs_frozen_for_a_moment(brokers, running)
    assert running.generations() == before
    assert running.handled_twice() == []
    running.check()


def test_programs_that_are_frozen_for_longer_than_their_sessions_join_again(
    brokers: ThreeBrokers, load: Start
) -> None:
    """The other members take over. After the freeze each program joins its group again. A copier
    ends only if another one has taken over its transactional id; a new one is then started."""
    running = load(session=SHORT_SESSION, may_be_fenced=True)
    victim = running.copiers[0]
    faults.programs_frozen_for_long(brokers, running)
    assert victim.is_fenced or victim.process.poll() is None
    running.check()
