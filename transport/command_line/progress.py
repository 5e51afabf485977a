"""The number of messages so far, on a terminal only, and on stderr, so that pipes stay clean."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live
from rich.text import Text

_INTERVAL = 0.1  # seconds between two updates


@contextlib.contextmanager
def counting(verb: str, topic: str) -> Iterator[Callable[[int], None]]:
    """Give a function that shows a number, as in "sent 120 messages to orders (40/s)".

    The last number stays on the terminal. Without a terminal, nothing is shown.
    """
    if not sys.stderr.isatty():
        yield lambda number: None
        return
    began = shown = time.monotonic()
    latest = 0

    def text() -> Text:
        passed = max(time.monotonic() - began, 0.001)
        return Text(f"{verb} {latest:,} messages to {topic} ({latest / passed:,.0f}/s)")

    # Without auto_refresh there is no thread.
    with Live(text(), console=Console(stderr=True), auto_refresh=False) as live:

        def show(number: int) -> None:
            nonlocal latest, shown
            latest = number
            if time.monotonic() - shown >= _INTERVAL:
                shown = time.monotonic()
                live.update(text(), refresh=True)

        try:
            yield show
        finally:
            live.update(text(), refresh=True)
