"""The run of one verb: signals, errors and exit codes.

| exit code | meaning |
|---|---|
| 0 | the verb did what it says |
| 1 | it failed, or `doctor` has found something; stderr has one line |
| 2 | the command line is wrong; nothing was done |
| 130, 143 | Ctrl-C, SIGTERM |
| 141 | the reader of the output has closed the pipe, as `head` does |
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import re
import signal
import stat
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import attrs
import trio
from cyclopts import CycloptsError, UnusedCliTokensError

from transport.command_line.usage import UsageError
from transport.command_line.verbs import verbs
from transport.errors import TransportError
from transport.leaves import leaves
from transport.signals import SignalHandlers, passed_to

NAME = "kafka-nursery"
CLOSED_PIPE = 128 + signal.SIGPIPE

_LOGIN = re.compile(r"(://[^:/@\s]*):\S*@")
_PASSWORD = re.compile(r"(password=)[^\s'\"]+")

_LEVELS = {"kafka": logging.CRITICAL, "transport.drivers.kafka": logging.ERROR}

# Errors whose text is for the user. All others are errors of the program, with a traceback.
_EXPECTED = (TransportError, ValueError, OSError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code. A plain function: it has a trio run of its own."""
    _calm_streams()
    given = list(sys.argv[1:] if argv is None else argv)
    code = _outcome(lambda: _run(given))
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        return code
    return _on_closed_pipe()


async def run_in_trio(argv: Sequence[str]) -> int:
    """Run one verb in the present trio run and return the exit code. For tests."""
    found: list[int] = []
    try:
        command, args, kwargs = _parsed(argv)
        result = command(*args, **kwargs)
        found.append(_code(await result if inspect.isawaitable(result) else result))
    except BaseException as error:  # noqa: BLE001 - it is raised again, or it is the outcome
        failure = error
        return _outcome(lambda: _raise(failure))
    return found[0]


def _raise(error: BaseException) -> int:
    raise error


def _run(argv: Sequence[str]) -> int:
    command, args, kwargs = _parsed(argv)
    if not inspect.iscoroutinefunction(command):
        return _code(command(*args, **kwargs))
    with _calm_logs():
        return _Run(lambda: command(*args, **kwargs)).result()


def _parsed(argv: Sequence[str]) -> tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]:
    """Return the function of a verb with its arguments. Raises CycloptsError."""
    command, bound, _ = verbs().parse_args(list(argv), exit_on_error=False, print_error=False)
    return command, bound.args, bound.kwargs


def _code(result: object) -> int:
    return result if isinstance(result, int) else 0


@attrs.define(eq=False)
class _Run:
    """One verb in a trio run of its own, until it ends, a signal comes, or the pipe is closed."""

    verb: Callable[[], Awaitable[object]]
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _signal: signal.Signals | None = None
    _is_pipe_closed: bool = False

    def result(self) -> int:
        code: int = trio.run(self._main)
        return code

    @trio.lowlevel.enable_ki_protection
    async def _main(self) -> int:
        handlers = SignalHandlers(passed_to(trio.lowlevel.current_trio_token(), self._on_signal))
        handlers.install()
        result: object = None
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch_pipe)
                    result = await self.verb()
                    nursery.cancel_scope.cancel()
        finally:
            handlers.remove()
        if self._is_pipe_closed:
            raise BrokenPipeError
        if self._signal is not None:
            return 128 + self._signal
        return _code(result)

    def _on_signal(self, number: signal.Signals) -> None:
        self._signal = number
        self._scope.cancel()

    async def _watch_pipe(self) -> None:
        """Cancel the verb when the other end of the output's pipe closes, also between lines."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            number = sys.stdout.fileno()
            if stat.S_ISFIFO(os.fstat(number).st_mode):
                # The end for writing is never readable, except that its other end is closed.
                await trio.lowlevel.wait_readable(number)
                self._is_pipe_closed = True
                self._scope.cancel()


def _outcome(run: Callable[[], int]) -> int:
    """Return the exit code of a run. Print its error as one line."""
    try:
        return run()
    except CycloptsError as error:
        return _fail(2, _usage_of(error))
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BaseException as error:  # also groups; an unexpected error is raised again
        errors = list(leaves(error))
        if any(isinstance(each, BrokenPipeError) for each in errors):
            return _on_closed_pipe()
        if any(isinstance(each, UsageError) for each in errors):
            return _fail(2, *errors)
        if not all(isinstance(each, _EXPECTED) for each in errors):
            raise
        return _fail(1, *errors)


def _usage_of(error: CycloptsError) -> str:
    """Return what is wrong with the command line, and where its help is."""
    verb = " ".join([NAME, *(error.command_chain or ())])
    text = str(error)
    if isinstance(error, UnusedCliTokensError):
        text = f"{verb} does not take {' '.join(map(repr, error.unused_tokens or ()))}."
    return f"{text} See {verb} --help"


def _fail(code: int, *errors: object) -> int:
    for line in dict.fromkeys(_line(str(error) or type(error).__name__) for error in errors):
        with contextlib.suppress(OSError):
            print(f"{NAME}: {line}", file=sys.stderr)
    return code


def _line(text: str) -> str:
    """Return a text as one line without the passwords that a URL or an option in it has."""
    return _PASSWORD.sub(r"\1***", _LOGIN.sub(r"\1:***@", " ".join(text.split())))


def _on_closed_pipe() -> int:
    """Let Python flush nothing at its end: the pipe is closed."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    return CLOSED_PIPE


def _calm_streams() -> None:
    """Let no character that the encoding lacks end the program."""
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def _calm_logs() -> Iterator[None]:
    """Print warnings of the library as lines, and nothing of kafka-python: errors name causes."""
    root, handler = logging.getLogger(), logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter(f"{NAME}: %(message)s"))
    before = {name: logging.getLogger(name).level for name in _LEVELS}
    if not root.handlers:
        root.addHandler(handler)
    for name, level in _LEVELS.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        root.removeHandler(handler)  # does nothing if it was not added
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
