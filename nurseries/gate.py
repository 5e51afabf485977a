"""Flow control, made of trio Events.

An Event can be set only once. A flow starts and stops many times, and tasks wait for both changes.
A `Gate` is a pair of Events, of which exactly one is set at any time. Each change of state creates
a new Event for the other side.
"""

from __future__ import annotations

import trio

from nurseries.arguments import flag


class Gate:
    """A gate that is open or shut. Tasks can wait for either state.

    Changing the state is not a checkpoint. It wakes every task that waits for the new state.
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
        """The Event that is set while the gate is open.

        Read this property again after each change, because an Event cannot be reset.
        """
        return self._opened

    @property
    def shut(self) -> trio.Event:
        """The Event that is set while the gate is shut.

        Read this property again after each change, because an Event cannot be reset.
        """
        return self._shut

    @trio.lowlevel.enable_ki_protection
    def open(self) -> None:
        """Open the gate. An open gate stays open. Not a checkpoint."""
        if not self._opened.is_set():
            self._shut = trio.Event()
            self._opened.set()

    @trio.lowlevel.enable_ki_protection
    def close(self) -> None:
        """Shut the gate. A shut gate stays shut. Not a checkpoint."""
        if not self._shut.is_set():
            self._opened = trio.Event()
            self._shut.set()

    async def passed(self) -> None:
        """Wait until the gate is open at the moment when the task wakes.

        A checkpoint, even if the gate is open. Cancelling changes nothing.
        """
        await trio.lowlevel.checkpoint()
        while not self._opened.is_set():
            await self._opened.wait()
