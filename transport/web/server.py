"""`WebServer`: the page, the probes and the metrics, as a service in the tree of an app."""

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
from transport.settings import WebPage
from transport.web.asgi import probes
from transport.web.page import Feed, Shown, page_with

_LAST_STATE_TIMEOUT = 1.0  # seconds for the open pages to take the last state


class WebServer(Service):
    """A service that serves the page and `probes` with Hypercorn, until the app has closed.

    Args:
        id: the name of the app in the log.
        address: HOST:PORT. Port 0: the system chooses one, which the log has.
        app: the app.
        page: whether there is a page, and which programs it answers.
    """

    def __init__(self, id: str, address: str, app: Shown, page: WebPage) -> None:
        super().__init__("WebServer")
        self._log = Log("transport.web", id)
        self._address = address
        self._feed = Feed(app)
        self._site = probes(app)
        self._serves = "/livez, /readyz and /metrics"
        if page != "off":
            self._serves = f"the page, {self._serves}"
            self._site.mount("/", page_with(app, self._feed, remote=page == "remote"))

    @trio.lowlevel.enable_ki_protection
    async def on_start(self) -> None:
        """Begin to listen. Raises OSError: the address is in use, or not of this machine."""
        config = Config()
        config.bind = [self._address]
        config.accesslog = None
        config.errorlog = _quiet_log()
        config.graceful_timeout = 0.0
        # Starlette and Hypercorn have different types for the same ASGI.
        server = functools.partial(serve, cast(Any, self._site), config)
        try:
            (url,) = await self.start("server", server)
        except* OSError as errors:
            why = next(leaves(errors))
            raise OSError(f"web: no server can listen at {self._address}: {why}") from errors
        self._log.info("web_listens", "serves %s at %s", self._serves, url, url=url)

    @trio.lowlevel.enable_ki_protection
    async def on_stop(self) -> None:
        """Send the last state to the open pages, because the server ends after this."""
        with trio.move_on_after(_LAST_STATE_TIMEOUT):
            await self._feed.end()


def _quiet_log() -> logging.Logger:
    """Return a log for Hypercorn: its errors, and not its greeting. A level of the program wins."""
    log = logging.getLogger("transport.web.hypercorn")
    if log.level == logging.NOTSET:
        log.setLevel(logging.WARNING)
    return log
