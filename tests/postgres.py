"""A PostgreSQL server of its own for a test."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.anyio.serving import free_port

# PostgreSQL refuses to run as root. Debian's package has this user.
USER = "postgres" if os.geteuid() == 0 else None
PATIENCE = 60.0


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs. Debian does not have it in the path."""
    if (found := shutil.which("initdb")) is not None:
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


needs_postgres = pytest.mark.skipif(
    programs() is None and os.environ.get("KAFKA_LANE") != "required",
    reason="PostgreSQL is not installed: apt-get install postgresql",
)


@contextmanager
def database() -> Iterator[str]:
    """Run a server with an empty database, and yield its URL."""
    with tempfile.TemporaryDirectory() as folder:
        if USER is not None:
            shutil.chown(folder, USER)
        yield from _served(Path(folder, "data"), free_port())


def _served(data: Path, port: int) -> Iterator[str]:
    run("initdb", "--pgdata", data, "--username", "tester", "--auth", "trust", "--no-sync")
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories="
    control = ("pg_ctl", "--pgdata", data, "--wait")
    run(*control, "--log", data / "log", "--options", options, "start")
    try:
        yield f"postgresql://tester@127.0.0.1:{port}/postgres"
    finally:
        run(*control, "--mode", "immediate", "stop")


def run(program: str, *args: str | Path) -> None:
    folder = programs()
    assert folder is not None, "this test needs PostgreSQL: apt-get install postgresql"
    done = subprocess.run(
        [folder / program, *args],
        user=USER,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
        text=True,
    )
    assert done.returncode == 0, done.stdout
