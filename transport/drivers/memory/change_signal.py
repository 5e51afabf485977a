"""The signal by which the pure parts of the broker report a change, without any async library."""

from __future__ import annotations

from collections.abc import Callable


class ChangeSignal:
    """A set of listeners, which `notify` calls in the order in which they were added."""

    def __init__(self) -> None:
        self._listeners: dict[Callable[[], None], None] = {}

    def listen(self, listener: Callable[[], None]) -> None:
        self._listeners[listener] = None

    def ignore(self, listener: Callable[[], None]) -> None:
        self._listeners.pop(listener, None)

    def notify(self) -> None:
        for listener in list(self._listeners):
            listener()
