"""`Tee`: passes each event of an app on to several monitors.

Look here for how a begin and an end that belong together keep the state of each monitor apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transport.probe import Points

# The methods for the begin of an operation, and those for its end. The state comes second there.
_BEGINS = ("on_commit_initiated", "on_assignment_start", "on_rebalance_start")
_ENDS = (
    "on_commit_completed",
    "on_commit_error",
    "on_assignment_completed",
    "on_assignment_error",
    "on_rebalance_return",
    "on_rebalance_end",
)


class Tee(Points):
    """Points that pass each event on to several others, in the given order.

    Each of them receives the states that it has returned itself. After an error of one of them, the
    others do not receive the event.
    """

    def __init__(self, *sensors: Points) -> None:
        self.sensors = sensors


def _begin(name: str) -> Callable[..., object]:
    def begin(self: Tee, *args: Any) -> tuple[Any, ...]:
        return tuple(getattr(sensor, name)(*args) for sensor in self.sensors)

    return begin


def _end(name: str) -> Callable[..., object]:
    def end(self: Tee, source: Any, states: tuple[Any, ...], *args: Any) -> None:
        for sensor, state in zip(self.sensors, states, strict=True):
            getattr(sensor, name)(source, state, *args)

    return end


def _each(name: str) -> Callable[..., object]:
    def each(self: Tee, *args: Any) -> None:
        for sensor in self.sensors:
            getattr(sensor, name)(*args)

    return each


# One rule for all events, also for those that `Points` gets later.
for _name in [name for name in vars(Points) if name.startswith("on_")]:
    _make = _begin if _name in _BEGINS else _end if _name in _ENDS else _each
    setattr(Tee, _name, _make(_name))
