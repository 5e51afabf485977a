"""The check for livelocks: offsets to commit that stand still while later messages are acked. Pure.

Look here when a warning says that an offset has not moved.
"""

from __future__ import annotations

import attrs

from transport.delivering.assignment import Assignment
from transport.delivering.ledger import Ledger
from transport.types import TP


@attrs.define
class LivelockWatch:
    """A check for partitions whose offset to commit stands still while acks go on.

    One message that is never acked holds back the commit of all later messages.

    Args:
        timeout: seconds for which an offset may stand still.
    """

    timeout: float
    _seen: dict[Ledger, tuple[int, int | None, float, bool]] = attrs.field(factory=dict)

    def check(self, assignment: Assignment, now: float) -> list[tuple[TP, int, float]]:
        """Return partition, offset and age in seconds of each new case, each case once."""
        cases = []
        seen = {}
        for tp, ledger in assignment.items():
            acked, safe = ledger.acked, ledger.safe
            old_acked, old_safe, since, warned = self._seen.get(ledger, (acked, safe, now, False))
            age = now - since
            if safe != old_safe:
                old_acked, since, warned = acked, now, False
            elif safe is not None and acked > old_acked and age >= self.timeout and not warned:
                cases.append((tp, safe, age))
                warned = True
            seen[ledger] = (old_acked, safe, since, warned)
        self._seen = seen
        return cases
