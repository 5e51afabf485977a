"""The services in docs/fastapi.md, which uvicorn runs: their ends by a signal and by a crash."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.anyio.serving import PATIENCE, ROOT, answers, free_port, start, until

PAGE = (ROOT / "docs" / "fastapi.md").read_text()
BY_ITSELF, BY_UVICORN, _ = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
PRINTS = 'print(message.key, "pays", message.value.amount)'
ORDER = {"customer": "eve", "amount": 25}

each_service = pytest.mark.parametrize(
    ("program", "by_signal", "by_crash"),
    [
        pytest.param(BY_ITSELF, 0, 1, id="by itself"),
        pytest.param(BY_UVICORN, -signal.SIGTERM, -signal.SIGTERM, id="by uvicorn"),
    ],
)


@contextmanager
def serving(program: str, folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run a service until it is ready, and yield its address and its process."""
    port = free_port()
    program = program.replace("kafka://127.0.0.1:9092", "memory://")
    (folder / "shop.py").write_text(program.replace("port=8000", f"port={port}"))
    has_server = "uvicorn.Server" in program
    command = ["shop.py"] if has_server else ["-m", "uvicorn", "shop:service", f"--port={port}"]
    with start(*command, folder=folder) as process:
        try:
            until(lambda: answers(f"http://127.0.0.1:{port}/ready"), process)
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.kill()


@each_service
def test_a_signal_lets_the_service_end_in_order(
    program: str, by_signal: int, by_crash: int, tmp_path: Path
) -> None:
    with serving(program, tmp_path) as (address, process):
        assert httpx.post(f"{address}/orders", json=ORDER).status_code == 202
        assert process.stdout is not None
        assert b"eve pays 25\n" in iter(process.stdout.readline, b"")  # among uvicorn's lines
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == by_signal
    assert b"Application shutdown complete" in errors
    assert b"ERROR" not in errors


@each_service
def test_a_handler_that_fails_for_good_ends_the_server(
    program: str, by_signal: int, by_crash: int, tmp_path: Path
) -> None:
    assert PRINTS in program
    program = program.replace(PRINTS, 'raise ValueError("a bug")')
    with serving(program, tmp_path) as (address, process):
        assert httpx.post(f"{address}/orders", json=ORDER).status_code == 202
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == by_crash
    assert b"ValueError: a bug" in errors
    assert not answers(f"{address}/ready")
