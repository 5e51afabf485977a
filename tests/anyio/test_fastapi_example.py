"""Tests of the FastAPI service of the examples, which uvicorn runs and a signal ends."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
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
    process = start("examples/fastapi_service.py", broker, str(port))
    with process:
        yield f"http://127.0.0.1:{port}", process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_service_handles_the_orders_of_requests_and_ends_in_order(
    service: tuple[str, subprocess.Popen[bytes]], number: signal.Signals
) -> None:
    address, process = service
    until(lambda: answers(f"{address}/health/readyz"), process)
    before = Counter(httpx.get(f"{address}/totals").json())
    for amount in (20, 5):
        order = {"customer": "eve", "amount": amount}
        assert httpx.post(f"{address}/orders", json=order).status_code == 201
    wanted = {**before, "eve": before["eve"] + 25}
    until(lambda: httpx.get(f"{address}/totals").json() == wanted, process)
    refused = httpx.post(f"{address}/orders", json={"customer": "eve", "amount": -1})
    assert refused.status_code == 422
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    assert b"Application shutdown complete" in errors
    assert b"ERROR" not in errors


CRASHING = """
import sys
sys.path[:0] = ["examples", "."]
import anyio
import fastapi_service

class Totals(fastapi_service.Counter):
    def __missing__(self, name):
        raise ValueError(f"a bug: {name}")

fastapi_service.Counter = Totals
anyio.run(fastapi_service.main)
"""


def test_a_handler_that_fails_for_good_ends_the_server_of_the_example() -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with start("-c", CRASHING, "memory://", str(port)) as process:
        try:
            until(lambda: answers(f"{address}/health/livez"), process)
            order = {"customer": "eve", "amount": 25}
            assert httpx.post(f"{address}/orders", json=order).status_code == 201
            _, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 1
    assert b"ValueError: a bug: eve" in errors
    assert not answers(f"{address}/health/livez")
