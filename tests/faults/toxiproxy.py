"""Toxiproxy: TCP proxies that can be cut, slowed and made to reset, over an HTTP API.

Clients reach each broker through one of them. The brokers connect to each other directly.
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
    """The process, until the block ends.

    Args:
        port: the port of its API.
        routes: by the name of each proxy, the port that it listens on and the one it forwards to.
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
                    # If this process is killed, the pipe closes, and Toxiproxy ends as well.
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
        """Close all connections, and refuse new ones while the block runs."""
        for name in self.names:
            self._call("POST", f"/proxies/{name}", enabled=False)
        try:
            yield
        finally:
            self.mend()

    @contextlib.contextmanager
    def poisoned(self, kind: str, *streams: str, **attributes: int) -> Iterator[None]:
        """Put a toxic on all connections, old and new, while the block runs.

        Args:
            kind: the kind of toxic: "latency", "reset_peer", "slow_close", "timeout", ...
            streams: "upstream" for requests, "downstream" for answers; both by default.
            attributes: those of the toxic; durations in milliseconds.
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
        """Let no byte through while the block runs. Connections stay open, also new ones."""
        return self.poisoned("timeout", timeout=0)

    def mend(self) -> None:
        """Open all proxies, and remove all toxics."""
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
