"""The reason why a client could not be built, taken from its connections."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import kafka.errors
import pytest
from kafka.future import Future
from kafka.net.transport import KafkaTCPTransport

from transport.drivers.kafka.connecting import Attempt
from transport.drivers.kafka.waiting import Waiting
from transport.drivers.kafka.workarounds.silent_handshake import ANSWERS_NOTHING
from transport.errors import AuthorizationFailed, BrokerUnavailable


class Connection:
    """A connection of the client."""

    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)


class Manager:
    """The part of the client's manager that an `Attempt` uses."""

    def __init__(self) -> None:
        self.bootstrapped = self.closed = False
        self.connections: list[Any] = []
        self._net = self._build_transport = None
        self.cluster = SimpleNamespace(broker_metadata=lambda node_id: None)

    def get_connection(self) -> Any:
        self.connections.append(
            Connection(
                node_id="bootstrap-0",
                init_future=Future(),
                close_future=Future(),
                connection_made=lambda transport: None,
                unpause=lambda reason: None,
                _send_request=lambda request, **options: None,
                parser=SimpleNamespace(),
            )
        )
        return self.connections[-1]

    def close(self) -> None:
        for connection in self.connections:
            if not connection.init_future.is_done:
                connection.init_future.failure(kafka.errors.Cancelled())


def build(manager: Manager) -> Attempt:
    client = SimpleNamespace(_manager=manager)
    library_class = SimpleNamespace(DEFAULT_CONFIG={"kafka_client": lambda **options: client})
    servers = ["host:1", "host:2"]
    attempt = Attempt(servers, lambda _: None, Waiting("app", servers))
    attempt.options(library_class)["kafka_client"](security_protocol="PLAINTEXT")
    return attempt


def fail(attempt: Attempt) -> None:
    with attempt.errors():
        raise kafka.errors.KafkaTimeoutError("bootstrap")


def test_refusal_is_raised_despite_later_failures() -> None:
    manager = Manager()
    attempt = build(manager)
    refused, _ = manager.get_connection(), manager.get_connection()
    refused.init_future.failure(kafka.errors.SaslAuthenticationFailedError("wrong password"))
    with pytest.raises(AuthorizationFailed, match="wrong password"):
        fail(attempt)


def test_last_failure_is_raised_without_refusal() -> None:
    manager = Manager()
    attempt = build(manager)
    for reason in ("ECONNRESET", "ECONNREFUSED"):
        manager.get_connection().init_future.failure(kafka.errors.KafkaConnectionError(reason))
    with pytest.raises(BrokerUnavailable, match=r"host:1, host:2.*ECONNREFUSED"):
        fail(attempt)


def test_handshake_cut_off_at_timeout_does_not_hide_earlier_reason() -> None:
    manager = Manager()
    attempt = build(manager)
    for reason in ("Handshake failed: [SSL: EOF]", f"Handshake failed: host:1 {ANSWERS_NOTHING}"):
        manager.get_connection().init_future.failure(kafka.errors.KafkaConnectionError(reason))
    with pytest.raises(BrokerUnavailable, match="SSL"):
        fail(attempt)


def test_last_bytes_of_broker_are_read_before_end_of_connection() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        theirs.send(b"refused")
        theirs.close()
        manager = Manager()
        build(manager)
        transport = KafkaTCPTransport(None, ours)
        manager.get_connection().connection_made(transport)
        assert transport._sock_recv() == (b"refused", None)
        data, end = transport._sock_recv()
        assert data == b""
        assert isinstance(end, kafka.errors.KafkaConnectionError)
