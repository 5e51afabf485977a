"""What happened, in order, to be read by who looks for the reason of a failure."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import trio


@attrs.frozen
class Entry:
    """Something that happened.

    Attributes:
        at: seconds since the beginning. who: one of the members; "": the broker, or the world.
    """

    at: float
    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.at:9.3f} s  {self.who:<10}  {self.what}"


@attrs.define
class Timeline:
    """The entries of a run, oldest first; as text a line for each."""

    entries: list[Entry] = attrs.field(factory=list)
    _begun: float | None = None

    def add(self, who: str, what: str) -> None:
        """Enter what happens now. Not a checkpoint."""
        now = trio.current_time()
        if self._begun is None:
            self._begun = now
        self.entries.append(Entry(now - self._begun, who, what))

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __str__(self) -> str:
        return "\n".join(map(str, self.entries))
