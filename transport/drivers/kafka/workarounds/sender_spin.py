"""Waits for the producer's network thread, which otherwise spins while it cannot reach a broker.

Look here when a producer uses CPU time without sending. While messages wait for a broker, the
client's thread loops without a pause, for two reasons:

- If the leader of a partition is unknown, each pass requests new metadata, and each request ends
  the wait of the same pass. This uses a whole core until the partition has a leader.
- The client uses the seconds of a backoff as milliseconds. It does not wait at all for a connection
  that is connecting, throttled, or at its maximum of requests in flight.

The corrections do not delay a message. Metadata is requested again as soon as before, and a
connection that becomes usable ends the wait.
"""

from __future__ import annotations

import math
from typing import Any


def wait_for_brokers(producer: Any) -> None:
    """Let each pass of a new producer's network thread wait while no broker can be reached."""
    # `_sender`, `_client`: the client of the network thread alone.
    client = producer._sender._client
    _request_once(client.cluster)
    _delay_in_milliseconds(client)


def _request_once(cluster: Any) -> None:
    request_update = cluster.request_update

    def request_if_none_waits() -> Any:
        # `_lock`, `_need_update`, `_future`: the pending request. The metadata loop knows of it,
        # and sends it after the backoff, or has sent it.
        with cluster._lock:
            waiting = cluster._future if cluster._need_update else None
        if waiting is None or waiting.is_done:
            waiting = request_update()
        return waiting

    cluster.request_update = request_if_none_waits


def _delay_in_milliseconds(client: Any) -> None:
    # `connection_delay`: the network thread calls it for each leader that is not ready, and waits
    # for the returned number of milliseconds. `_manager` has the backoffs, in seconds, and the
    # connections.
    manager = client._manager

    def delay(node_id: Any) -> float:
        if (seconds := manager.connection_delay(node_id)) > 0:
            return float(seconds * 1000)
        # `_conns`, `initializing`, `paused`: the client's loop ends these states, and each event of
        # the loop ends the thread's wait.
        connection = manager._conns.get(node_id)
        is_pending = connection is not None and (connection.initializing or connection.paused)
        return math.inf if is_pending else 0.0

    client.connection_delay = delay
