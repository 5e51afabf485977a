"""Programs of ours stand still, shorter and longer than their sessions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults import faults
from tests.faults.brokers import ThreeBrokers
from tests.faults.load import SHORT_SESSION, Load

pytestmark = pytest.mark.faults

Start = Callable[..., Load]


def test_programs_are_frozen_for_a_moment(brokers: ThreeBrokers, load: Start) -> None:
    """Nobody is thrown out, so no partition moves, and nothing is handled twice."""
    running = load()
    before = running.generations()
    faults.programs_frozen_for_a_moment(brokers, running)
    assert running.generations() == before
    assert running.handled_twice() == []
    running.check()


def test_programs_are_frozen_for_longer_than_their_sessions(
    brokers: ThreeBrokers, load: Start
) -> None:
    """The others of their groups take over. Back again, each program joins its group anew. A copier
    ends only if another one has taken its transactional id over, and is started anew then."""
    running = load(session=SHORT_SESSION, may_be_fenced=True)
    victim = running.copiers[0]
    faults.programs_frozen_for_long(brokers, running)
    assert victim.is_fenced or victim.process.poll() is None
    running.check()
