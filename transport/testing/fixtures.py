"""Fixtures for pytest.

A conftest.py asks for them: `pytest_plugins = ["transport.testing.fixtures"]`.

Needs pytest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from transport.drivers.memory import MemoryBroker
from transport.testing.simulation import Report
from transport.testing.simulation import simulate as _simulate


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--simulation-seed",
        type=int,
        default=0,
        help="the seed of simulations that name none, as a failure has printed it",
    )


@pytest.fixture
def memory_broker() -> MemoryBroker:
    """A broker in the process, for `App(..., broker=memory_broker)`; it outlives its apps."""
    return MemoryBroker()


@pytest.fixture
def simulate(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """`transport.testing.simulate`, with the seed of `--simulation-seed` where none is named."""
    return functools.partial(_simulate, seed=request.config.getoption("--simulation-seed"))
