"""The programs in `examples/` and the one in the project's description run unchanged."""

from __future__ import annotations

import itertools
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.apps import evict_all
from transport import ClientSettings

ROOT = Path(__file__).parent.parent
EXAMPLES = {
    "workers": "200 parcels handled",
    "totals": "page-6 1428",
    "pipeline": "500500 billed",
    "embedded": "Hello world",
    "redrive": "5 of them paid by the redrive",
    "word_count": "the 300",
    "outbox": "100 messages sent, 0 left",
    "crawler": "200 pages of 20 hosts",
    "faust_agent": "100 billed",
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


def until(number: signal.Signals, *args: str, end: str = "") -> tuple[str, int, str]:
    """Send a signal after the first line that ends so; return the lines, exit code and stderr."""
    with start(*args) as process:
        assert process.stdout is not None
        output = line = process.stdout.readline()
        while line and not line.endswith(f"{end}\n"):
            output += (line := process.stdout.readline())
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)  # it reads past what `readline` has buffered
        return output, process.returncode, errors


def test_each_example_is_tested() -> None:
    names = {path.stem for path in (ROOT / "examples").glob("*.py")}
    # http_service: in tests/anyio
    assert names == {"orders", "enrichment", "http_service", *EXAMPLES}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_its_result(url: str, name: str) -> None:
    with start(f"examples/{name}.py", url) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output.splitlines()[-1] == EXAMPLES[name]


@pytest.mark.parametrize("number", [1, 7, 300])
async def test_the_word_count_is_right_after_an_abort(
    number: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
) -> None:
    """The member is evicted between two counts of one transaction, which is then undone."""
    monkeypatch.setattr("sys.argv", ["word_count.py"])
    example = runpy.run_path(str(ROOT / "examples" / "word_count.py"), run_name="example")
    counts, sent = example["counts"], itertools.count(1)

    async def send(**parts: Any) -> None:
        if next(sent) == number:
            evict_all(example["BROKER"], "word-count")
        await type(counts).send(counts, **parts)

    counts.send = send
    with trio.move_on_after(600) as limit:  # with a wrong count, the program does not stop
        await example["main"]()
    assert not limit.cancelled_caught
    assert capsys.readouterr().out.split("\n")[:-1] == [
        "a 100",
        "and 100",
        "cat 200",
        "dog 200",
        "the 300",
    ]
    assert next(sent) > 901  # some counts were sent again


# A client of the enrichment worker, whose last order becomes a dead letter.
ORDERS = """
import sys
import trio
sys.path.insert(0, "examples")
import enrichment
from enrichment import Order
from transport import App

async def follow(app):
    orders = app.topic("orders", key_type=str, value_type=Order)
    dead = app.topic("orders.dead")
    dead.listen()
    enriched = app.topic("orders.enriched", key_type=str, value_type=Order)
    for number in range(200):
        await orders.send(key=f"order {number % 50}", value=Order("Eve", number))
    await orders.send(key="order 7", value=Order("", 200))
    amounts = {}
    count = 0
    async for message in enriched:
        assert message.value.city == "Berlin"
        amounts.setdefault(message.key, []).append(message.value.amount)
        count += 1
        if count == 200:
            break
    assert all(each == sorted(each) for each in amounts.values())
    async for letter in dead:
        print(letter.key, dict(letter.headers)["dead.text"].decode())
        app.stop()

async def main():
    if sys.argv[1].startswith("memory"):
        async with enrichment.app:
            await follow(enrichment.app)
    else:  # the worker is another process
        async with App("client", broker=sys.argv[1]) as app:
            await follow(app)

trio.run(main)
"""


def orders_enriched(url: str) -> str:
    with start("-c", ORDERS, url) as client:
        try:
            output, errors = client.communicate(timeout=60)
        finally:
            client.kill()
    assert client.returncode == 0, errors
    return output


ENRICHED = "b'order 7' the order has no customer\n"


def test_the_enrichment_worker_keeps_the_order_of_keys() -> None:
    assert orders_enriched("memory://") == ENRICHED


@pytest.mark.kafka
def test_the_enrichment_worker_ends_at_sigterm_with_exit_code_0(kafka_bootstrap: str) -> None:
    url = f"kafka://{kafka_bootstrap}"
    with start("examples/enrichment.py", url) as worker:
        try:
            assert orders_enriched(url) == ENRICHED
            worker.send_signal(signal.SIGTERM)
            _, errors = worker.communicate(timeout=30)
        finally:
            worker.kill()
    assert worker.returncode == 0, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_smallest_example_runs_until_a_signal(url: str, number: signal.Signals) -> None:
    output, code, errors = until(number, "examples/orders.py", url, end=" b'v'")
    assert (code, errors) == (0, "")
    # The topic may have messages of the enrichment worker, too.
    assert all(line.startswith("orders-") for line in output.splitlines())
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
    output, code, errors = until(signal.SIGINT, "-c", program, end=" b'v'")
    assert code != 0
    assert "KeyboardInterrupt" in errors
    assert output.endswith(" b'v'\n")
