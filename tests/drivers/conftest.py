"""Fixtures for the tests of the contract in `transport/drivers/base.py`."""

from __future__ import annotations

import pytest

from tests.drivers.rig import Rig
from tests.lanes import BOTH
from transport.drivers import driver_for
from transport.drivers.memory import MemoryDriver


@pytest.fixture(params=BOTH)
def rig(request: pytest.FixtureRequest) -> Rig:
    """Return a rig for each driver under test."""
    if request.param == "memory":
        return Rig(MemoryDriver("contract"))
    return Rig(driver_for([f"kafka://{request.getfixturevalue('kafka_bootstrap')}"]))


@pytest.fixture
def kafka_rig(kafka_bootstrap: str) -> Rig:
    """Return a rig for the Kafka driver only, for tests that use its client's internals."""
    return Rig(driver_for([f"kafka://{kafka_bootstrap}"]))
