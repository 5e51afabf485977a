"""The events of a run, in order. Read them to find the cause of a failure."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import trio


@attrs.frozen
class Entry:
    """One event of a run.

    Attributes:
        at: seconds since the first entry.
        who: the member. "": the broker or the history.
        what: the text of the event.
    """

    at: float
    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.at:9.3f} s  {self.who:<10}  {self.what}"


@attrs.define
class Timeline:
    """The entries of a run, oldest first. As text, it has one line for each entry."""

    entries: list[Entry] = attrs.field(factory=list)
    _begun: float | None = None

    def add(self, who: str, what: str) -> None:
        """Add an entry with the current time. Not a checkpoint."""
        now = trio.current_time()
        if self._begun is None:
            self._begun = now
        self.entries.append(Entry(now - self._begun, who, what))

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __str__(self) -> str:
        return "\n".join(map(str, self.entries))
