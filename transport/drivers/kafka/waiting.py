"""The log lines of one app about brokers that do not answer and topics that are missing.

The client retries silently, or logs each retry. Here each change of state is one log line, and an
error can name its cause. Look here for the texts about `advertised.listeners`.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Collection, Iterable, Sequence

import attrs

from transport.excerpt import listed
from transport.log import Log

_ERRNO = re.compile(r"(?P<number>\d+) (?P<name>E[A-Z]+)")
_PLAIN = {
    "ECONNREFUSED": "connection refused",
    "ECONNRESET": "connection reset",
    "EHOSTUNREACH": "no route to host",
    "ENETUNREACH": "network is unreachable",
    "ETIMEDOUT": "connection timed out",
}
_UNRESOLVED = "DNS Resolution failure"


def reason_of(error: object) -> str:
    """Return the client's error in plain words, without the name of its class."""
    text = re.sub(r"^(KafkaConnectionError|KafkaTimeoutError|Cancelled): ", "", str(error))
    if _UNRESOLVED in text:
        return "the host name cannot be resolved"
    match = _ERRNO.search(text)
    if match is not None and (words := _PLAIN.get(match["name"])) is not None:
        return f"{words} ({match['name']})"
    return text


@attrs.define
class _Address:
    """The state of one address of a broker."""

    since: float  # of its state, on the monotonic clock
    was_reached: bool = False
    failure: str | None = None  # None: it answers, or the first connection is under way


class Waiting:
    """The addresses and the topics that the clients of one app wait for.

    All calls are safe from any thread.

    Args:
        app: the name in the log lines.
        servers: the bootstrap addresses.

    Attributes:
        log: the log of the app, for other lines of its clients.
    """

    def __init__(self, app: str, servers: Sequence[str]) -> None:
        self.log = Log("transport.drivers.kafka", app)
        self._servers = tuple(servers)
        self._lock = threading.Lock()
        self._addresses: dict[str, _Address] = {}
        self._absent: set[str] = set()

    def connecting(self, address: str) -> None:
        """Note that a connection to an address begins."""
        with self._lock:
            self._addresses.setdefault(address, _Address(time.monotonic()))

    def connected(self, address: str) -> None:
        """Note that an address has answered."""
        with self._lock:
            state = self._addresses.setdefault(address, _Address(time.monotonic()))
            was_away, waited = state.failure is not None, time.monotonic() - state.since
            if was_away or not state.was_reached:
                state.since = time.monotonic()
            state.was_reached, state.failure = True, None
        if was_away:
            self.log.info(
                "broker_back",
                "the broker at %s answers again, after %.1f s",
                *(address, waited),
                broker=address,
                seconds=waited,
            )

    def failed(self, address: str, error: object) -> None:
        """Note that a connection to an address has failed."""
        reason = reason_of(error)
        with self._lock:
            state = self._addresses.setdefault(address, _Address(time.monotonic()))
            is_new = state.failure is None
            state.failure = reason
            if is_new:
                state.since = time.monotonic()
            advertised = self._advertised(address, state)
        if not is_new:
            return
        if advertised is not None:
            self.log.warning(
                "advertised_unreachable", "%s", advertised, broker=address, error=reason
            )
        else:
            self.log.warning(
                "broker_away",
                "the broker at %s does not answer: %s. The client keeps trying",
                *(address, reason),
                broker=address,
                error=reason,
            )

    def absent(self, topics: Iterable[str], timeout: float) -> None:
        """Note that the broker does not have these topics and that the app waits for them."""
        with self._lock:
            new = sorted(set(topics) - self._absent)
            self._absent.update(new)
        for topic in new:
            self.log.warning(
                "topic_absent",
                "the topic %r does not exist on the broker. The app waits up to %g s for it",
                *(topic, timeout),
                topic=topic,
                seconds=timeout,
            )

    def unanswered(self, topics: Iterable[str], timeout: float) -> None:
        """Log that no broker has answered about these topics yet."""
        self.log.warning(
            "topic_unknown",
            "no broker has answered about the topic %s yet. The client asks for up to %g s",
            *(listed(map(repr, sorted(topics))), timeout),
            seconds=timeout,
        )

    def present(self, topics: Collection[str]) -> None:
        """Note that these topics exist."""
        if not self._absent:
            return
        with self._lock:
            found = sorted(self._absent.intersection(topics))
            self._absent.difference_update(found)
        for topic in found:
            self.log.info("topic_present", "the topic %r exists now", topic, topic=topic)

    @property
    def is_away(self) -> bool:
        """Whether a broker does not answer now."""
        with self._lock:
            return any(state.failure is not None for state in self._addresses.values())

    def is_cut_off(self, addresses: Collection[str]) -> bool:
        """Return whether none of these addresses could ever be reached, though each was tried."""
        with self._lock:
            states = [self._addresses.get(address) for address in addresses]
        return bool(states) and all(
            state is not None and state.failure is not None and not state.was_reached
            for state in states
        )

    def why(self) -> str:
        """Return why no broker answers, for the end of an error's text; "" if nothing is known."""
        with self._lock:
            texts = [
                self._advertised(address, state) or f"{address}: {state.failure}"
                for address, state in sorted(self._addresses.items())
                if state.failure is not None
            ]
            texts += [
                f"{advertised} has not answered yet"
                if (advertised := self._names_advertised(address)) is not None
                else f"{address} has not answered yet"
                for address, state in sorted(self._addresses.items())
                if state.failure is None and not state.was_reached
            ]
        return "; ".join(texts)

    def _advertised(self, address: str, state: _Address) -> str | None:
        """Return the text about an address that failed and that only the broker has named."""
        names = None if state.was_reached else self._names_advertised(address)
        if names is None:
            return None
        return (
            f"{names} cannot be reached: {state.failure}."
            " Set `advertised.listeners` of the broker to an address that this program can reach"
        )

    def _names_advertised(self, address: str) -> str | None:
        if address in self._servers:
            return None
        answered = [
            server
            for server in self._servers
            if server in self._addresses and self._addresses[server].was_reached
        ]
        if not answered:
            return None
        return (
            f"the broker at the bootstrap address {', '.join(answered)} answers,"
            f" but the address {address} that it advertises"
        )
