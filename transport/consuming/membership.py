"""Log lines about a consumer's group: joined, waiting to join, assigned, revoked, lost.

There is one line for each change, in the logger `transport.consumer`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from transport.drivers.base import Rebalance, RebalanceKind
from transport.errors import AppClosed
from transport.excerpt import listed

logger = logging.getLogger("transport.consumer")

# Seconds after which a warning says that the app has not joined its group.
SOON = 5.0


class Membership:
    """The log lines about the membership of one consumer, from its rebalances.

    Args:
        app: the name of the app in the log lines.
        session_timeout: seconds.
    """

    def __init__(self, app: str, session_timeout: float) -> None:
        self._app = app
        self._session_timeout = session_timeout
        self._joined = trio.Event()

    def log(self, event: Rebalance) -> None:
        """Log a rebalance that is about to be served. Not a checkpoint."""
        names = listed(sorted(event.partitions)) or "no partition"
        if event.kind is RebalanceKind.LOST:
            # For a topic that was created again the rebalance handler warns, and the member stays
            # in the group.
            if event.partitions and not event.of_new_topic:
                logger.warning(
                    "%s: lost %s: the group continues without this member. Messages that are not"
                    " committed will be redelivered",
                    *(self._app, names),
                )
        elif event.kind is RebalanceKind.REVOKED:
            if event.partitions:
                logger.info("%s: releases %s for a rebalance", self._app, names)
        elif not self._joined.is_set():
            self._joined.set()
            logger.info("%s: joined its group, and was assigned %s", self._app, names)
        elif event.partitions:
            logger.info("%s: was assigned %s", self._app, names)

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
            logger.warning(
                "%s: has not joined its group within %g s. The group waits for each of its members:"
                " a killed member counts until its session_timeout is over (here: %g s)",
                *(self._app, SOON, self._session_timeout),
            )
