"""Joins that take longer than one `poll` of the client.

The driver makes many short polls, and a join takes as long as the slowest member. The client keeps
a join from one poll to the next, but loses it in two cases:

- The reason of the join was a new subscription or, for the leader, a new partition. The client
  forgets the reason when it sends the join. So the next poll does not join and never reads the
  answer. From then on the member gets records, but sends no heartbeats, makes no commits and takes
  part in no rebalance.
- The answer arrived between two polls. The next poll discards it and joins again. If the member is
  the leader, the whole group rebalances once more.
"""

from __future__ import annotations

from typing import Any


class _Join:
    """A join under way whose answer the client keeps, even if it arrives between two polls."""

    def __init__(self, task: Any) -> None:
        self._task = task

    @property
    def is_done(self) -> bool:
        """Whether the client must join again: only after a failure."""
        return bool(self._task.failed())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def __await__(self) -> Any:
        return self._task.__await__()


def keep_join(consumer: Any) -> None:
    """Let the next poll continue a join that the last poll left. Call it between polls."""
    # `_coordinator`, `_join_task`: no public name shows a join.
    coordinator = consumer._coordinator
    task = coordinator._join_task
    if task is None:
        return
    # `rejoin_needed`: the client clears it after the join. `request_rejoin` would also end the turn
    # of the poll (`membership.py`).
    coordinator.rejoin_needed = True
    if not isinstance(task, _Join):
        coordinator._join_task = _Join(task)


def drop_join(consumer: Any) -> None:
    """Drop a join under way, after the consumer has left the group."""
    consumer._coordinator._join_task = None
