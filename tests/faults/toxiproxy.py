"""Toxiproxy: TCP proxies that can be cut, slowed and made to reset, over an HTTP API.

Between each client and each broker stands one of them; the brokers talk to each other without.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.kafka.toolchain import fetch_toxiproxy

START_TIMEOUT = 30.0  # seconds


class Toxiproxy:
    """The process, on a port of its own; gone when the block ends.

    Args:
        port: of its API.
        routes: for each proxy the port it listens on and the one it leads to; its name is the key.
    """

    def __init__(self, port: int, routes: Mapping[str, tuple[int, int]]) -> None:
        self.names = tuple(routes)
        self._url = f"http://127.0.0.1:{port}"
        self._port = port
        self._routes = routes

    def __enter__(self) -> Self:
        program = fetch_toxiproxy()
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="toxiproxy-")))
            self._log = folder / "log"
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    # The pipe is its leash: if we are killed without a goodbye, it goes as well.
                    [
                        *("sh", "-c", '"$0" "$@" & server=$!; cat; kill -9 $server', str(program)),
                        *("-host", "127.0.0.1", "-port", str(self._port)),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            stack.callback(self._stop)
            self._wait_until_up()
            for name, (listen, upstream) in self._routes.items():
                self._call(
                    "POST",
                    "/proxies",
                    name=name,
                    listen=f"127.0.0.1:{listen}",
                    upstream=f"127.0.0.1:{upstream}",
                    enabled=True,
                )
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.close()

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """All connections are closed, and new ones refused, while the block runs."""
        for name in self.names:
            self._call("POST", f"/proxies/{name}", enabled=False)
        try:
            yield
        finally:
            self.mend()

    @contextlib.contextmanager
    def poisoned(self, kind: str, *streams: str, **attributes: int) -> Iterator[None]:
        """All connections have a toxic while the block runs, new ones as well.

        Args:
            kind: of toxic: "latency", "reset_peer", "slow_close", "timeout", ...
            streams: "upstream" is what a client says, "downstream" what it hears; both by default.
            attributes: of the toxic; durations in milliseconds.
        """
        try:
            for name in self.names:
                for stream in streams or ("upstream", "downstream"):
                    self._call(
                        "POST",
                        f"/proxies/{name}/toxics",
                        name=f"{kind}-{stream}",
                        type=kind,
                        stream=stream,
                        attributes=attributes,
                    )
            yield
        finally:
            self.mend()

    def silent(self) -> contextlib.AbstractContextManager[None]:
        """No byte gets through while the block runs; connections stay, and new ones are taken."""
        return self.poisoned("timeout", timeout=0)

    def mend(self) -> None:
        """All is open again, and nothing is poisoned."""
        self._call("POST", "/reset")

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self._call("GET", "/version")
                return
            except (urllib.error.URLError, ConnectionError) as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = self._log.read_text(errors="replace")
                    raise RuntimeError(f"Toxiproxy did not start:\n{log}") from error
            time.sleep(0.05)

    def _stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _call(self, method: str, path: str, **fields: Any) -> None:
        request = urllib.request.Request(
            self._url + path,
            method=method,
            data=json.dumps(fields).encode() if fields else None,
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error.read().decode()}") from error
