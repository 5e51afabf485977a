"""Pauses between connections that a broker closes before they can be used.

A load balancer without a broker behind it, or a broker that starts or stops, accepts a connection
and then closes it. The client takes such a connection for a success and connects again at once,
more than a hundred times a second. A refused connection gets a backoff, and so does this one here.
"""

from __future__ import annotations

from typing import Any


def back_off_when_closed(client: Any) -> None:
    """Let a new client wait, longer each time, after a connection that was closed at its start."""
    # `_manager`, `_connect`: connects to a node, and removes its backoff even if the connection was
    # closed meanwhile. `_backoff`: the failures of each node in a row.
    manager = client._manager
    connect = manager._connect

    async def connect_and_check(node: Any, connection: Any, *args: Any, **options: Any) -> None:
        before = manager._backoff.get(node.node_id)
        await connect(node, connection, *args, **options)
        if connection.closed and node.node_id not in manager._backoff:
            if before is not None:
                manager._backoff[node.node_id] = before
            manager.update_backoff(node.node_id)

    manager._connect = connect_and_check
