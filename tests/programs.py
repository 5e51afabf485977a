"""A runner of test programs, each in its own process, forked after the imports are done.

The start of an interpreter and the imports take most of a second, and here all programs share them.
A program that contains tests runs in pytest.
"""

from __future__ import annotations

import functools
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs
import trio
import trio.testing

MOST_SECONDS = 120
COMMON = "common"  # the directory whose files each program gets
ROOT = Path(__file__).parent.parent


@attrs.frozen
class Ended:
    """The exit code and the output of a program."""

    code: int
    output: str
    errors: str


def run_all(
    programs: Sequence[str], files: dict[str, str] | None = None, *, jumping: bool = True
) -> list[Ended]:
    """Run the programs in parallel, each in a directory of its own.

    Args:
        files: the text by name of the files in each of these directories.
        jumping: whether trio's clock jumps. It never does in programs that import `time`, because
            these wait for threads.
    """
    order = {"programs": programs, "jumping": jumping}
    with tempfile.TemporaryDirectory() as folder:
        common = Path(folder, COMMON)
        common.mkdir()
        for name, text in (files or {}).items():
            (common / name).write_text(text)
        ended = subprocess.run(
            [sys.executable, "-m", "tests.programs", folder],
            input=json.dumps(order),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return [Ended(*each) for each in json.loads(ended.stdout)]


def _fork(folder: Path, number: int, program: str, jumping: bool) -> tuple[int, Path]:
    """Start a program; return its process id and its path.

    Its output goes to files beside it with the suffixes `.out` and `.err`.
    """
    home = folder / str(number)
    shutil.copytree(folder / COMMON, home)
    path = home / f"program_{number}.py"
    path.write_text(program)
    pid = os.fork()
    if pid == 0:
        signal.alarm(MOST_SECONDS)  # ends the process
        os.chdir(home)
        for descriptor, ending in ((1, ".out"), (2, ".err")):
            os.dup2(os.open(path.with_suffix(ending), os.O_WRONLY | os.O_CREAT), descriptor)
        sys.exit(_execute(path, program, jumping))
    return pid, path


def _execute(path: Path, program: str, jumping: bool) -> int:
    if re.search(r"^(async )?def test_", program, re.MULTILINE):
        options = ["-q", "-c", os.devnull, "--rootdir", str(path.parent), "-p", "no:cacheprovider"]
        return pytest.main([*options, str(path)])
    if jumping and not re.search(r"^import time$", program, re.MULTILINE):
        trio.run = functools.partial(trio.run, clock=trio.testing.MockClock(autojump_threshold=0))
    runpy.run_path(str(path), run_name="__main__")
    return 0


def main() -> None:
    folder = Path(sys.argv[1])
    order = json.load(sys.stdin)
    children = [
        _fork(folder, number, program, order["jumping"])
        for number, program in enumerate(order["programs"])
    ]
    ended = []
    for pid, path in children:
        _, status = os.waitpid(pid, 0)
        out, err = (path.with_suffix(ending).read_text() for ending in (".out", ".err"))
        ended.append((os.waitstatus_to_exitcode(status), out, err))
    json.dump(ended, sys.stdout)


if __name__ == "__main__":
    import pytest

    import transport.anyio
    import transport.drivers.kafka  # noqa: F401

    main()
