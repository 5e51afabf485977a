"""`Program`: an app that is a whole program, with its signals, its exit code and its last words.

Look here for what `App.run` does around `async with app`. `crash_report.py` makes the text of the
errors, and `signals.py` installs the signal handlers.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from contextlib import AbstractAsyncContextManager
from types import FrameType
from typing import Protocol

import trio

from transport.crash_report import crash_report
from transport.excerpt import excerpt_of_error, listed
from transport.leaves import leaves
from transport.log import Log
from transport.signals import SignalHandlers, passed_to

_FLUSH_TIMEOUT = 0.5  # seconds


class Stoppable(Protocol):
    """An open app, as far as a program uses it."""

    def stop(self) -> None: ...

    async def wait_stopped(self) -> None: ...


class Program:
    """One run of an app as a whole program.

    The first SIGTERM or SIGINT stops the app in order. If the app is not open yet, the signal
    cancels its opening. A second signal ends the process at once.

    Args:
        name: the name of the app, for the log.
        node: the name of its node in the tree, for the report of a crash.
        grace: the seconds that the orderly end may take, for the log.
        app: opens the app, and closes it.
    """

    def __init__(
        self, name: str, node: str, grace: float, app: AbstractAsyncContextManager[Stoppable]
    ) -> None:
        self._name = name
        self._log = Log("transport.app", name)
        self._node = node
        self._grace = grace
        self._app = app
        self._life = trio.CancelScope()
        self._open: Stoppable | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._signal: signal.Signals | None = None

    def run(self) -> None:
        """Run until the app has stopped. Return after an orderly end.

        Raises:
            SystemExit: with code 1, after the report of a crash on stderr. The `__cause__` is the
                error of the crash. Or the SystemExit that the user's code has raised.
            KeyboardInterrupt: the user's code, or a signal handler of the program, has raised it.
        """
        handlers = SignalHandlers(self._on_signal, self._end_at_once, keeps_others=True)
        for number in handlers.install():
            self._log.info(
                "signal_not_handled",
                "the program has its own handler of %s, so that signal does not stop the app",
                number.name,
                signal=number.name,
            )
        crash: BaseException | None = None
        try:
            trio.run(self._main)
        except BaseException as error:  # noqa: BLE001 - _end raises it again, or reports it
            crash = error
        finally:
            handlers.remove()
        if crash is not None:
            self._end(crash)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        if self._signal is not None:  # it came before there was a token
            self._life.cancel()
        with self._life:
            async with self._app as self._open:
                await self._open.wait_stopped()

    def _on_signal(self, number: signal.Signals) -> None:
        self._signal = number
        if self._token is not None:
            passed_to(self._token, self._stop)(number)

    def _stop(self, number: signal.Signals) -> None:
        self._announce(
            "stopping",
            f"{number.name} received: the app stops in order, within {self._grace:g} s. A second"
            " signal ends the process at once",
            number,
        )
        if self._open is None:
            self._life.cancel()
        else:
            self._open.stop()

    def _end_at_once(self, number: int, frame: FrameType | None) -> None:
        """End the process, whatever its tasks and threads do.

        An exception is not enough. It would be raised in the task that runs now, and the app would
        then close in order. A task that blocks the event loop, or a thread that is stuck in a call,
        would hold up the end. Death by the signal itself is not enough either: the kernel does not
        end the first process of a container in that way. So the process exits with the code that a
        shell gives to this signal. That skips the usual flush of the streams and the log, and they
        are flushed here.
        """
        try:
            # In another thread, because the interrupted code or a stuck thread may hold the lock of
            # a stream. threading.Thread has a lock of its own, which may be held as well.
            flushed = threading.Lock()
            flushed.acquire()
            _thread.start_new_thread(self._flush, (signal.Signals(number), flushed))
            flushed.acquire(timeout=_FLUSH_TIMEOUT)
        finally:
            os._exit(128 + number)

    def _flush(self, number: signal.Signals, flushed: threading.Lock) -> None:
        try:
            text = f"{number.name} received again: the process ends at once"
            self._announce("ended_at_once", text, number)
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(AttributeError, OSError, ValueError):
                    stream.flush()  # None or closed in some programs
            logging.shutdown()
        finally:
            flushed.release()

    def _announce(self, event: str, text: str, number: signal.Signals) -> None:
        """Log a line. In a program that has not configured logging, print it to stderr."""
        if self._log.has_handlers:
            self._log.info(event, "%s", text, signal=number.name)
        else:
            _print(f"{self._name}: {text}\n")

    def _end(self, error: BaseException) -> None:
        """Report the errors, and raise the exception with which the program ends."""
        interrupts, errors = _interrupts_of(error)
        if errors is not None:
            _print(crash_report(self._node, errors))
            if self._log.has_handlers:
                causes = listed(excerpt_of_error(each) for each in leaves(errors))
                self._log.critical(
                    "crashed", "the app ended with an error: %s", causes, error=causes
                )
        for interrupt in interrupts:
            if errors is None or not isinstance(interrupt, SystemExit) or interrupt.code:
                raise interrupt
        raise SystemExit(1) from errors


def check_place(name: str) -> None:
    """Raise RuntimeError, with the call to use instead, if an app cannot be a program here."""
    if trio.lowlevel.in_trio_run():
        raise RuntimeError(
            f"the app {name!r} was run inside trio: there, open it with `async with app:`. Or call"
            " app.run() as the last line of a program without trio.run()"
        )
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(
            f"the app {name!r} was run inside an asyncio loop: there, open the app with"
            " transport.anyio: `async with open_app(app) as app:`"
        )
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            f"the app {name!r} was run in the thread {threading.current_thread().name!r}: Python"
            " handles signals in the main thread only. Call app.run() there, or open the app with"
            " `async with app:` in a trio.run() of this thread"
        )


def _interrupts_of(
    error: BaseException,
) -> tuple[list[BaseException], BaseException | None]:
    """Return the KeyboardInterrupts, then the SystemExits, and apart from these the errors."""
    kinds = (KeyboardInterrupt, SystemExit)
    if not isinstance(error, BaseExceptionGroup):
        return ([error], None) if isinstance(error, kinds) else ([], error)
    _, errors = error.split(kinds)
    return [each for kind in kinds for each in leaves(error.subgroup(kind))], errors


def _print(text: str) -> None:
    """Write to stderr, if there is one that can be written to."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()
