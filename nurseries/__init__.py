"""Structured concurrency for trio programs with long-lived parts.

- `Service`, `running`: a named node in a tree of tasks, with an orderly stop.
- `Gate`: flow control, made of trio Events.
- `Worker`: one owned thread, whose calls run in order and are safe to cancel.
- `tick`: a periodic task.
"""

from nurseries.gate import Gate
from nurseries.service import Node, Service, ServiceError, State, StopTimeout, exposed, running
from nurseries.ticker import tick
from nurseries.worker import Call, CallWithdrawn, Worker, WorkerClosed, WorkerStuck

__all__ = [
    "Call",
    "CallWithdrawn",
    "Gate",
    "Node",
    "Service",
    "ServiceError",
    "State",
    "StopTimeout",
    "Worker",
    "WorkerClosed",
    "WorkerStuck",
    "exposed",
    "running",
    "tick",
]
