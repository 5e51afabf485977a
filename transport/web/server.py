"""`WebServer`: the probes and the metrics over HTTP, as a service in the tree of an app."""

from __future__ import annotations

import functools
import logging
from typing import Any, cast

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from nurseries import Service
from transport.leaves import leaves
from transport.log import Log
from transport.web.asgi import Probed, probes


class WebServer(Service):
    """A service that serves `probes` with Hypercorn, until the app has closed.

    Args:
        id: the name of the app in the log.
        address: HOST:PORT. Port 0: the system chooses one, which the log has.
        app: the app.
    """

    def __init__(self, id: str, address: str, app: Probed) -> None:
        super().__init__("WebServer")
        self._log = Log("transport.web", id)
        self._address = address
        self._app = app

    @trio.lowlevel.enable_ki_protection
    async def on_start(self) -> None:
        """Begin to listen. Raises OSError: the address is in use, or not of this machine."""
        config = Config()
        config.bind = [self._address]
        config.accesslog = None
        config.errorlog = _quiet_log()
        config.graceful_timeout = 0.0
        # Starlette and Hypercorn have different types for the same ASGI.
        server = functools.partial(serve, cast(Any, probes(self._app)), config)
        try:
            (url,) = await self.start("server", server)
        except* OSError as errors:
            why = next(leaves(errors))
            raise OSError(f"web: no server can listen at {self._address}: {why}") from errors
        self._log.info("web_listens", "serves /livez, /readyz and /metrics at %s", url, url=url)


def _quiet_log() -> logging.Logger:
    """Return a log for Hypercorn: its errors, and not its greeting. A level of the program wins."""
    log = logging.getLogger("transport.web.hypercorn")
    if log.level == logging.NOTSET:
        log.setLevel(logging.WARNING)
    return log
