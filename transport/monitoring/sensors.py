"""`Sensors`: several sensors that one app reports to."""

from __future__ import annotations

from transport.arguments import instance
from transport.monitoring.sensor import Sensor
from transport.probe import Points
from transport.tee import Tee


class Sensors(Tee, Sensor):
    """A sensor that passes each event on to several sensors, in the given order.

    Each sensor receives the states that it has returned itself. An error of one of them ends the
    app, as an error of a single sensor does.

    Args:
        *sensors: for example a `Monitor()` and a sensor of yours.

    Raises:
        TypeError: an argument is not a `Sensor`.
    """

    def __init__(self, *sensors: Points) -> None:
        for sensor in sensors:
            instance("each argument of Sensors", sensor, Points, "a Sensor, such as Monitor()")
        super().__init__(*sensors)
