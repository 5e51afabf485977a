"""`Sensors`: several sensors that one app reports to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transport.arguments import instance
from transport.monitoring.sensor import Sensor

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


class Sensors(Sensor):
    """A sensor that passes each event on to several sensors, in the given order.

    Each sensor receives the states that it has returned itself. An error of one of them ends the
    app, as an error of a single sensor does.

    Args:
        *sensors: for example a `Monitor()` and a sensor of yours.

    Raises:
        TypeError: an argument is not a `Sensor`.
    """

    def __init__(self, *sensors: Sensor) -> None:
        for sensor in sensors:
            instance("each argument of Sensors", sensor, Sensor, "a Sensor, such as Monitor()")
        self.sensors = sensors


def _begin(name: str) -> Callable[..., object]:
    def begin(self: Sensors, *args: Any) -> tuple[Any, ...]:
        return tuple(getattr(sensor, name)(*args) for sensor in self.sensors)

    return begin


def _end(name: str) -> Callable[..., object]:
    def end(self: Sensors, source: Any, states: tuple[Any, ...], *args: Any) -> None:
        for sensor, state in zip(self.sensors, states, strict=True):
            getattr(sensor, name)(source, state, *args)

    return end


def _each(name: str) -> Callable[..., object]:
    def each(self: Sensors, *args: Any) -> None:
        for sensor in self.sensors:
            getattr(sensor, name)(*args)

    return each


# One rule for all events, also for those that `Sensor` gets later.
for _name in [name for name in vars(Sensor) if name.startswith("on_")]:
    _make = _begin if _name in _BEGINS else _end if _name in _ENDS else _each
    setattr(Sensors, _name, _make(_name))
