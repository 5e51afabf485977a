"""Structured-concurrency parts for trio programs that keep long-lived things.

- `Service`, `running`: a named node of a tree of tasks, with an orderly end.
- `Gate`: flow control, made of trio Events.
- `Worker`: one owned thread, its calls in order and safe to cancel.
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
