"""The end of a consumer's group membership, as far as the client can detect it.

The client detects it by its heartbeats, but does not report it in these cases:

- A heartbeat fails for good: another member has our instance id, or a right was revoked. The client
  stops its heartbeats, or retries for ever.
- The heartbeat loop ends by an error. Only the next join starts it again.
- No heartbeat is answered for `session_timeout`. The group continues without this member. The
  client keeps its partitions until it finds a coordinator.
- The membership is lost during a join. The client joins as a new member, and treats the partitions
  that it gets as those that it had.

This module turns each of these cases into an error of the next poll, or into a LOST rebalance.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import kafka.errors
from kafka.structs import MemberState

from transport.drivers.kafka.errors import REFUSED_US
from transport.errors import TransportError
from transport.excerpt import excerpt_of_error
from transport.log import Log

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
    """A watch on the group membership of one consumer of the client.

    Args:
        name: the consumer's name, for the log.
        session_timeout: seconds without an answer after which the membership is lost.
        notify: called whenever `check` or the next poll has something to do. From any thread.
    """

    def __init__(
        self,
        name: str,
        consumer: Any,
        session_timeout: float,
        notify: Callable[[], None],
        log: Log,
    ) -> None:
        self._notify = notify
        self._name = name
        self._log = log
        self._consumer = consumer
        # `_coordinator`: no public call shows heartbeats.
        self._coordinator = consumer._coordinator
        self._session_timeout = session_timeout
        self._refusal: Exception | None = None  # the fatal error of a heartbeat
        self._confirmed_at = time.monotonic()  # when the last answered request was sent
        self._has_beaten = False  # an answer has come since the heartbeat loop began
        self._follow()

    def check(self) -> None:
        """Raise the error that ended the membership, or raise LOST for lost partitions.

        On the polling thread, before each turn of a poll. Returns once the rebalance is released.

        Raises the error of the heartbeat.
        """
        if self._refusal is not None:
            raise self._refusal
        coordinator, subscription = self._coordinator, self._consumer._subscription
        if coordinator.state is MemberState.STABLE:
            silent = time.monotonic() - self._confirmed_at
            if silent > self._session_timeout:
                # The loss of the partitions, if there are any, is a warning of the consumer.
                self._log.info(
                    "session_expired",
                    "no heartbeat was answered for %.1f s, longer than session_timeout (%g s)",
                    *(silent, self._session_timeout),
                    seconds=silent,
                )
                # With the old id: a group that still has this member accepts it again.
                coordinator.reset_generation(coordinator._generation.member_id)
        # `is_lost`, `_on_close_prepare_async`: the client checks the first when it joins, once it
        # has found a coordinator. The second calls the listener and removes the partitions.
        if coordinator._generation.is_lost() and subscription.assigned_partitions():
            self._consumer._client._net.run(coordinator._on_close_prepare_async)

    def time_left(self) -> float:
        """Return the seconds until the membership is lost if no heartbeat is answered."""
        if self._coordinator.state is not MemberState.STABLE:
            return math.inf
        # A moment more, so that `check` then certainly finds more than session_timeout.
        return self._confirmed_at + self._session_timeout - time.monotonic() + 0.01

    def _follow(self) -> None:
        coordinator = self._coordinator
        send, enable = coordinator._send_heartbeat_request, coordinator._enable_heartbeat
        beat_on, reset = coordinator._heartbeat_loop, coordinator.reset_generation
        request_rejoin = coordinator.request_rejoin
        subscription = self._consumer._subscription

        async def send_and_check() -> Any:
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
            self._confirm(time.monotonic())  # the group has just answered a join
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
                    if not self._has_beaten:  # a new loop would end in the same way
                        self._notify()
                        raise TransportError(
                            f"the heartbeats of {self._name} stopped: {error!r}. Restart the app"
                        ) from error
                    self._has_beaten = False
                    self._log.warning(
                        "heartbeats_restarted",
                        "the heartbeats stopped with %s and are started again",
                        excerpt_of_error(error),
                        error=error,
                    )

        def reset_and_prepare(*args: Any, **options: Any) -> None:
            reset(*args, **options)
            # `rejoining`: otherwise the join under way continues without revoking the partitions.
            if subscription.assigned_partitions():
                coordinator.rejoining = False
            self._notify()

        def request_and_notify() -> None:
            request_rejoin()
            self._notify()

        # `_send_heartbeat_request`: the client at most logs its errors.
        coordinator._send_heartbeat_request = send_and_check
        # `_enable_heartbeat`: called when a join has succeeded.
        coordinator._enable_heartbeat = enable_confirmed
        # `_heartbeat_loop`: one poll raises its error, and only the next join starts it again.
        coordinator._heartbeat_loop = beat_on_and_on
        coordinator.reset_generation = reset_and_prepare
        # `request_rejoin`: the client notices it in its next poll, up to `fetch_max_wait_ms` later.
        coordinator.request_rejoin = request_and_notify

    def _confirm(self, sent_at: float) -> None:
        self._confirmed_at = sent_at
        self._has_beaten = True
