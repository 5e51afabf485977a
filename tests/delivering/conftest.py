"""A ledger of one partition, and a lane of it."""

from __future__ import annotations

import pytest

from transport.delivering.ledger import BufferUsage, Lane, Ledger, Tally
from transport.types import TP
from transport.weights import MemoryUsage


@pytest.fixture
def ledger() -> Ledger:
    """Return a ledger from offset 0 on."""
    return Ledger(TP("orders", 0), 1, 1, Tally(), position=0)


@pytest.fixture
def lane(ledger: Ledger) -> Lane:
    """Return a lane whose buffer has room for 1000 messages."""
    return ledger.open_lane(BufferUsage(1000, memory=MemoryUsage()))
