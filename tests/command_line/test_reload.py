"""The option `--reload` of the verb `run`: a restart of the program at each change of a file."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from watchfiles import Change

from transport.command_line.reload import run_with_reload

WORKING = """
from transport import App
app = App("reloaded", "memory://")

@app.handler(app.topic("orders"))
async def handle(message):
    pass

open("started", "w").write("x")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Return an async function that reports a changed file, as soon as the changes are awaited."""
    send, receive = trio.open_memory_channel[str](0)

    async def awatch(folder: str, **options: object) -> AsyncIterator[set[tuple[Change, str]]]:
        async for name in receive:
            yield {(Change.modified, f"{folder}/{name}")}

    monkeypatch.setattr("watchfiles.awatch", awatch)
    return send.send


@pytest.fixture
async def wait_started(folder: Path) -> AsyncIterator[Callable[[], Any]]:
    """Return an async function that waits for the next start of the program."""
    os.mkfifo(folder / "started")
    starts = os.open(folder / "started", os.O_RDWR)  # so that the program's `open` never waits

    async def wait() -> None:
        with trio.fail_after(60):
            await trio.lowlevel.wait_readable(starts)
        os.read(starts, 1)

    yield wait
    os.close(starts)


async def test_a_change_restarts_the_program_and_a_signal_ends_it(
    folder: Path,
    change: Callable[[str], Any],
    wait_started: Callable[[], Any],
    capfd: pytest.CaptureFixture[str],
) -> None:
    (folder / "reloaded.py").write_text(WORKING)
    codes: list[int] = []

    async def run() -> None:
        codes.append(await run_with_reload("reloaded:app", str(folder)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_started()
        await change("reloaded.py")
        await wait_started()
        signal.raise_signal(signal.SIGTERM)
    assert codes == [128 + signal.SIGTERM]
    assert "kafka-nursery: restart, because of reloaded.py" in capfd.readouterr().err


async def test_a_program_that_cannot_start_starts_after_the_next_change(
    folder: Path, change: Callable[[str], Any], wait_started: Callable[[], Any]
) -> None:
    (folder / "reloaded.py").write_text("a mistake")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_with_reload, "reloaded:app", str(folder))
        await change("other.py")
        (folder / "reloaded.py").write_text(WORKING)
        await change("reloaded.py")
        await wait_started()
        signal.raise_signal(signal.SIGTERM)
