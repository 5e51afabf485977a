"""How the pure parts tell of a change without knowing who waits, or with what library."""

from __future__ import annotations

from collections.abc import Callable


class ChangeSignal:
    """Plain callbacks, called in the order in which they came."""

    def __init__(self) -> None:
        self._listeners: dict[Callable[[], None], None] = {}

    def listen(self, listener: Callable[[], None]) -> None:
        self._listeners[listener] = None

    def ignore(self, listener: Callable[[], None]) -> None:
        self._listeners.pop(listener, None)

    def ring(self) -> None:
        for listener in list(self._listeners):
            listener()
