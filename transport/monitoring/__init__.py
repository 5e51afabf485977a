"""The events that a monitor receives, and a monitor that counts them.

Start reading at `sensor.py`, which has the events. `monitor.py` has the counts, and `sensors.py`
passes events on to several sensors. `tracing.py` has `Tracing`, which makes the spans of messages
with the package `spans`. The parts of an app make their calls through `transport/probe.py` and
`transport/tracing.py`, and import nothing of this package.
Imports: the app, its parts, and values.
"""
