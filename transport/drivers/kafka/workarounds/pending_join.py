"""A join that outlasts a `poll` of the client.

We poll in turns, and a join takes as long as the slowest member. The client keeps the join
under way from one poll to the next, but forgets it in two cases:

- What made it join was a new subscription, or, for the leader, a new partition. Both count as seen
  to once the join is sent, so the next poll finds no reason to join, and never takes the answer: no
  heartbeats, no commits, no rebalance for the rest of its life, but records all the same.
- The answer came between two polls: the next one throws it away and joins anew, which costs the
  whole group another round when the leader does it.
"""

from __future__ import annotations

from typing import Any


class _Join:
    """A join under way, of which the client takes the answer whenever it came."""

    def __init__(self, task: Any) -> None:
        self._task = task

    @property
    def is_done(self) -> bool:
        """What the client takes for a reason to begin anew: only a failure is one."""
        return bool(self._task.failed())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def __await__(self) -> Any:
        return self._task.__await__()


def keep_join(consumer: Any) -> None:
    """Let the next poll go on with a join that the last one left; between polls."""
    # `_coordinator`, `_join_task`: nothing public tells of a join.
    coordinator = consumer._coordinator
    task = coordinator._join_task
    if task is None:
        return
    # `rejoin_needed`: until it has joined, which takes this back. Not `request_rejoin`, which is a
    # reason to end the turn (`membership.py`).
    coordinator.rejoin_needed = True
    if not isinstance(task, _Join):
        coordinator._join_task = _Join(task)


def drop_join(consumer: Any) -> None:
    """Forget a join under way, after the group was left."""
    consumer._coordinator._join_task = None
