"""Flow control out of trio Events.

An Event is set once and for good. Flow starts and stops many times, and both sides are waited
for: "may I go on", and "has it stopped". A `Gate` is a pair of Events, of which one is set at any
time; each turn of the gate makes a new Event for the other side.
"""

from __future__ import annotations

import trio

from nurseries.arguments import flag


class Gate:
    """A gate that is open or shut; tasks wait for either.

    Turning it is not a checkpoint and wakes every task that waits for the new state.
    """

    def __init__(self, *, is_open: bool = True) -> None:
        flag("is_open", is_open)
        self._opened = trio.Event()
        self._shut = trio.Event()
        (self._opened if is_open else self._shut).set()

    @property
    def is_open(self) -> bool:
        return self._opened.is_set()

    @property
    def opened(self) -> trio.Event:
        """Set while the gate is open. Ask again after each turn: Events are not re-armed."""
        return self._opened

    @property
    def shut(self) -> trio.Event:
        """Set while the gate is shut. Ask again after each turn: Events are not re-armed."""
        return self._shut

    @trio.lowlevel.enable_ki_protection
    def open(self) -> None:
        """Open the gate; an open one stays open."""
        if not self._opened.is_set():
            self._shut = trio.Event()
            self._opened.set()

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Shut the gate; a shut one stays shut."""
        if not self._shut.is_set():
            self._opened = trio.Event()
            self._shut.set()

    async def passed(self) -> None:
        """Wait until the gate is open at the moment of waking.

        A checkpoint, also when it is open. Cancelling changes nothing.
        """
        await trio.lowlevel.checkpoint()
        while not self._opened.is_set():
            await self._opened.wait()
