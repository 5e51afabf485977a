"""Handlers of the signals that stop a program: SIGTERM, and SIGINT (Ctrl-C at a terminal).

`App.stop_on_signals` installs the handlers, and the app removes them when it has closed. `App.run`
has them for the whole program. Python runs a signal handler in the main thread, between any two
instructions. So the handler of a first signal only passes it on to trio: `passed_to`. That works
in trio's own loop, and if trio is a guest of asyncio.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeAlias

import trio

OnSignal: TypeAlias = Callable[[signal.Signals], None]
Handler: TypeAlias = Callable[[int, FrameType | None], None]
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


class SignalHandlers:
    """The handlers of SIGTERM and SIGINT: one call for the first signal, and one for later signals.

    A signal that the process ignores stays ignored. In a forked child, such as a worker process of
    `multiprocessing`, a signal has the effect that it had before.

    Args:
        first: called with the first signal of either kind.
        later: the handler of each later signal. None: a later SIGTERM does nothing, and a later
            SIGINT calls the previous handler, which usually raises KeyboardInterrupt.
        keeps_others: install no handler for a signal for which the program has its own.
    """

    def __init__(
        self, first: OnSignal, later: Handler | None = None, *, keeps_others: bool = False
    ) -> None:
        self._first = first
        self._later = self._call_previous if later is None else later
        self._keeps_others = keeps_others
        self._was_asked = False
        self._before: dict[signal.Signals, Any] = {}
        self._process = os.getpid()

    def install(self) -> list[signal.Signals]:
        """Install the handlers. Return the signals for which the program keeps its own handler.

        Raises RuntimeError outside of the main thread.
        """
        kept = []
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(number)
            # None: code in another language has installed a handler that Python cannot restore.
            if before is signal.SIG_IGN or before is None:
                continue
            if self._keeps_others and before not in _DEFAULTS:
                kept.append(number)
                continue
            try:
                signal.signal(number, self._on_signal)
            except ValueError:
                raise RuntimeError(
                    "Python handles signals in the main thread only: call app.stop_on_signals()"
                    " there, or call app.stop() when your program must stop"
                ) from None
            self._before[number] = before
        return kept

    def remove(self) -> None:
        """Restore the previous handlers."""
        for number, before in self._before.items():
            # Another library may have replaced the handler since then.
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, before)
        self._before.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            signal.signal(number, self._before[signal.Signals(number)])
            signal.raise_signal(number)
        elif self._was_asked:
            self._later(number, frame)
        else:
            self._was_asked = True
            self._first(signal.Signals(number))

    def _call_previous(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            before = self._before.get(signal.SIGINT)
            (before if callable(before) else signal.default_int_handler)(number, frame)


def passed_to(token: trio.lowlevel.TrioToken, fn: OnSignal) -> OnSignal:
    """Return a function that calls `fn` in a trio run, unless that has finished."""

    def pass_on(number: signal.Signals) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(fn, number)

    return pass_on
