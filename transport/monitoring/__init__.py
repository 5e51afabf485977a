"""The events that a monitor receives, and a monitor that counts them.

Start reading at `sensor.py`, which has the events. `monitor.py` has the counts, and `sensors.py`
passes events on to several sensors. The parts of an app call a monitor through
`transport/probe.py`, and import nothing of this package.
Imports: the app, its parts, and values.
"""
