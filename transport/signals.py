"""Signals that ask a program to end: SIGTERM, and Ctrl-C at a terminal.

`App.stop_on_signals` installs the handlers; they go when the app has closed. Python runs a signal
handler in the main thread, between any two instructions, so the handlers only pass the signal on
to trio. They work in trio's own loop, and where trio is a guest of asyncio.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import trio


class SignalHandlers:
    """The handlers of SIGTERM and SIGINT while an app is open.

    The first signal of either kind calls `stop`. A later SIGTERM does nothing. A later SIGINT goes
    to the handler that was there before, which raises KeyboardInterrupt as a rule. A signal that
    the process ignores stays ignored.

    Args:
        token: of the trio run in which `stop` is called.
        stop: called once, in trio, with the first signal.
    """

    def __init__(
        self, token: trio.lowlevel.TrioToken, stop: Callable[[signal.Signals], None]
    ) -> None:
        self._token = token
        self._stop = stop
        self._was_asked = False
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Install the handlers. Raise RuntimeError outside of the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(number)
            # None: code in another language has installed it, and Python could not restore it.
            if before is signal.SIG_IGN or before is None:
                continue
            try:
                signal.signal(number, self._on_signal)
            except ValueError:
                raise RuntimeError(
                    "signals reach the main thread only: call app.stop_on_signals() there,"
                    " or call app.stop() when your program is asked to end"
                ) from None
            self._before[number] = before

    def remove(self) -> None:
        """Restore the handlers that were there before."""
        for number, before in self._before.items():
            # Another library may have installed a handler of its own since then.
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, before)
        self._before.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._was_asked:
            self._was_asked = True
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._stop, signal.Signals(number))
        elif number == signal.SIGINT:
            before = self._before.get(signal.SIGINT)
            (before if callable(before) else signal.default_int_handler)(number, frame)
