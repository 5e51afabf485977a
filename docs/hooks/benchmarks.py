"""The results of the benchmarks, put into docs/performance.md when the docs are built.

mkdocs calls `on_page_markdown` for each page (see `hooks` in mkdocs.yml). `<!-- results -->`
becomes the table that the benchmarks have written beside their results, and `<!-- plot: NAME -->`
the plot of that name if the benchmarks have drawn it.
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1]
TABLE = DOCS.parent / "benchmarks" / "results" / "latest.md"
NOTHING = "There are no results in this tree: `make bench` writes them.\n"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the results where the page asks for them."""
    markdown = re.sub(r"^<!-- results -->$", lambda _: table(), markdown, flags=re.MULTILINE)
    return re.sub(r"^<!-- plot: (\w+) -->$", plot, markdown, flags=re.MULTILINE)


def table() -> str:
    """The table, without the heading of its file."""
    if not TABLE.exists():
        return NOTHING
    return re.sub(r"\A# .*\n+", "", TABLE.read_text())


def plot(match: re.Match[str]) -> str:
    """A plot; "" where there is none."""
    name = match[1]
    if not (DOCS / "plots" / f"{name}.png").exists():
        return ""
    return f"![{name.replace('_', ' ')}](plots/{name}.png)"
