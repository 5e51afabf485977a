"""Handlers of the signals that stop a program: SIGTERM, and SIGINT (Ctrl-C at a terminal).

`App.stop_on_signals` installs the handlers, and the app removes them when it has closed. Python
runs a signal handler in the main thread, between any two instructions. So the handlers only pass
the signal on to trio. They work in trio's own loop, and if trio is a guest of asyncio.
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

    The first signal of either kind calls `stop`. A later SIGTERM does nothing. A later SIGINT calls
    the previous handler, which usually raises KeyboardInterrupt. A signal that the process ignores
    stays ignored.

    Args:
        token: the token of the trio run in which `stop` is called.
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
        """Install the handlers. Raises RuntimeError outside of the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(number)
            # None: code in another language has installed a handler that Python cannot restore.
            if before is signal.SIG_IGN or before is None:
                continue
            try:
                signal.signal(number, self._on_signal)
            except ValueError:
                raise RuntimeError(
                    "Python handles signals in the main thread only: call app.stop_on_signals()"
                    " there, or call app.stop() when your program must stop"
                ) from None
            self._before[number] = before

    def remove(self) -> None:
        """Restore the previous handlers."""
        for number, before in self._before.items():
            # Another library may have replaced the handler since then.
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
