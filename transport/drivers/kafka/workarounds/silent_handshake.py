"""A timeout for TLS handshakes that get no answer.

The client has a timeout for each step of a connection except this one. Without an answer, the
connection is never ready, all requests on it hang, and opening a client never returns.
"""

from __future__ import annotations

from typing import Any

import kafka.errors
from kafka.net.selector import TaskState

ANSWERS_NOTHING = "accepted the connection and did not answer the TLS handshake"
# Extra time beyond the client's own timeouts, so that its more specific error wins.
_MOMENT = 0.05


def bound_handshakes(manager: Any) -> None:
    """Let a new client's connections fail if the handshake exceeds the timeout for connecting."""
    # `_build_transport`: connects and makes the handshake. `_current`, `inject_exc`,
    # `_add_ready_task`: end a wait, as the client's own timeouts do.
    net, build_transport = manager._net, manager._build_transport

    async def build_in_time(node: Any, timeout_at: float | None = None) -> Any:
        task = net._current

        def give_up() -> None:
            if task.state is TaskState.WAIT_IO and task._exc is None:
                task.inject_exc(
                    kafka.errors.KafkaConnectionError(f"{node.host}:{node.port} {ANSWERS_NOTHING}")
                )
                net._add_ready_task(task)

        timer = None if timeout_at is None else net.call_at(timeout_at + _MOMENT, give_up)
        try:
            return await build_transport(node, timeout_at=timeout_at)
        finally:
            if timer is not None:
                net.cancel(timer)

    manager._build_transport = build_in_time
