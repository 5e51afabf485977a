"""A sensor to wait for fetched messages; a scheduler can then deliver them in any order."""

from __future__ import annotations

import trio

from transport import TP, Sensor


class Fetched(Sensor):
    """Sets the event `all` when `count` messages have been fetched."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.all = trio.Event()

    def on_messages_in(self, tp: TP, count: int) -> None:
        self.left -= count
        if self.left == 0:
            self.all.set()
