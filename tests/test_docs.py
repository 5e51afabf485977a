"""The programs in the documentation run as they stand, and end by themselves."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def programs() -> list[object]:
    """Each Python block that is a whole program, named by file and line."""
    return [
        pytest.param(
            block[1], id=f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, block.start(1))}"
        )
        for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
        for text in (path.read_text(),)
        for block in BLOCK.finditer(text)
        if "trio.run(" in block[1] or "anyio.run(" in block[1]
    ]


@pytest.mark.parametrize("program", programs())
def test_a_program_in_the_documentation_runs(program: str) -> None:
    program = re.sub(r"kafka://[\w.:]+", "memory://", program)  # no broker is needed to read on
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
