"""Apicurio, a real schema registry, in a process of its own. It also speaks Confluent's API."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.kafka.cluster import BrokerFailed, Guard, free_ports
from tests.kafka.toolchain import fetch_apicurio, find_java

START_TIMEOUT = 90.0  # seconds; about 5 on an idle machine


class Apicurio:
    """The registry, with its data in memory, until the block ends.

    Attributes:
        url: the address of Confluent's API.
    """

    def __enter__(self) -> Self:
        jar, java = fetch_apicurio(), find_java()
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
        with contextlib.ExitStack() as stack:
            home = Path(tempfile.mkdtemp(prefix="kafka-nursery-"))
            guard = Guard(home)
            stack.callback(guard.close)
            log = home / "apicurio.log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [
                        *(java, "-XX:TieredStopAtLevel=1", "-Xmx512m"),
                        *("-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={port}"),
                        *("-jar", str(jar)),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            guard.watch(process.pid)
            stack.callback(process.wait)
            stack.callback(process.kill)
            self._wait_until_started(process, log)
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.close()

    def _wait_until_started(self, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                text = log.read_text(errors="replace")[-4000:]
                raise BrokerFailed(f"Apicurio did not start:\n{text}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/subjects", timeout=5.0):
                return True
        except (urllib.error.URLError, TimeoutError):
            return False
