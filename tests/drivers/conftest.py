"""The drivers that the contract suite holds against `transport/drivers/base.py`."""

from __future__ import annotations

import pytest

from tests.drivers.rig import Rig
from tests.lanes import BOTH
from transport.drivers import driver_for
from transport.drivers.memory import MemoryDriver


@pytest.fixture(params=BOTH)
def rig(request: pytest.FixtureRequest) -> Rig:
    """A driver under test, with helpers to make its clients."""
    if request.param == "memory":
        return Rig(MemoryDriver("contract"))
    return Rig(driver_for([f"kafka://{request.getfixturevalue('kafka_bootstrap')}"]))


@pytest.fixture
def kafka_rig(kafka_bootstrap: str) -> Rig:
    """The Kafka driver alone, for tests that look inside its client."""
    return Rig(driver_for([f"kafka://{kafka_bootstrap}"]))
