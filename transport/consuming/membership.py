"""Log lines about a consumer's group: joined, waiting to join, assigned, revoked, lost.

There is one line for each change, in the logger `transport.consumer`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from transport.drivers.base import Rebalance, RebalanceKind
from transport.errors import AppClosed, RebalanceInProgress
from transport.excerpt import ranges
from transport.log import Log
from transport.types import GroupMetadata

# Seconds after which a warning says that the app has not joined its group.
SOON = 5.0


class Membership:
    """The log lines about the membership of one consumer, from its rebalances.

    Args:
        metadata: returns the identity of the consumer in its group, as the client does.
        session_timeout: seconds.
        is_member: whether the consumer is a member of a group.
    """

    def __init__(
        self,
        log: Log,
        metadata: Callable[[], GroupMetadata],
        session_timeout: float,
        *,
        is_member: bool = True,
    ) -> None:
        self._log = log
        self._metadata = metadata
        self._session_timeout = session_timeout
        self._is_member = is_member
        self._joined = trio.Event()

    def begun(self, event: Rebalance) -> None:
        """Log a rebalance that is about to be served. Not a checkpoint."""
        names = ranges(event.partitions) or "no partition"
        if event.kind is RebalanceKind.LOST:
            # For a topic that was created again the rebalance handler warns, and the member stays
            # in the group.
            if event.partitions and not event.of_new_topic:
                self._log.warning(
                    "lost",
                    "lost %s: the group continues without this member. Messages that are not"
                    " committed will be redelivered",
                    names,
                    partitions=event.partitions,
                )
        elif event.kind is RebalanceKind.REVOKED:
            if event.partitions:
                self._log.info(
                    "revoked",
                    "releases %s for a rebalance",
                    names,
                    partitions=event.partitions,
                    generation=event.generation,
                )
        elif not self._joined.is_set():
            self._joined.set()
            if self._is_member:
                self._log_join(event, names)
            else:
                self._log.info(
                    "assigned", "reads %s without a group", names, partitions=event.partitions
                )
        elif event.partitions:
            self._log.info(
                "assigned",
                "was assigned %s",
                names,
                partitions=event.partitions,
                generation=event.generation,
            )

    def _log_join(self, event: Rebalance, names: str) -> None:
        try:
            identity = self._metadata()
        except RebalanceInProgress:  # the next rebalance has begun, and changes the identity
            identity = GroupMetadata(self._log.app, event.generation, "")
        self._log.info(
            "joined",
            "joined its group in generation %d as the member %r, and was assigned %s",
            *(event.generation, identity.member_id, names),
            group=identity.group_id,
            generation=event.generation,
            member=identity.member_id,
            partitions=event.partitions,
        )

    def served(self, event: Rebalance, seconds: float) -> None:
        """Log that a rebalance was served, or has passed its bound. Not a checkpoint."""
        self._log.debug(
            "rebalance_served",
            "the rebalance in which %s were %s took %.3f s",
            *(ranges(event.partitions) or "no partitions", event.kind.value, seconds),
            partitions=event.partitions,
            generation=event.generation,
            seconds=seconds,
        )

    @trio.lowlevel.enable_ki_protection
    async def warn_if_not_joined(self, subscribed: Callable[[], Awaitable[None]]) -> None:
        """Warn once if the app does not join its group soon after its subscription.

        A checkpoint; cancelling changes nothing.

        Args:
            subscribed: waits for the subscription. It raises AppClosed if there will be none.
        """
        try:
            await subscribed()
        except AppClosed:
            return
        with trio.move_on_after(SOON) as soon:
            await self._joined.wait()
        if soon.cancelled_caught:
            self._log.warning(
                "not_joined",
                "has not joined its group within %g s. The group waits for each of its members:"
                " a killed member counts until its session_timeout is over (here: %g s)",
                *(SOON, self._session_timeout),
                seconds=SOON,
            )
