"""The results of the benchmarks, put into docs/performance.md when the docs are built.

mkdocs calls `on_page_markdown` for each page (see `hooks` in mkdocs.yml). `<!-- table: NAME -->`
becomes the table of that name beside the results, and `<!-- plot: NAME.png -->` the plot of that
name if it has been drawn. `<!-- rows: NAME NAME -->` becomes the rows of the latest results whose
names begin with one of these names. Rows that are not measured are left out.
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1]
RESULTS = DOCS.parent / "benchmarks" / "results"
NOTHING = "There are no results in this tree: `make bench` writes them.\n"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the results where the page asks for them."""
    markdown = re.sub(r"^<!-- table: (\w+) -->$", table, markdown, flags=re.MULTILINE)
    markdown = re.sub(r"^<!-- rows: (.+) -->$", rows, markdown, flags=re.MULTILINE)
    return re.sub(r"^<!-- plot: ([\w.]+) -->$", plot, markdown, flags=re.MULTILINE)


def table(match: re.Match[str]) -> str:
    """A table, without the heading of its file."""
    path = RESULTS / f"{match[1]}.md"
    return re.sub(r"\A# .*\n+", "", path.read_text()) if path.exists() else NOTHING


def rows(match: re.Match[str]) -> str:
    """Some rows of the latest results, below the head of their table."""
    path = RESULTS / "latest.md"
    lines = path.read_text().splitlines() if path.exists() else []
    table = [line for line in lines if line.startswith("|")]
    names = tuple(f"| `{name}" for name in match[1].split())
    found = [line for line in table[2:] if line.startswith(names)]
    return "\n".join(table[:2] + found) if found else NOTHING


def plot(match: re.Match[str]) -> str:
    """A plot; "" where there is none."""
    path = DOCS / "plots" / match[1]
    return f"![{path.stem.replace('_', ' ')}](plots/{path.name})" if path.exists() else ""
