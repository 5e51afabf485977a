"""Commits that the client retries after a rebalance, in the name of the new generation.

The client retries a commit until its timeout, and each try is made in the generation of that
moment. In between, a partition of the commit may have gone to another member. The broker accepts
such a commit of a member of the group. It would undo the commits of the partition's new owner, and
the messages after it would be delivered again.

So a commit has the generation in which it was requested, and is not sent in a later one. During a
rebalance, that is the generation of the rebalance, also if it has expired.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import kafka.errors


class CommitOf(dict[Any, Any]):
    """Offsets of a commit, as the client takes them, with the generation of the request.

    The client passes this very object through to each try.
    """

    def __init__(self, offsets: Mapping[Any, Any], generation: int) -> None:
        super().__init__(offsets)
        self.generation = generation


def refuse_late_commits(consumer: Any) -> None:
    """Let a new consumer fail the tries of a `CommitOf` in another generation than its own.

    They fail with RebalanceInProgressError.
    """
    # `_coordinator`, `_send_offset_commit_request`: one try, on the client's loop. It reads the
    # generation before it waits for anything. `_generation`: also while the member joins.
    coordinator = consumer._coordinator
    send = coordinator._send_offset_commit_request

    async def send_in_time(offsets: Any) -> Any:
        now = coordinator._generation
        # After an eviction there is no generation, which the client itself reports.
        is_known = isinstance(offsets, CommitOf) and not now.is_lost()
        if is_known and now.generation_id != offsets.generation:
            raise kafka.errors.RebalanceInProgressError(
                f"the commit was requested in generation {offsets.generation}, and the group is in"
                f" generation {now.generation_id}"
            )
        return await send(offsets)

    coordinator._send_offset_commit_request = send_in_time
