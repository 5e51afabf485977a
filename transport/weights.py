"""The weight of records in memory, and the bound on the weight that an app holds.

The size on the wire is a poor measure: a decoded record of ten bytes takes hundreds of bytes, and
so does each header. Look here for what `buffer_bytes` counts, and for when fetching pauses and
resumes because of it. Nothing here knows trio or Kafka.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import attrs

from transport.types import Headers, Record

# The size of a decoded record without the bytes of its key, its value and its headers.
RECORD_BYTES = 512
# The size of one header (a tuple, a name and a value) without the bytes of its name and its value.
HEADER_BYTES = 160


def weight_of(records: Sequence[Record]) -> int:
    """Return the weight of all these records together, in bytes."""
    weight = RECORD_BYTES * len(records)
    for record in records:
        weight += len(record.key or b"") + len(record.value or b"")
        if record.headers:
            weight += of_headers(record.headers)
    return weight


def of_headers(headers: Headers) -> int:
    """Return the weight of the headers of one record, in bytes."""
    return HEADER_BYTES * len(headers) + sum(
        len(name) + (0 if value is None else len(value)) for name, value in headers
    )


@attrs.define(eq=False)
class MemoryUsage:
    """The weight of all messages that one app has fetched and not acked, over all topics.

    A message counts once for each topic object. `Lane` adds and subtracts. It subtracts inline
    because that happens at each ack.

    Attributes:
        limit: the weight at which fetching pauses, until the weight falls to half of it.
        bytes: the present weight.
        is_full: whether fetching must pause.
        on_fall: called when fetching may resume. It is called in an ack, so it must be quick.
    """

    limit: float = math.inf
    bytes: int = 0
    is_full: bool = False
    on_fall: Callable[[], None] = lambda: None

    def add(self, weight: int) -> None:
        """Add the weight of fetched records; fetching pauses at the limit."""
        self.bytes += weight
        if self.bytes >= self.limit:
            self.is_full = True

    def has_fallen(self) -> None:
        """After an ack or a drop, check whether fetching may resume."""
        if self.is_full and self.bytes <= self.limit // 2:
            self.is_full = False
            self.on_fall()
