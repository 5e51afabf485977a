"""Type checkers accept right programs, and name each wrong line of wrong programs.

A wrong line of a program ends with `# error:` and the rules of mypy and of pyright that it breaks.
All other lines must have no errors.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.typed import checkers
from tests.typed.checkers import Findings

PROGRAMS = Path(__file__).parent / "programs"
EXAMPLES = Path(__file__).parent.parent.parent / "examples"
ERROR = re.compile(r"# error: (?P<mypy>[\w-]+), (?P<pyright>\w+)$")


def marked(checker: str) -> dict[tuple[str, int], str]:
    """Return the rule that each marked line breaks, by the name of its file and its number."""
    return {
        (program.name, number): mark[checker]
        for program in PROGRAMS.glob("*.py")
        for number, line in enumerate(program.read_text().splitlines(), start=1)
        if (mark := ERROR.search(line)) is not None
    }


def check(found: Findings, expected: dict[tuple[str, int], str]) -> None:
    unexpected = {where: rules for where, rules in found.items() if where not in expected}
    assert not unexpected
    missed = {
        where: rule for where, rule in expected.items() if rule not in found.get(where, set())
    }
    assert not missed


def test_mypy_finds_an_error_in_each_wrong_line_and_in_no_other(
    pytestconfig: pytest.Config,
) -> None:
    cache = pytestconfig.cache
    assert cache is not None
    check(checkers.mypy(PROGRAMS, Path(cache.mkdir("mypy"))), marked("mypy"))


def test_pyright_finds_an_error_in_each_wrong_line_and_in_no_other(tmp_path: Path) -> None:
    check(checkers.pyright(PROGRAMS, tmp_path), marked("pyright"))


def test_mypy_finds_no_error_in_the_examples(cache: pytest.Cache) -> None:
    assert not checkers.mypy(EXAMPLES, cache.mkdir("mypy"))
