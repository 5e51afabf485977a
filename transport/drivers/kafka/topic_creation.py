"""The creation of one topic, with an admin client of its own and one timeout.

The client has a timeout for connecting and one for each request, but none for the whole. No public
call ends a request to a broker that has stopped answering. So `give_up` closes the connections, and
everything that waits for them fails.
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

# Milliseconds of one wait for a new topic. Between two waits, `make` checks whether to give up.
_SLICE_MS = 200


class Creation:
    """The creation of one topic. Call `make` once, on a thread that it may block.

    Args:
        options: the options of the admin client.
        wanted: the properties of the topic, as the client takes them.
        timeout: seconds from now on.
        wait: whether `make` waits until the topic can be written.
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
        self._lock = threading.Lock()  # one thread makes the client, and another may cut it off
        self._is_given_up = False
        self._client: Any = None  # the KafkaNetClient, while it can be cut off

    def make(self) -> None:
        """Create the topic. Raises BrokerUnavailable after the timeout, and the client's errors."""
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
                made.close()  # the failed KafkaAdminClient leaves it open, with its thread

    def give_up(self) -> None:
        """End a `make` under way soon. From any thread."""
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
