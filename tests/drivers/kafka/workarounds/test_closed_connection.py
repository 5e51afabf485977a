"""A broker that closes each new connection is asked again with growing pauses."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from kafka.net.compat import KafkaNetClient

from transport.drivers.kafka.workarounds.closed_connection import back_off_when_closed

pytestmark = pytest.mark.usefixtures("quiet_client")


class ClosingBroker:
    """A broker that accepts connections and closes each of them at once."""

    def __init__(self) -> None:
        self.accepted = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                connection, _ = self._listener.accept()
                connection.close()
                self.accepted += 1

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def broker() -> Iterator[ClosingBroker]:
    broker = ClosingBroker()
    yield broker
    broker.close()


@pytest.fixture
def client(broker: ClosingBroker) -> Iterator[KafkaNetClient]:
    client = KafkaNetClient(
        bootstrap_servers=broker.address, reconnect_backoff_ms=50, reconnect_backoff_max_ms=1000
    )
    back_off_when_closed(client)
    yield client
    client.close()


def connect_for(client: KafkaNetClient, seconds: float) -> None:
    """Connect whenever the client's backoff allows it."""
    (node,) = (broker.node_id for broker in client.cluster.bootstrap_brokers())
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not client.connection_delay(node):
            client.maybe_connect(node)
        client.poll(timeout_ms=5)


def test_pauses_between_closed_connections_grow(
    client: KafkaNetClient, broker: ClosingBroker
) -> None:
    """The pauses are 50, 100, 200 and 400 ms, each 20 % shorter or longer."""
    connect_for(client, 1.0)
    assert 2 <= broker.accepted <= 6
