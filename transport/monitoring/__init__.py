"""What a monitor is told, and a monitor that counts.

Start reading at `sensor.py`. The parts of an app reach a monitor through `transport/probe.py` and
import nothing of this package.
Imports: the app, its parts, and values.
"""
