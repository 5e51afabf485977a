"""A recorder for each test of spans, and a check that no span stays the current one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry import trace

from tests.monitoring.tracing.recording import Recorder


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """Return a recorder, and check that each span has ended with the test."""
    recorder = Recorder()
    yield recorder
    assert recorder.balance.open == set()


@pytest.fixture(autouse=True)
def own_context() -> Iterator[None]:
    """Check that no test leaves a span behind as the current one."""
    yield
    assert not trace.get_current_span().get_span_context().is_valid
