"""The page about errors and warnings names each of them, by a text that the code has."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import transport.codecs.errors
import transport.errors
from tests.test_log import calls_of_log
from transport.errors import TransportError

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
LEVELS = ("warning", "error", "critical", "often")
# Another module makes the text of this line, which the page has as well.
PASSED_ON = "advertised_unreachable"


def texts_of_page() -> list[str]:
    """Return the texts in the first column, without "…" at their ends."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    return [text for row in rows for text in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


def strings_of(node: ast.AST) -> list[str]:
    return [
        each.value
        for each in ast.walk(node)
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    ]


def strings_of_code() -> list[str]:
    """Return each text in the library, as one line, with … for what a format fills in."""
    found = []
    for path in sorted((ROOT / "transport").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    str(part.value) if isinstance(part, ast.Constant) else "…"
                    for part in node.values
                ]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%(\.\d)?[sdrgf]", "…", node.value))
    return found


STRINGS = strings_of_code()
CLASSES = {
    name
    for module in (transport.errors, transport.codecs.errors)
    for name, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, TransportError)
}


def pattern_of(text: str) -> re.Pattern[str]:
    """Return a pattern for a text in which … stands for any text."""
    return re.compile(".*".join(re.escape(part.strip()) for part in text.split("…")))


@pytest.mark.parametrize("text", texts_of_page())
def test_each_text_of_the_page_is_in_the_code(text: str) -> None:
    name, _, rest = text.partition(": ")
    if name in CLASSES:
        text = rest or name
        if text in CLASSES:
            return
    assert any(pattern_of(text).search(each) for each in STRINGS)


def test_the_page_has_each_error() -> None:
    named = {text.partition(":")[0] for text in texts_of_page()}
    assert CLASSES - named == set()


def test_the_page_has_each_warning() -> None:
    patterns = [pattern_of(text) for text in texts_of_page()]
    missing = []
    for _, call in calls_of_log():
        assert isinstance(call.func, ast.Attribute)
        if call.func.attr in LEVELS:
            texts = [re.sub(r"%(\.\d)?[sdrgf]", "…", each) for each in strings_of(call)]
            if PASSED_ON not in texts and not any(
                pattern.search(text) for pattern in patterns for text in texts
            ):
                missing.append(texts)
    assert missing == []
