"""The creation of one topic, by an admin client of its own.

The client has no bound for it: connecting has one, each request has another, and one that waits
for a broker that stands still is not to be ended from outside by a public call. So we say when to
give up, and close its connections, which fails all that waits for them.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from typing import Any

import kafka.errors
from kafka import KafkaAdminClient

from transport.drivers.kafka.connecting import Attempt
from transport.drivers.kafka.waiting import Waiting
from transport.errors import BrokerUnavailable

# The client waits for a new topic so long at once; in between we look whether to give up.
_SLICE_MS = 200


class Creation:
    """A topic that is to be created; `make` it once, on a thread where it may block.

    Args:
        options: of the admin client.
        wanted: of the topic, as the client wants it.
        timeout: seconds from now on.
        wait: until the topic can be written.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        topic: str,
        wanted: Mapping[str, Any],
        timeout: float,
        waiting: Waiting,
        *,
        wait: bool,
    ) -> None:
        self._waiting = waiting
        self._options = options
        self._topic = topic
        self._wanted = wanted
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._wait = wait
        self._lock = threading.Lock()  # a client is made on one thread and cut by another
        self._is_given_up = False
        self._client: Any = None  # the KafkaNetClient, as long as it can be cut

    def make(self) -> None:
        """Create it. Raises BrokerUnavailable after the timeout, and what the client raises."""
        left_ms = self._left_ms()
        attempt = Attempt(self._options["bootstrap_servers"], self._enter, self._waiting)
        bounded = {
            **self._options,
            "bootstrap_timeout_ms": min(left_ms, self._options["bootstrap_timeout_ms"]),
        }
        admin = None
        try:
            with attempt.errors():
                admin = KafkaAdminClient(**{**attempt.options(KafkaAdminClient), **bounded})
            with contextlib.suppress(kafka.errors.TopicAlreadyExistsError):
                admin.create_topics({self._topic: self._wanted}, timeout_ms=self._left_ms())
            if self._wait:
                self._wait_for(admin)
        finally:
            with self._lock:
                made, self._client = self._client, None
            if admin is not None:
                admin.close()
            elif made is not None:
                made.close()  # the class leaves it as it is, with its thread

    def give_up(self) -> None:
        """Let `make` end soon, if it has not. From any thread."""
        with self._lock:
            self._is_given_up = True
            client = self._client
            if client is not None:
                # `_manager`: closes the connections, on the loop that owns them.
                with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                    client._manager.call_soon(client._manager.close)

    def _enter(self, client: Any) -> None:
        with self._lock:
            self._client = client
        self._left_ms()

    def _left_ms(self) -> int:
        left_ms = round((self._deadline - time.monotonic()) * 1000)
        if self._is_given_up or left_ms <= 0:
            raise BrokerUnavailable(f"{self._topic!r} was not created within {self._timeout:g} s")
        return left_ms

    def _wait_for(self, admin: KafkaAdminClient) -> None:
        while True:
            slice_ms = min(_SLICE_MS, self._left_ms())
            with contextlib.suppress(kafka.errors.KafkaTimeoutError):
                admin.wait_for_topics([self._topic], timeout_ms=slice_ms)
                return
