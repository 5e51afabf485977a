"""Decoding a record once for all channels of its topic that want it by the same codecs.

What one channel has decoded is kept until the others have had it, at most a buffer's worth. Nothing
is kept for a channel that has its codecs for itself. The objects are shared, so that the handlers
of one topic must not change them.
"""

from __future__ import annotations

from typing import Any

from transport.codec import Codec
from transport.types import TP

Codecs = tuple[Codec | None, Codec | None]  # of the key and of the value


class Decoded:
    """What is decoded of one topic by one pair of codecs.

    Args:
        sharers: how many channels take each record from here.
    """

    def __init__(self, sharers: int) -> None:
        self._sharers = sharers
        self._kept: dict[TP, dict[int, list[Any]]] = {}  # by offset: key, value, how many want it

    def take(self, tp: TP, offset: int) -> tuple[Any, Any] | None:
        """Key and value, if another channel has decoded them."""
        kept = self._kept.get(tp)
        if kept is None or (entry := kept.get(offset)) is None:
            return None
        entry[2] -= 1
        if entry[2] == 0:
            del kept[offset]
        return entry[0], entry[1]

    def keep(self, tp: TP, offset: int, key: Any, value: Any) -> None:
        """Keep what was decoded first for the others."""
        self._kept.setdefault(tp, {})[offset] = [key, value, self._sharers - 1]

    def forget(self, tp: TP) -> None:
        """The partition's epoch has ended: nobody will ask for what was fetched in it."""
        self._kept.pop(tp, None)

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))
