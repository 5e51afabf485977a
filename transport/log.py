"""`Log`: the log lines of one app, with stable fields in `extra`.

Each part of an app writes its lines with a `Log`. So each line begins with the name of the app, and
has the same fields for the same facts. It is one line, whatever the user's data and the broker's
texts are. docs/logging.md lists the lines and the fields. The lines go to the standard `logging`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import TypedDict, Unpack

from transport.excerpt import excerpt, excerpt_of_error, ranges
from transport.types import TP

_MOST_CHARACTERS = 2000  # of one argument
_INTERVAL = 10.0  # the seconds between two lines of `often`


class Fields(TypedDict, total=False):
    """The facts of a line, as a part gives them.

    In `extra`, `partitions` is a text, such as "orders[0-3,7]", and so is `error`. No name may be
    an attribute of a LogRecord, nor "event", "level", "logger" or "timestamp", as structlog uses
    these.
    """

    attempt: int
    broker: str
    client: str
    count: int
    error: BaseException | str
    generation: int
    group: str
    handler: str
    member: str
    offset: int
    partitions: Iterable[TP]
    seconds: float
    signal: str
    topic: str
    transactional_id: str
    url: str


class Log:
    """The log lines of one app in one logger. Safe from any thread.

    Each method takes the stable name of the event, a text with its arguments as in `logging`, and
    the fields. An argument that is an exception or a text is cut, and shown as one line.

    Args:
        name: the name of the logger.
        app: the name of the app.
        clock: a function that returns the time in seconds, for `often`.
    """

    def __init__(self, name: str, app: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.app = app
        self._logger = logging.getLogger(name)
        self._clock = clock
        self._last: dict[str, tuple[float, int]] = {}  # by event: the last line of `often`

    def debug(self, event: str, text: str, *args: object, **fields: Unpack[Fields]) -> None:
        self._write(logging.DEBUG, event, text, args, fields)

    def info(self, event: str, text: str, *args: object, **fields: Unpack[Fields]) -> None:
        self._write(logging.INFO, event, text, args, fields)

    def warning(self, event: str, text: str, *args: object, **fields: Unpack[Fields]) -> None:
        self._write(logging.WARNING, event, text, args, fields)

    def error(self, event: str, text: str, *args: object, **fields: Unpack[Fields]) -> None:
        self._write(logging.ERROR, event, text, args, fields)

    def critical(self, event: str, text: str, *args: object, **fields: Unpack[Fields]) -> None:
        self._write(logging.CRITICAL, event, text, args, fields)

    def often(
        self, level: int, event: str, text: str, *args: object, **fields: Unpack[Fields]
    ) -> None:
        """Write about an event that may come with each message.

        The first event is a line, and then one event in 10 s. This line gives the number of events
        since the line before it. The other events are lines at level DEBUG.
        """
        if level <= logging.DEBUG:
            self._write(level, event, text, args, fields)
            return
        now = self._clock()
        last, count = self._last.get(event, (-_INTERVAL, 0))
        if now - last < _INTERVAL:
            self._last[event] = last, count + 1
            level = logging.DEBUG
        else:
            self._last[event] = now, 0
            fields["count"] = count + 1
            if count:
                text, args = f"{text} (%d more since the last such line)", (*args, count)
        self._write(level, event, text, args, fields)

    def failure(
        self, event: str, text: str, exc: BaseException, *args: object, **fields: Unpack[Fields]
    ) -> None:
        """Write an ERROR line with the traceback of an exception of the user's code."""
        self._write(logging.ERROR, event, text, args, {**fields, "error": exc}, exc)

    @property
    def has_handlers(self) -> bool:
        """Whether the program has configured logging for these lines."""
        return self._logger.hasHandlers()

    @property
    def is_debugging(self) -> bool:
        """Whether DEBUG lines are written, for callers whose arguments cost much to make."""
        return self._logger.isEnabledFor(logging.DEBUG)

    def _write(
        self,
        level: int,
        event: str,
        text: str,
        args: tuple[object, ...],
        fields: Fields,
        exc: BaseException | None = None,
    ) -> None:
        if self._logger.isEnabledFor(level):
            shown = [_plain(self.app), *map(_plain, args)]
            extra = {"event_name": event, "app": self.app, **_in_extra(fields)}
            # The line names the place that called `info` and the like.
            self._logger.log(level, f"%s: {text}", *shown, exc_info=exc, extra=extra, stacklevel=3)


def _plain(value: object) -> object:
    """Return an argument of a line as it is now, so that it prints as part of one line."""
    if isinstance(value, (int, float)):
        return value
    # `str`: an object may change before its line is printed, and a Url hides its password there.
    shown = str(value)
    if not shown and isinstance(value, BaseException):
        shown = type(value).__name__
    return excerpt(shown, _MOST_CHARACTERS)


def _in_extra(fields: Fields) -> dict[str, object]:
    extra: dict[str, object] = dict(fields)
    if "partitions" in fields:
        extra["partitions"] = ranges(fields["partitions"])
    if isinstance(error := fields.get("error"), BaseException):
        extra["error"] = excerpt_of_error(error)
    return extra
