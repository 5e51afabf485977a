"""Decoding of a record once for all channels of its topic that have the same codecs.

The first channel that decodes a record keeps the result until the others have taken it. At most
`buffer_size` records are kept of a partition. Nothing is kept for a channel whose codecs no other
channel has.

Only immutable values are shared, so no handler sees a change that another one makes: None, bool,
int, float, complex, str, bytes, Decimal, Fraction, UUID, date, time, datetime, timedelta, and
tuples and frozensets of these. Any other value, such as a dict or an object of your own class, is
decoded again for each channel.
"""

from __future__ import annotations

import datetime
import decimal
import fractions
import uuid
from collections import OrderedDict
from typing import Any, Final

import attrs

from transport.codecs import Codec
from transport.types import TP

Codecs = tuple[Codec[Any] | None, Codec[Any] | None]  # of the key and of the value

AGAIN: Final = object()
"""A placeholder for a key or a value that each channel has to decode itself."""

# A subclass may have mutable attributes, so only these types themselves count.
_UNCHANGEABLE = frozenset(
    {
        type(None),
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        decimal.Decimal,
        fractions.Fraction,
        uuid.UUID,
        datetime.date,
        datetime.time,
        datetime.datetime,
        datetime.timedelta,
    }
)


def can_be_shared(value: object) -> bool:
    """Return whether the value is immutable."""
    if type(value) in _UNCHANGEABLE:
        return True
    left = [value]
    while left:
        each = left.pop()
        if type(each) is tuple or type(each) is frozenset:
            left.extend(each)
        elif type(each) not in _UNCHANGEABLE:
            return False
    return True


@attrs.define
class _Entry:
    """A record's key and value, and the number of channels that have yet to take them."""

    key: object
    value: object
    wanted_by: int


class Decoded:
    """The decoded keys and values of one topic for one pair of codecs.

    Args:
        sharers: the number of channels with these codecs.
        limit: the most records kept of a partition. The oldest are removed first.
    """

    def __init__(self, sharers: int, limit: int) -> None:
        self._sharers = sharers
        self._limit = limit
        self._kept: dict[TP, OrderedDict[int, _Entry]] = {}  # by offset

    def take(self, tp: TP, offset: int) -> tuple[Any, Any] | None:
        """Return key and value, each of which may be AGAIN; None: no other channel decoded them."""
        kept = self._kept.get(tp)
        if kept is None or (entry := kept.get(offset)) is None:
            return None
        entry.wanted_by -= 1
        if entry.wanted_by == 0:
            del kept[offset]
        return entry.key, entry.value

    def keep(self, tp: TP, offset: int, key: Any, value: Any) -> None:
        """Keep a decoded key and value for the other channels; AGAIN for one that is mutable."""
        kept = self._kept.setdefault(tp, OrderedDict())
        kept[offset] = _Entry(
            key if can_be_shared(key) else AGAIN,
            value if can_be_shared(value) else AGAIN,
            self._sharers - 1,
        )
        if len(kept) > self._limit:
            kept.popitem(last=False)

    def forget(self, tp: TP) -> None:
        """Drop all results of a partition, after the end of its epoch."""
        self._kept.pop(tp, None)

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))
