"""A bound for TLS handshakes that get no answer.

The client bounds each step of a connection but this one. Without an answer, the connection is never
ready, all requests that wait for it hang, and opening a client has no end.
"""

from __future__ import annotations

from typing import Any

import kafka.errors
from kafka.net.selector import TaskState

ANSWERS_NOTHING = "accepted the connection and did not answer the TLS handshake"
# Later than the client's own bounds, so that its more specific error wins.
_MOMENT = 0.05


def bound_handshakes(manager: Any) -> None:
    """Let a new client's connection fail if its handshake outlasts the time for connecting."""
    # `_build_transport`: connects, and shakes hands. `_current`, `inject_exc`, `_add_ready_task`:
    # how the client's own bounds end a wait.
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
