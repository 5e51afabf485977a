"""Fixtures of the fault tests, and the table of their results."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.faults.brokers import ThreeBrokers
from tests.faults.load import Load, Report, table

REPORTS = pytest.StashKey[list[Report]]()


@pytest.fixture(scope="session")
def ended_in_order() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does, so that no program is left."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def three_brokers(kafka_java: None, ended_in_order: None) -> Iterator[ThreeBrokers]:
    """The cluster of all tests. A test need not repair it: `brokers` does."""
    with ThreeBrokers() as brokers:
        yield brokers


@pytest.fixture
def brokers(three_brokers: ThreeBrokers) -> ThreeBrokers:
    """The cluster, repaired."""
    three_brokers.heal()
    return three_brokers


@pytest.fixture
def load(
    brokers: ThreeBrokers, tmp_path: Path, pytestconfig: pytest.Config
) -> Iterator[Callable[..., Load]]:
    """``load(...)`` starts a load, and waits until each of its partitions makes progress."""
    reports = pytestconfig.stash.setdefault(REPORTS, [])
    with ExitStack() as stack:

        def start(**options: Any) -> Load:
            made = Load(brokers, tmp_path, reports.append, **options)
            return stack.enter_context(made.running())

        yield start


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    reports = config.stash.get(REPORTS, [])
    if not reports:
        return
    terminalreporter.section("how long each fault was felt")
    terminalreporter.write_line(table(reports))
