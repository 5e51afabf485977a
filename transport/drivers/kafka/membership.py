"""Whether a consumer is still a member of its group, as far as the client can know.

The client learns that from its heartbeats, but does not report it in these cases:

- A heartbeat fails for good: another member has our instance id, or a right was revoked. The client
  stops its heartbeats, or retries for ever.
- The heartbeat loop ends by an error. Only the next join starts it again.
- No heartbeat is answered for `session_timeout`. The group continues without this member. The
  client keeps its partitions until it finds a coordinator.
- The membership is lost during a join. The client joins as a new member, and treats the partitions
  that it gets as those that it had.

Here each of these cases becomes an error of the next poll, or a loss of the partitions in it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import kafka.errors
from kafka.structs import MemberState

from transport.drivers.kafka.errors import REFUSED_US
from transport.errors import TransportError

log = logging.getLogger(__name__)

_REFUSED = (kafka.errors.FencedInstanceIdError, *REFUSED_US)


def check_rights(consumer: Any) -> None:
    """Raise TopicAuthorizationFailedError if the right to read a subscribed topic was revoked."""
    # `unauthorized_topics`: the client logs it and forgets the partitions of such a topic. So it
    # fetches nothing more of them, and no fetch is refused.
    if unauthorized := consumer._client.cluster.unauthorized_topics:
        read = {tp.topic for tp in list(consumer._subscription.assignment)}
        if refused := read & unauthorized:
            raise kafka.errors.TopicAuthorizationFailedError(refused)


class Membership:
    """Follows the membership of one consumer of the client, a member of a group.

    Args:
        name: of the consumer, for the log.
        session_timeout: seconds without an answer after which the membership is lost.
        notify: called whenever `check` or the next poll has something to do. From any thread.
    """

    def __init__(
        self, name: str, consumer: Any, session_timeout: float, notify: Callable[[], None]
    ) -> None:
        self._notify = notify
        self._name = name
        self._consumer = consumer
        # `_coordinator`: no public call shows heartbeats.
        self._coordinator = consumer._coordinator
        self._session_timeout = session_timeout
        self._refusal: Exception | None = None  # the fatal error of a heartbeat
        self._confirmed_at = time.monotonic()  # when the last answered request was sent
        self._has_beaten = False  # since the loop of the heartbeats was started
        self._follow()

    def check(self) -> None:
        """Raise the error that ended the membership for good, or give up lost partitions.

        On the polling thread, before each turn of a poll. Returns once the loss is consented to.

        Raises the client's errors; TransportError: the heartbeats stopped.
        """
        if self._refusal is not None:
            raise self._refusal
        coordinator, subscription = self._coordinator, self._consumer._subscription
        if coordinator.state is MemberState.STABLE:
            silent = time.monotonic() - self._confirmed_at
            if silent > self._session_timeout:
                log.warning(
                    "%s: no heartbeat was answered for %.1f s, longer than session_timeout. The"
                    " group continues without this member",
                    self._name,
                    silent,
                )
                # With the old id: a group that still has this member accepts it again.
                coordinator.reset_generation(coordinator._generation.member_id)
        # `is_lost`, `_on_close_prepare_async`: the client looks at the first where it joins, once
        # it has found a coordinator. The second tells the listener and gives up the partitions.
        if coordinator._generation.is_lost() and subscription.assigned_partitions():
            self._consumer._client._net.run(coordinator._on_close_prepare_async)

    def time_left(self) -> float:
        """Return the seconds until `check` gives up, unless a heartbeat is answered before."""
        if self._coordinator.state is not MemberState.STABLE:
            return math.inf
        # A moment later: then it is certain to have been silent for too long.
        return self._confirmed_at + self._session_timeout - time.monotonic() + 0.01

    def _follow(self) -> None:
        coordinator = self._coordinator
        send, enable = coordinator._send_heartbeat_request, coordinator._enable_heartbeat
        beat_on, reset = coordinator._heartbeat_loop, coordinator.reset_generation
        request_rejoin = coordinator.request_rejoin
        subscription = self._consumer._subscription

        async def send_and_look() -> Any:
            sent_at = time.monotonic()
            try:
                answer = await send()
            except _REFUSED as error:
                self._refusal = error
                self._notify()
                raise
            except kafka.errors.RebalanceInProgressError:
                self._confirm(sent_at)
                raise
            self._confirm(sent_at)
            return answer

        def enable_confirmed() -> None:
            self._confirm(time.monotonic())  # the group has answered a join just now
            enable()

        async def beat_on_and_on() -> None:
            while True:
                try:
                    await beat_on()
                    return
                except Exception as error:
                    # `_manager`, `closed`: closing the client ends the loop by an error as well.
                    if self._consumer._client._manager.closed:
                        raise
                    if not self._has_beaten:  # it would end again
                        self._notify()
                        raise TransportError(
                            f"the heartbeats of {self._name} stopped: {error!r}. Restart the app"
                        ) from error
                    self._has_beaten = False
                    log.warning(
                        "%s: the heartbeats stopped with %r and are started again",
                        self._name,
                        error,
                    )

        def reset_and_prepare(*args: Any, **options: Any) -> None:
            reset(*args, **options)
            # `rejoining`: else the join that is under way goes on without giving anything up.
            if subscription.assigned_partitions():
                coordinator.rejoining = False
            self._notify()

        def request_and_notify() -> None:
            request_rejoin()
            self._notify()

        # `_send_heartbeat_request`: what it raises is logged at most.
        coordinator._send_heartbeat_request = send_and_look
        # `_enable_heartbeat`: called when a join has succeeded.
        coordinator._enable_heartbeat = enable_confirmed
        # `_heartbeat_loop`: what it raises is raised by one poll; the loop is not started again.
        coordinator._heartbeat_loop = beat_on_and_on
        coordinator.reset_generation = reset_and_prepare
        # `request_rejoin`: the client finds it in its next poll, up to `fetch_max_wait_ms` later.
        coordinator.request_rejoin = request_and_notify

    def _confirm(self, sent_at: float) -> None:
        self._confirmed_at = sent_at
        self._has_beaten = True
