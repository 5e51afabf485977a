"""Each test that docs/promises.md names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs" / "promises.md").read_text())


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_it_is_there(path: str, name: str) -> None:
    assert re.search(rf"^(async def|def|class) {name}\b", (ROOT / path).read_text(), re.MULTILINE)


def test_each_invariant_has_a_row() -> None:
    rows = re.findall(r"^\| (I\d+):", (ROOT / "docs" / "promises.md").read_text(), re.MULTILINE)
    assert rows == [f"I{number}" for number in range(1, 11)]
