"""Records for tests that need no broker."""

from __future__ import annotations

import attrs

from transport.types import Headers


@attrs.frozen
class FakeRecord:
    """A `transport.types.Record` of which mostly the offset matters."""

    offset: int
    key: bytes | None = None
    value: bytes | None = b"value"
    headers: Headers = ()
    timestamp: int = 0
    timestamp_type: int = 0
    serialized_key_size: int = -1
    serialized_value_size: int = 5


def records(*offsets: int) -> list[FakeRecord]:
    """One record for each offset."""
    return [FakeRecord(offset) for offset in offsets]
