"""The verb `tree`: the state of running apps, from their status sockets."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nurseries import State
from tests.apps import app_on, broker_with
from tests.inspecting.test_health import RUNNING
from transport import TP, App, HandlerStatus, Message, Status
from transport.command_line.program import run_in_trio
from transport.command_line.status_rates import StatusRates

ORDERS = TP("orders", 0)


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


async def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = await run_in_trio(["tree", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def billing() -> App:
    """Return an app whose handler is at work on five messages of seven, and never done."""
    app = app_on(broker_with(ORDERS, records=7), "billing", status_socket="auto", grace=0.2)

    @app.handler(app.topic("orders"), concurrency=5, order="none")
    async def bill(message: Message) -> None:
        await trio.sleep_forever()

    return app


async def test_it_shows_partitions_handlers_and_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    async with billing() as app:
        await wait_all_tasks_blocked()
        code, out, err = await run(capsys)
        await app.kill()
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0].startswith(f"billing pid {os.getpid()} member generation 1 0 in flight")
    assert "orders-0 7 - 7 0 7 -" in lines
    assert "bill orders 5/5 2 0 - 0 0" in lines
    (workers,) = [line for line in lines if "worker" in line]
    assert workers.endswith("5 x worker running in Handler._work > billing.<locals>.bill")
    assert "\x1b" not in out


async def test_json_has_the_whole_status(capsys: pytest.CaptureFixture[str]) -> None:
    async with App("one", status_socket="auto"):
        code, out, _ = await run(capsys, "--json")
    assert code == 0
    status = msgspec.json.decode(out, type=Status)
    assert (status.app, status.tree.state) == ("one", State.RUNNING)
    assert json.loads(out)["tree"]["children"][0]["name"] == "StatusSocket"


async def test_an_app_is_named_by_its_id_or_by_its_path(
    capsys: pytest.CaptureFixture[str], runtime: Path
) -> None:
    async with App("one", status_socket="auto"), App("two", status_socket=f"{runtime}/own"):
        for name, expected in [("one", "one"), (f"{runtime}/own", "two")]:
            code, out, _ = await run(capsys, name)
            assert code == 0
            assert [line for line in out.splitlines() if " pid " in line] == [
                line for line in out.splitlines() if line.startswith(f"{expected}  pid ")
            ]


@pytest.mark.parametrize("name", ["two", "/nowhere/own", None])
async def test_without_such_an_app_it_fails_and_says_how_to_get_one(
    capsys: pytest.CaptureFixture[str], name: str | None
) -> None:
    code, out, err = await run(capsys, *([] if name is None else [name]))
    assert (code, out) == (1, "")
    assert err.startswith("kafka-nursery: no app")
    assert ("status_socket" in err) == (name != "/nowhere/own")


async def test_the_socket_of_a_killed_app_is_left_out(
    capsys: pytest.CaptureFixture[str], runtime: Path
) -> None:
    async with App("one", status_socket="auto"):
        with trio.socket.socket(trio.socket.AF_UNIX) as left:
            await left.bind(f"{runtime}/kafka-nursery/killed-1.sock")
        code, out, _ = await run(capsys)
    assert code == 0
    assert out.count(" pid ") == 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 400\r\n", "sends no status: it is no app of kafka-nursery"),
        (b"", "no app listens"),
    ],
    ids=["another program", "an app that ends"],
)
async def test_an_answer_without_a_status_is_an_error_with_the_path(
    capsys: pytest.CaptureFixture[str], runtime: Path, answer: bytes, expected: str
) -> None:
    path = f"{runtime}/other"
    with trio.socket.socket(trio.socket.AF_UNIX) as other:
        await other.bind(path)
        other.listen()

        async def answer_once() -> None:
            connection, _ = await other.accept()
            with connection:
                await connection.send(answer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_once)
            code, out, err = await run(capsys, path)
    assert (code, out) == (1, "")
    assert expected in err
    assert path in err


async def test_a_socket_of_another_kind_is_an_error_with_the_path(
    capsys: pytest.CaptureFixture[str], runtime: Path
) -> None:
    with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_DGRAM) as other:
        await other.bind(f"{runtime}/other")
        code, out, err = await run(capsys, f"{runtime}/other")
    assert (code, out) == (1, "")
    assert f"no connection to {runtime}/other can be made: " in err


async def test_an_app_that_ends_meanwhile_is_left_out(
    capsys: pytest.CaptureFixture[str], runtime: Path
) -> None:
    async with App("one", status_socket="auto"):
        with trio.socket.socket(trio.socket.AF_UNIX) as ending:
            await ending.bind(f"{runtime}/kafka-nursery/ending-1.sock")
            ending.listen()

            async def end() -> None:
                connection, _ = await ending.accept()
                connection.close()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(end)
                code, out, _ = await run(capsys)
    assert code == 0
    assert out.count(" pid ") == 1


async def test_a_system_without_such_sockets_is_an_error_that_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("socket.AF_UNIX")
    monkeypatch.delattr("os.getuid")
    code, out, err = await run(capsys)
    assert (code, out) == (1, "")
    assert "the status socket of an app needs a POSIX system" in err


async def test_the_example_of_the_help_works(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = itertools.count(1)

    def add(rates: StatusRates, statuses: object) -> None:
        if next(counts) == 3:
            scope.cancel()

    monkeypatch.setattr(StatusRates, "add", add)
    async with App("enrichment", status_socket="auto"):
        with trio.CancelScope() as scope:
            await run(capsys, "enrichment", "--watch", "--every", "0.01")
        assert capsys.readouterr().out.count("enrichment  pid ") >= 2


def test_rates_count_what_was_done_between_two_statuses() -> None:
    bill = HandlerStatus("bill", "orders", 1, 0, 0, 100, 0, 0, 0, 0)
    (orders,) = RUNNING.partitions
    before = attrs.evolve(RUNNING, at=10.0, handlers=(bill,))
    after = attrs.evolve(
        before,
        at=14.0,
        partitions=(attrs.evolve(orders, committed=8), attrs.evolve(orders, partition=1)),
        handlers=(attrs.evolve(bill, handled=110), attrs.evolve(bill, name="new")),
    )
    rates = StatusRates()
    rates.add([before])
    assert rates.of_partition(before, orders) is None
    assert rates.of_handler(before, bill) is None
    rates.add([after])
    assert [rates.of_partition(after, each) for each in after.partitions] == [1.0, None]
    assert [rates.of_handler(after, each) for each in after.handlers] == [2.5, None]


def test_rates_of_another_process_do_not_mix() -> None:
    rates = StatusRates()
    rates.add([RUNNING])
    other = attrs.evolve(RUNNING, pid=2, at=1.0)
    rates.add([other])
    assert rates.of_partition(other, other.partitions[0]) is None


async def test_apps_that_do_not_answer_hide_no_other_app(
    capsys: pytest.CaptureFixture[str], runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transport.command_line.tree._TIMEOUT", 0.3)

    async def hang(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async def answer_half(stream: trio.SocketStream) -> None:
        await stream.send_all(b'{"app":"tw')
        await stream.aclose()

    async with App("one", status_socket="auto"), trio.open_nursery() as nursery:
        for name, serve in [("hung.sock", hang), ("two.sock", answer_half)]:
            listening = trio.socket.socket(trio.socket.AF_UNIX)
            await listening.bind(str(runtime / "kafka-nursery" / name))
            listening.listen()
            listeners = [trio.SocketListener(listening)]
            nursery.start_soon(trio.serve_listeners, serve, listeners)
        every, one, none = [await run(capsys, *argv, "--json") for argv in ([], ["one"], ["three"])]
        nursery.cancel_scope.cancel()
    assert every[0] == one[0] == 0
    assert json.loads(every[1])["app"] == json.loads(one[1])["app"] == "one"
    assert "hung.sock does not answer within 0.3 s" in every[2]
    assert "two.sock sends no status" in every[2]
    assert one[2] == ""
    assert none[0] == 1
    assert "hung.sock does not answer" in none[2]


async def test_the_id_of_an_app_may_have_a_slash(capsys: pytest.CaptureFixture[str]) -> None:
    async with App("team/billing", status_socket="auto"):
        code, out, _ = await run(capsys, "team/billing", "--json")
    assert (code, json.loads(out)["app"]) == (0, "team/billing")
