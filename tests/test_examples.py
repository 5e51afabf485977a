"""The programs in `examples/` and the one in the project's description run unchanged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from transport import ClientSettings

ROOT = Path(__file__).parent.parent
EXAMPLES = {
    "workers": "200 parcels handled",
    "totals": "page-6 1428",
    "pipeline": "500500 billed",
    "embedded": "Hello world",
}
SMALLEST = """
import trio
from transport import App

app = App("orders", broker="kafka://127.0.0.1:9092")      # or memory:// with no broker at all
orders = app.topic("orders")

async def main():
    async with app:                                        # opens the nursery tree, closes it cleanly
        await orders.send(key=b"k", value=b"v")
        async for message in orders:                       # acked when the body is done and the next one is asked for
            print(message.tp, message.offset, message.value)

trio.run(main)
"""  # noqa: E501 - as it stands


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def url(request: pytest.FixtureRequest) -> str:
    """Return the URL of a broker for a program in a process of its own."""
    if request.param == "memory":
        return "memory://"
    return f"kafka://{request.getfixturevalue('kafka_bootstrap')}"


def start(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(number: signal.Signals, *args: str) -> tuple[str, int, str]:
    """Send a signal after the first line of output; return the output, exit code and stderr."""
    with start(*args) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(number)
        more, errors = process.communicate(timeout=30)
        return line + more, process.returncode, errors


def test_each_example_is_tested() -> None:
    names = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert names == {"orders", "http_service", *EXAMPLES}  # http_service: in tests/anyio


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_its_result(url: str, name: str) -> None:
    with start(f"examples/{name}.py", url) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output.splitlines()[-1] == EXAMPLES[name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_smallest_example_runs_until_a_signal(url: str, number: signal.Signals) -> None:
    output, code, errors = until(number, "examples/orders.py", url)
    assert (code, errors) == (0, "")
    assert output.startswith("orders-")
    assert output.endswith(" b'v'\n")


@pytest.mark.kafka
def test_the_successor_after_sigterm_does_not_wait_for_the_session_timeout(
    kafka_bootstrap: str,
) -> None:
    url = f"kafka://{kafka_bootstrap}"
    for _ in range(2):
        began = time.monotonic()
        _, code, errors = until(signal.SIGTERM, "examples/orders.py", url)
        assert (code, errors) == (0, "")
    assert time.monotonic() - began < 30.0 < ClientSettings().session_timeout


def test_the_smallest_program_runs_unchanged(url: str) -> None:
    assert "kafka://127.0.0.1:9092" in SMALLEST
    program = SMALLEST.replace("kafka://127.0.0.1:9092", url)
    output, code, errors = until(signal.SIGINT, "-c", program)
    assert code != 0
    assert "KeyboardInterrupt" in errors
    assert output.endswith(" b'v'\n")
