"""The verb `demo`, for the list of verbs. Without the extra, `transport/__main__.py` runs it."""

from __future__ import annotations

from transport.demo import run_demo


def demo(*, broker: str = "memory://demo", orders: int = 100_000) -> int:
    """Show two members of a group, a crash midway, and a check of all messages.

    Example: kafka-nursery demo --orders 10000

    Parameters
    ----------
    broker:
        The broker. The default is in memory.
    orders:
        The number of orders.
    """
    return run_demo(broker, orders)
