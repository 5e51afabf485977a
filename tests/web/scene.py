"""Apps that run in a thread of their own, and the Chromium in which a test looks at their page.

The calls of Playwright block, so a browser test is a plain function, and its apps run beside it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import attrs
import trio
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_TIMEOUT = 60.0  # seconds


class BrowserMissing(Exception):
    """No Chromium is found."""


def find_chromium() -> str:
    """Return the program of Chromium. Raises BrowserMissing: the text says how to install it."""
    given = os.environ.get("CHROMIUM")
    found = given or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise BrowserMissing(
            "the tests of the page need Chromium: install it with `apt-get install chromium`, or"
            " name its program: CHROMIUM=/path/to/chrome make test-browser"
        )
    return found


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Run a Chromium without a window."""
    program = find_chromium()
    with sync_playwright() as playwright:
        # Its sandbox does not work for root, as which tests run in a container.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@attrs.define(slots=False)  # Playwright adds attributes
class Watched:
    """A page in the browser, and all that it complained about.

    Attributes:
        problems: messages of the console, errors, refused files and requests to other servers.
    """

    page: Page
    origin: str
    problems: list[str] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on("request", self._on_request)
        self.page.on("dialog", lambda dialog: self.problems.append(f"dialog: {dialog.message}"))
        self.page.add_init_script(
            "document.addEventListener('securitypolicyviolation',"
            " (event) => console.error(`violation of ${event.violatedDirective}`))"
        )

    def visit(self) -> None:
        self.page.goto(f"{self.origin}/")

    def check(self, *, allow_lost_connection: bool = False) -> None:
        """Fail if there was a problem. A server that has gone may be one that is allowed."""
        left = [
            problem
            for problem in self.problems
            if not (allow_lost_connection and "net::ERR_" in problem)
        ]
        assert not left, left

    def _on_console(self, message: ConsoleMessage) -> None:
        self.problems.append(f"console: {message.type}: {message.text}")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith(f"{self.origin}/"):
            self.problems.append(f"request: {request.url}")


class Beside:
    """A trio run in another thread.

    Args:
        main: an async function that takes `task_status`, to which it reports that it is ready.
    """

    def __init__(self, main: Callable[..., Awaitable[None]]) -> None:
        self._main = main
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope: trio.CancelScope | None = None
        self._begun = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._begun.wait(_TIMEOUT)

    def do(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Call a function in the run, and return its result."""
        return trio.from_thread.run_sync(fn, *args, trio_token=self._token)

    def end(self) -> BaseException | None:
        """Cancel the run if it goes on, and return the error with which it has ended."""
        assert self._scope is not None
        with contextlib.suppress(trio.RunFinishedError):
            self.do(self._scope.cancel)
        return self.wait()

    def wait(self) -> BaseException | None:
        """Wait for the end of the run, and return the error with which it has ended."""
        self._thread.join(_TIMEOUT)
        assert not self._thread.is_alive(), "the apps of the test did not end"
        return self._error

    def _run(self) -> None:
        try:
            trio.run(self._cancellable)
        except BaseException as error:  # noqa: BLE001 - the test receives it
            self._error = error

    async def _cancellable(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            self._scope = nursery.cancel_scope
            try:
                await nursery.start(self._main)
            finally:
                self._begun.set()


@contextlib.contextmanager
def beside(main: Callable[..., Awaitable[None]], *args: Any) -> Iterator[Beside]:
    """Run apps in the block. At its end they close, and their errors are raised."""
    running = Beside(functools.partial(main, *args))
    try:
        yield running
    except BaseException:
        running.end()
        raise
    if (error := running.end()) is not None:
        raise error
