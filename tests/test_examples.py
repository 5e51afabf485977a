"""The programs in `examples/` and the one in the project's description run unchanged."""

from __future__ import annotations

import itertools
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import trio
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from trio.testing import MockClock
from websockets.sync.client import connect

from tests.anyio.serving import PATIENCE, free_port
from tests.apps import evict_all
from tests.postgres import database, needs_postgres
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
    # fastapi_service: in tests/anyio
    others = {"orders", "enrichment", "fan_out", "fastapi_service", "outbox_postgres"}
    assert names == {*others, *EXAMPLES}


def test_the_page_of_examples_has_each_of_them() -> None:
    page = (ROOT / "docs" / "examples.md").read_text()
    named = re.findall(r"^\| `(\w+\.py)` \|", page, re.MULTILINE)
    assert sorted(named) == sorted(path.name for path in (ROOT / "examples").glob("*.py"))


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


@needs_postgres
@pytest.mark.kafka
def test_the_outbox_in_postgres_loses_no_payment_of_a_program_that_is_killed(
    kafka_bootstrap: str,
) -> None:
    with database() as url:
        command = ("examples/outbox_postgres.py", f"kafka://{kafka_bootstrap}", url)
        for _ in range(3):
            until(signal.SIGKILL, *command, end=" messages sent")
        with start(*command) as process:
            output, errors = process.communicate(timeout=60)
        assert (process.returncode, output.splitlines()[-1]) == (0, "0 left"), errors
        with psycopg.connect(url) as connection:
            balances = dict(connection.execute("SELECT name, balance FROM accounts").fetchall())
    payments: dict[int, tuple[str, int]] = {}
    for record in records_of(kafka_bootstrap, "payments.booked"):
        payment = json.loads(record.value)
        newest = max(
            (id for id, each in payments.items() if each[0] == payment["account"]), default=0
        )
        assert payment["id"] > newest or payment["id"] in payments  # in order, or again
        payments[payment["id"]] = payment["account"], payment["amount"]
    sums = Counter[str]()
    for account, amount in payments.values():
        sums[account] += amount
    assert balances == sums


def records_of(bootstrap: str, topic: str) -> list[ConsumerRecord]:
    """Return the records of a topic, each partition in order."""
    with closing(KafkaConsumer(bootstrap_servers=bootstrap, group_id=None)) as consumer:
        tps = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic)]
        consumer.assign(tps)
        consumer.seek_to_beginning()
        ends, found = consumer.end_offsets(tps), list[ConsumerRecord]()
        while any(consumer.position(tp) < end for tp, end in ends.items()):
            for records in consumer.poll(timeout_ms=1000).values():
                found += records
    return found


def test_the_feed_sends_each_message_to_all_browsers_and_ends_at_sigterm(url: str) -> None:
    port = free_port()
    with start("examples/fan_out.py", url, str(port)) as process, ExitStack() as stack:
        stack.callback(process.kill)
        address = f"127.0.0.1:{port}"
        until_answered(f"http://{address}/feed", process)
        browsers = [stack.enter_context(connect(f"ws://{address}/feed")) for _ in range(3)]
        with connect(f"ws://{address}/feed"):
            pass  # one that leaves
        for price in range(20):
            assert httpx.post(f"http://{address}/prices/gold/{price}").status_code == 201
        for browser in browsers:
            seen = [browser.recv(PATIENCE) for _ in range(20)]
            assert seen == [f"gold {price}" for price in range(20)]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0


def until_answered(url: str, process: subprocess.Popen[str]) -> None:
    """Wait until a server answers at all."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            httpx.get(url)
            return
        except httpx.TransportError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)


class Browser:
    """A browser that takes no message, or all."""

    def __init__(self, *, is_slow: bool) -> None:
        self.is_slow = is_slow
        self.seen: list[str] = []
        self.code: int | None = None

    async def accept(self) -> None: ...

    async def iter_text(self) -> AsyncIterator[str]:
        await trio.sleep_forever()
        yield ""

    async def send_text(self, text: str) -> None:
        if self.is_slow:
            await trio.sleep_forever()
        self.seen.append(text)

    async def close(self, code: int) -> None:
        self.code = code


async def test_the_feed_disconnects_a_browser_that_is_too_slow(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr("sys.argv", ["fan_out.py"])
    example = runpy.run_path(str(ROOT / "examples" / "fan_out.py"), run_name="example")
    slow, quick = Browser(is_slow=True), Browser(is_slow=False)
    async with example["app"] as app, trio.open_nursery() as nursery:
        await app.producer.create_topic("prices", 1)
        for task in (example["publish"], *(lambda b=b: example["feed"](b) for b in (slow, quick))):
            nursery.start_soon(task)
        await trio.sleep(1)
        for price in range(200):
            await example["prices"].send_and_wait(key="gold", value=str(price))
        await trio.sleep(60)
        assert (slow.code, len(example["browsers"])) == (example["TRY_AGAIN"], 1)
        assert quick.seen == [f"gold {price}" for price in range(200)]
        nursery.cancel_scope.cancel()
