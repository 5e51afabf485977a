"""What the verbs print: tables and lines for people, JSON for programs.

A table or a line has color only on a terminal. Control characters are always shown as escapes, so
that the data of a topic cannot command a terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeAlias

import msgspec
from cyclopts import Parameter
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

Json: TypeAlias = Annotated[
    bool, Parameter(name="--json", negative="", help="Print JSON instead of text.")
]
# A table that is not shown on a terminal is never wrapped.
_NO_LIMIT = 1_000_000


def printable(text: str) -> str:
    """Return a text with control characters and line breaks as escapes."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def is_terminal() -> bool:
    """Whether a person sees the output."""
    return sys.stdout.isatty()


def print_json(value: Any) -> None:
    """Print one line of JSON. attrs classes become objects."""
    text = msgspec.json.encode(value, enc_hook=_plain).decode()
    if not text.isascii() and "utf" not in (sys.stdout.encoding or "").lower():
        text = json.dumps(json.loads(text))
    sys.stdout.write(text + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    # msgspec asks for this class of error.
    raise NotImplementedError(f"{type(value).__name__} has no JSON")


def print_line(*parts: tuple[str, str]) -> None:
    """Print one line of pairs of a text and its style, which only a terminal shows."""
    if is_terminal():
        console().print(Text.assemble(*parts), soft_wrap=True)
    else:
        sys.stdout.write("".join(text for text, _ in parts) + "\n")


def print_rows(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, is_json: bool = False
) -> None:
    """Print a table whose rows have these fields, or with `is_json` an array of the rows."""
    listed = list(rows)
    if is_json:
        print_json(listed)
    else:
        heads = [column.upper().replace("_", " ") for column in columns]
        print_rich(table_of(heads, ([row[column] for column in columns] for row in listed)))


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print one line for each field that has a value."""
    width = max(map(len, fields)) + 1
    for name, value in fields.items():
        if value not in (None, ""):
            label = f"{name.replace('_', ' ')}:".ljust(width)
            print_line((label, "bold"), (f" {printable(_text(value))}", ""))


def print_rich(renderable: RenderableType) -> None:
    """Print something of rich, without the spaces at the ends of lines that rich adds."""
    if is_terminal():
        console().print(renderable)
        return
    with console() as quiet, quiet.capture() as captured:
        quiet.print(renderable)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def table_of(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table, as `print_table` prints it."""
    listed = [list(row) for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, column in enumerate(columns):
        is_number = bool(listed) and all(
            isinstance(row[at], (int, float, type(None))) for row in listed
        )
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in listed:
        table.add_row(*map(_cell, row))
    return table


def _cell(value: object) -> Text:
    return Text("-" if value is None else printable(_text(value)))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, frozenset, list)):
        return ",".join(map(str, value))
    return str(value)


def console() -> Console:
    """Return the console for stdout."""
    width = None if is_terminal() else _NO_LIMIT
    return Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
