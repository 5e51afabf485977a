"""The demo: it ends with "good", and with "NOT GOOD" and exit code 1 if an order is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

from tests.kafka.cluster import free_ports
from tests.nurseries.clock import jumping
from transport import demo
from transport.__main__ import main
from transport.message import Batch


@jumping
async def test_the_demo_shows_the_crash_the_tree_and_the_result() -> None:
    lines: list[str] = []
    findings = await demo.demo("memory://demo", 2000, lines.append)
    assert findings.is_good
    assert (findings.produced, findings.handled, findings.lag) == (2000, 2000, 0)
    text = "\n".join(lines)
    assert "anna has crashed" in text
    assert "its partitions have no owner until its session has timed out, in 6 s" in text
    assert re.search(r"Consumer +running", text)
    assert re.search(r"[\d,]+ of 2,000 handled", text)
    assert text.endswith("good")


@jumping
@pytest.mark.parametrize("orders", [demo.LEAST, 13, 100, 500, 1001])
async def test_the_demo_is_good_with_few_orders(orders: int) -> None:
    """The other member handles and commits what the crashed one had not committed."""
    findings = await demo.demo("memory://few", orders, lambda line: None)
    assert findings.is_good


@pytest.mark.parametrize("orders", [demo.LEAST - 1, 0, -5])
def test_too_few_orders_print_one_line_and_exit_with_1(
    orders: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--orders", str(orders)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"ValueError: the demo needs {demo.LEAST} orders or more, not {orders}"
    ]


@jumping
async def test_a_lost_order_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = demo.Run.handle

    def lose_one(run: demo.Run, member: str, batch: Batch) -> None:
        batch.messages = [m for m in batch.messages if m.value["order"] != 777]
        handle(run, member, batch)

    monkeypatch.setattr(demo.Run, "handle", lose_one)
    lines: list[str] = []
    findings = await demo.demo("memory://demo", 2000, lines.append)
    assert not findings.is_good
    assert findings.produced - findings.handled == 1
    assert lines[-1].endswith("NOT GOOD")


@pytest.mark.parametrize("good", [True, False])
def test_the_exit_code_is_1_if_the_result_is_not_good(
    monkeypatch: pytest.MonkeyPatch, good: bool
) -> None:
    async def found(broker: str, orders: int) -> demo.Findings:
        assert (broker, orders) == ("memory://x", 10)
        return demo.Findings(10, 10, 10 if good else 9, 0, 10, 10)

    monkeypatch.setattr(demo, "demo", found)
    assert main(["demo", "--broker", "memory://x", "--orders", "10"]) == (0 if good else 1)


@pytest.mark.parametrize("url", ["amqp://x", "kafka://127.0.0.1:x"])
def test_a_bad_broker_url_is_shown_and_exits_with_1(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--broker", url]) == 1
    assert url in capsys.readouterr().err


@jumping
async def test_progress_that_stops_after_the_crash_has_a_reason() -> None:
    lines: list[str] = []
    run = demo.Run("memory://demo", 10, "demo", lines.append)
    run.handled.update(range(5))
    await run.show_progress()
    run.crashed = "anna"
    await run.show_progress()
    run.handled.update(range(6))
    await run.show_progress()
    waits = ["waiting for the session of anna to time out" in line for line in lines]
    assert waits == [False, True, False]


@jumping
async def test_the_demo_logs_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    await demo.demo("memory://quiet", 2000, lambda line: None)
    assert [r.getMessage() for r in caplog.records if r.levelname != "INFO"] == []


def test_a_broker_that_does_not_answer_is_named_and_exits_with_1() -> None:
    (port,) = free_ports(1)
    broker = f"kafka://127.0.0.1:{port}"
    ended = subprocess.run(
        [sys.executable, "-m", "transport", "demo", "--broker", broker],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    told, error = ended.stderr.splitlines()
    assert f"the broker at 127.0.0.1:{port} does not answer: connection refused" in told
    assert error == (
        f"BrokerUnavailable: no broker answered at 127.0.0.1:{port}:"
        " connection refused (ECONNREFUSED)"
    )


@pytest.mark.kafka
def test_the_demo_is_good_on_kafka(kafka_bootstrap: str) -> None:
    command = [sys.executable, "-m", "transport", "demo", "--broker", f"kafka://{kafka_bootstrap}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
    assert "100,000" in ended.stdout
    assert ended.stdout.endswith("good\n")


@pytest.mark.kafka
def test_ctrl_c_ends_the_demo_in_order(kafka_bootstrap: str) -> None:
    command = [sys.executable, "-u", "-m", "transport", "demo"]
    command += ["--broker", f"kafka://{kafka_bootstrap}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "handled" in line and "joining" not in line:
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT
    assert errors == "ended by SIGINT\n"
