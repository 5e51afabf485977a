"""The level of the logger `kafka`, to which kafka-python logs each of its retries.

In an outage these are hundreds of lines. The driver logs each change of state once (`waiting.py`),
so by default it turns the client's lines off while it has open clients. The level of a logger
belongs to the program: a level that the program has set is kept, and the driver undoes its own.
"""

from __future__ import annotations

import logging
import threading

from transport.drivers.settings import ClientLogLevel


class ClientLog:
    """The level of one logger, as the open clients want it. Safe from any thread."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._wanted: dict[object, int] = {}  # by open client
        self._applied = logging.NOTSET  # the level that was set here and is in force

    def hold(self, client: object, level: ClientLogLevel | None) -> None:
        """Set the level while a client is open. Of several clients the lowest level counts."""
        if level is not None:
            with self._lock:
                self._wanted[client] = logging.getLevelNamesMapping()[level.upper()]
                self._apply()

    def release(self, client: object) -> None:
        """Note that a client was closed. Without an open client the logger has no level again."""
        with self._lock:
            if self._wanted.pop(client, None) is not None:
                self._apply()

    def _apply(self) -> None:
        if self._logger.level != self._applied:  # the program has set a level of its own
            self._applied = logging.NOTSET
            if self._logger.level != logging.NOTSET:
                return
        self._applied = min(self._wanted.values(), default=logging.NOTSET)
        self._logger.setLevel(self._applied)


# One for the process, because a logger is one for the process.
CLIENT_LOG = ClientLog(logging.getLogger("kafka"))
