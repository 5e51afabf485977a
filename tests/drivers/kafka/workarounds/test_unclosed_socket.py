"""The socket of a connection that fails while it is made is closed at once."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
from collections.abc import Iterator

import pytest
from kafka.net.compat import KafkaNetClient

from tests.kafka.cluster import free_ports
from transport.drivers.kafka.workarounds import unclosed_socket  # noqa: F401 - it closes sockets

pytestmark = pytest.mark.usefixtures("quiet_client")


@contextlib.contextmanager
def client_of(address: str, **options: object) -> Iterator[KafkaNetClient]:
    client = KafkaNetClient(bootstrap_servers=address, **options)
    try:
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def no_collector() -> Iterator[None]:
    """Let no garbage collector run in the block, as in a program that makes few objects."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def fail_to_connect(client: KafkaNetClient) -> None:
    (node,) = (broker.node_id for broker in client.cluster.bootstrap_brokers())
    client.maybe_connect(node)
    failed = client._manager._conns[node].init_future
    client.poll(timeout_ms=5000, future=failed)
    assert failed.exception is not None


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_refused_socket_is_closed_without_the_garbage_collector() -> None:
    (port,) = free_ports(1)
    with no_collector():
        before = open_files()
        for _ in range(3):
            with client_of(f"127.0.0.1:{port}") as client:
                fail_to_connect(client)
        assert open_files() == before


def test_socket_is_closed_if_its_connection_takes_too_long() -> None:
    with contextlib.ExitStack() as stack, no_collector():
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(2):  # the queue of the listener is full, so it answers no more
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        before = open_files()
        with client_of(f"127.0.0.1:{address[1]}", socket_connection_setup_timeout_ms=100) as client:
            fail_to_connect(client)
        assert open_files() == before


def test_socket_is_closed_if_its_handshake_fails() -> None:
    with contextlib.ExitStack() as stack, no_collector():
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def close_one() -> None:
            accepted, _ = listener.accept()
            accepted.close()

        before = open_files()
        closing = threading.Thread(target=close_one)
        closing.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with client_of(address, security_protocol="SSL") as client:
            fail_to_connect(client)
        closing.join()
        assert open_files() == before
