"""Fixtures for pytest: `memory_broker` and `simulate`.

Enable them in a conftest.py: `pytest_plugins = ["transport.testing.fixtures"]`.

This module needs pytest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from transport.drivers.memory import MemoryBroker
from transport.testing.report import Report
from transport.testing.simulation import simulate as _simulate


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--simulation-seed",
        type=int,
        default=0,
        help="the seed of simulations that set none; a failed simulation prints its seed",
    )


@pytest.fixture
def memory_broker() -> MemoryBroker:
    """Return a broker in the process, for `App(..., broker=memory_broker)`.

    It outlives its apps.
    """
    return MemoryBroker()


@pytest.fixture
def simulate(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """Return `transport.testing.simulate` with the seed of `--simulation-seed` as its default."""
    return functools.partial(_simulate, seed=request.config.getoption("--simulation-seed"))
