"""Access to the internals of the Kafka driver's client, for tests that break them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import kafka.errors
import trio


async def on_the_loop(client: Any, fn: Callable[[], object]) -> None:
    """Call a function on the loop of a KafkaNetClient, which owns its state."""
    done = threading.Event()
    future = client._manager.call_soon(fn).add_both(lambda _: done.set())
    assert await trio.to_thread.run_sync(done.wait, 10.0)
    if future.exception is not None:
        raise future.exception


def move_all_brokers(client: Any) -> None:
    """Replace the advertised addresses by addresses without an answer. Call it on the loop."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    cluster = client.cluster
    for brokers in (cluster._brokers, cluster._coordinator_brokers):
        for node_id, broker in list(brokers.items()):
            brokers[node_id] = type(broker)(node_id, broker.host, port, None)
    for connection in list(client._manager._conns.values()):
        connection.close(kafka.errors.KafkaConnectionError("the broker has moved"))
