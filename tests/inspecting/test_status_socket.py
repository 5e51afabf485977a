"""The local socket on which other programs read the status of an app."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.apps import app_on, broker_with
from tests.inspecting.reading import read
from transport import TP, App, Message
from transport.inspecting.status_socket import status_folder, status_sockets

ORDERS = TP("orders", 0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return an empty folder with a short path: that of a socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def runtime(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that has the folder of the sockets."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_each_connection_gets_the_status_of_this_moment() -> None:
    app = app_on(broker_with(ORDERS, records=2), status_socket="auto")
    async with app:
        (path,) = status_sockets()
        messages = aiter(app.topic("orders"))
        for waiting in (1, 0):
            await anext(messages)
            status = await read(path)
            assert (status.app, status.pid, status.topics) == ("group", os.getpid(), ("orders",))
            assert [each.waiting for each in status.partitions] == [waiting]
            assert status.tree == app.tree()
    assert status_sockets() == []


async def test_two_apps_of_a_process_may_have_the_same_id() -> None:
    async with App("one", status_socket="auto"), App("one", status_socket="auto"):
        assert len(status_sockets()) == 2
        assert [(await read(path)).app for path in status_sockets()] == ["one", "one"]


async def test_only_the_user_of_the_process_can_connect(runtime: Path) -> None:
    async with App("orders/5: x" * 10, status_socket="auto"):
        (path,) = status_sockets()
        assert path.parent == runtime / "kafka-nursery"
        assert mode(path.parent) == 0o700
        assert mode(path) == 0o600


@pytest.mark.parametrize("id", ["x" * 200, "\u0436" * 50], ids=["long", "not ASCII"])
async def test_the_path_of_any_app_fits_into_a_long_folder(
    folder: Path, id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = folder / ("f" * 40)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    async with App(id, status_socket="auto"):
        (path,) = status_sockets()
        assert len(str(path)) <= 103
        assert (await read(path)).app == id


async def test_a_folder_that_others_can_write_to_is_refused(runtime: Path) -> None:
    status_folder().mkdir(mode=0o755)
    with pytest.RaisesGroup(
        pytest.RaisesExc(RuntimeError, match="is not this user's alone"), flatten_subgroups=True
    ):
        async with App("orders", status_socket="auto"):
            pass
    assert status_sockets() == []


async def test_a_socket_may_have_a_path_of_its_own(folder: Path) -> None:
    path = folder / "own"
    async with App("orders", status_socket=str(path)):
        assert mode(path) == 0o600
        assert (await read(path)).app == "orders"
    assert not path.exists()


async def test_the_socket_of_a_killed_app_is_replaced(folder: Path) -> None:
    path = folder / "own"
    with trio.socket.socket(trio.socket.AF_UNIX) as left:
        await left.bind(str(path))
    async with App("orders", status_socket=str(path)):
        assert (await read(path)).app == "orders"


@pytest.mark.parametrize("take", [Path.touch, None], ids=["file", "app"])
async def test_a_path_in_use_is_refused(
    folder: Path, take: Callable[[Path], object] | None
) -> None:
    path = folder / "own"
    async with App("one", status_socket=str(path if take is None else folder / "other")):
        if take is not None:
            take(path)
        with pytest.RaisesGroup(
            pytest.RaisesExc(RuntimeError, match="own of status_socket is in use"),
            flatten_subgroups=True,
        ):
            async with App("two", status_socket=str(path)):
                pass
        assert path.exists()


async def test_a_path_of_an_app_that_answers_nobody_is_in_use_and_does_not_block(
    folder: Path,
) -> None:
    path = folder / "own"
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as waiting:
        busy.bind(str(path))
        busy.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                connection = waiting.enter_context(socket.socket(socket.AF_UNIX))
                connection.setblocking(False)
                connection.connect(str(path))
        with pytest.RaisesGroup(
            pytest.RaisesExc(RuntimeError, match="own of status_socket is in use"),
            flatten_subgroups=True,
        ):
            async with App("two", status_socket=str(path)):
                pass


async def test_a_path_that_cannot_be_made_is_an_error_with_the_path(folder: Path) -> None:
    with pytest.RaisesGroup(
        pytest.RaisesExc(OSError, match=r"status_socket: no socket .*missing/own: No such file"),
        flatten_subgroups=True,
    ):
        async with App("orders", status_socket=str(folder / "missing" / "own")):
            pass


async def test_a_path_that_is_too_long_is_an_error(folder: Path) -> None:
    with pytest.RaisesGroup(
        pytest.RaisesExc(OSError, match=r"status_socket: .*path too long"), flatten_subgroups=True
    ):
        async with App("orders", status_socket=str(folder / ("x" * 200))):
            pass


async def test_on_a_system_without_such_sockets_the_app_is_not_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("socket.AF_UNIX")
    with pytest.RaisesGroup(
        pytest.RaisesExc(OSError, match="needs a POSIX system"), flatten_subgroups=True
    ):
        async with App("orders", status_socket="auto"):
            pass


async def test_a_reader_that_goes_away_or_does_not_read_harms_nothing(folder: Path) -> None:
    path = folder / "own"
    async with App("orders", status_socket=str(path)):
        for _ in range(50):
            stream = await trio.open_unix_socket(str(path))
            await stream.aclose()
        async with await trio.open_unix_socket(str(path)):  # reads nothing
            assert (await read(path)).app == "orders"


async def test_the_status_has_the_handlers_and_their_counts(folder: Path) -> None:
    path = folder / "own"
    app = app_on(broker_with(ORDERS, records=3), status_socket=str(path), grace=0.2)
    others_are_done = trio.Event()

    @app.handler(app.topic("orders"), concurrency=7, order="none")
    async def bill(message: Message) -> None:
        if message.offset == 2:
            await wait_all_tasks_blocked()
            others_are_done.set()
            await trio.sleep_forever()

    async with app:
        await others_are_done.wait()
        (handler,) = (await read(path)).handlers
        assert (handler.name, handler.topic, handler.concurrency) == ("bill", "orders", 7)
        assert (handler.running, handler.waiting, handler.handled) == (1, 0, 2)
        await app.kill()
