"""What the docs name exists.

- docs/promises.md and docs/client.md name tests.
- docs/workarounds.md names files.
- docs/architecture.md names files and functions.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KAFKA = ROOT / "transport" / "drivers" / "kafka"
PROMISES = (ROOT / "docs" / "promises.md").read_text()
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize(("path", "name"), TEST.findall(PROMISES))
def test_a_named_test_exists(path: str, name: str) -> None:
    assert re.search(rf"^(async def|def|class) {name}\b", (ROOT / path).read_text(), re.MULTILINE)


def tables_with_tests() -> list[str]:
    """Return the tables whose last column has tests."""
    return re.findall(r"^\| \w+ \| tests \|\n(?:\|.*\n)+", PROMISES, re.MULTILINE)


def test_the_page_of_promises_has_three_tables_with_tests() -> None:
    assert len(tables_with_tests()) == 3


@pytest.mark.parametrize("table", tables_with_tests())
def test_each_promise_names_a_test(table: str) -> None:
    promises = table.splitlines()[2:]
    assert len(promises) > 10
    assert [row for row in promises if not TEST.search(row)] == []
    # A test that is named in another form would not be checked.
    assert "`tests/" not in TEST.sub("", table)


def test_each_invariant_has_a_row() -> None:
    rows = re.findall(r"^\| (I\d+):", PROMISES, re.MULTILINE)
    assert rows == [f"I{number}" for number in range(1, 11)]


def rows_of_the_client() -> list[tuple[str, str]]:
    """Return the first and last cell of each row of docs/client.md: the case, and its tests."""
    lines = (ROOT / "docs" / "client.md").read_text().splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return [(row[0], row[-1]) for row in cells if row[-1] != "test"]


@pytest.mark.parametrize(("case", "tests"), rows_of_the_client())
def test_each_case_of_the_client_names_tests_that_exist(case: str, tests: str) -> None:
    named = re.findall(r"`([\w/]*\.?p?y?)(?:::(\w+)(?:\[\w+\])?)?`", tests)
    assert named, case
    path = ""
    for file, name in named:
        path = file or path
        where = ROOT / path if path.startswith("tests/") else ROOT / "tests" / "drivers" / path
        pattern = rf"^(async def|def) {name}\b" if name else ""
        assert re.search(pattern, where.read_text(), re.MULTILINE), name


def test_the_page_of_workarounds_has_each_file_of_them() -> None:
    page = (ROOT / "docs" / "workarounds.md").read_text()
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", page.partition("\n## ")[2]))
    files = {path.name for path in (KAFKA / "workarounds").glob("*.py")} - {"__init__.py"}
    assert {name for name in named if "workarounds/" in name} == {f"workarounds/{f}" for f in files}
    assert [name for name in named if not (KAFKA / name).exists()] == []


def test_the_files_and_functions_of_the_architecture_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    sources: dict[str, str] = {}
    for path in (ROOT / "transport").rglob("*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                sources[node.name] = ast.get_source_segment(text, node) or ""
    named = re.findall(r"`([A-Z]\w+)\.(\w+)`", page)
    assert len(named) > 50
    missing = [
        f"{cls}.{name}"
        for cls, name in named
        if not re.search(rf"\b{name}\b", sources.get(cls, ""))
    ]
    files = re.findall(r"`((?:\w+/)+\w+\.py)`", page)
    missing += [f for f in files if not any((ROOT / at / f).exists() for at in (".", "transport"))]
    assert missing == []
