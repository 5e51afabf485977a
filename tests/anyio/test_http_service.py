"""Tests of the HTTP service of the examples, which uvicorn runs and a signal ends."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from tests.anyio.serving import PATIENCE, answers, free_port, start, until


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def service(request: pytest.FixtureRequest) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of the service, and its process."""
    broker = "memory://"
    if request.param == "kafka":
        broker = f"kafka://{request.getfixturevalue('kafka_bootstrap')}"
    port = free_port()
    process = start("examples/http_service.py", broker, str(port))
    with process:
        yield f"http://127.0.0.1:{port}", process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_service_writes_on_a_request_reads_in_the_background_and_ends(
    service: tuple[str, subprocess.Popen[bytes]], number: signal.Signals
) -> None:
    address, process = service
    url = f"{address}/greetings"
    until(lambda: answers(url), process)
    before = len(httpx.get(url).json())
    for name in ("world", "trio"):
        assert httpx.post(f"{url}/{name}").status_code == 201
    until(lambda: len(httpx.get(url).json()) >= before + 2, process)
    assert {"world", "trio"} <= set(httpx.get(url).json())
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    assert b"Application shutdown complete" in errors
    assert b"ERROR" not in errors


CRASHING = """
import sys
sys.path[:0] = ["examples", "."]
import anyio
import http_service

async def handle(name):
    raise ValueError(f"a bug: {name}")

http_service.handle = handle
anyio.run(http_service.main)
"""


def test_a_crashed_reader_ends_the_server() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/greetings"
    with start("-c", CRASHING, "memory://", str(port)) as process:
        try:
            until(lambda: answers(url), process)
            assert httpx.post(f"{url}/world").status_code == 201
            _, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 1
    assert b"ValueError: a bug: world" in errors
    assert not answers(url)
