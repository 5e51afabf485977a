"""The settings reference, generated from the attrs classes and their docstrings.

mkdocs calls `on_page_markdown` for each page (see `hooks` in mkdocs.yml). A page that documents
`transport.Settings` or `transport.ClientSettings` gets a table of the fields, with defaults and
units, in place of the list that mkdocstrings would make. A field without a docstring fails the
build.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import attrs

import transport

CLASSES = {
    "transport.Settings": transport.Settings,
    "transport.ClientSettings": transport.ClientSettings,
}
# Without `members`, mkdocstrings shows the class and the rest of its docstring.
OPTIONS = """\
    options:
      members: false
      show_docstring_attributes: false
"""
# What a whole number counts, where its name does not say that it is bytes.
COUNTED = {
    "buffer_size": "messages",
    "ready_lag": "messages",
    "send_buffer_messages": "messages",
    "transaction_attempts": "transactions",
}
BYTES = re.compile(r".*_bytes$|max_batch_size$|max_request_size$")
_ENTRY = re.compile(r"^(?P<names>\w+(?:, \w+)*): (?P<text>.*(?:\n    +.*)*)", re.MULTILINE)


class Incomplete(Exception):
    """A field of the settings that the reference cannot describe."""


def on_page_markdown(markdown: str, **_: object) -> str:
    """Put the table of a class below its heading."""
    for name, cls in CLASSES.items():
        table = f"::: {name}\n{OPTIONS}\n{table_of(cls)}"
        markdown = re.sub(rf"^::: {re.escape(name)}$", lambda _, t=table: t, markdown, flags=re.M)
    return markdown


def table_of(cls: type) -> str:
    """Return a table of the fields of a class, in the order in which they are defined."""
    texts = texts_of(cls)
    lines = ["| setting | default | what it is |", "|---|---|---|"]
    for field in attrs.fields(cls):
        if not texts.get(field.name):
            raise Incomplete(f"{cls.__name__}.{field.name} has no docstring under `Attributes:`")
        text = texts[field.name].replace("|", "\\|")
        lines.append(f"| `{field.name}` | {default_of(field)} | {text} |")
    return "\n".join(lines) + "\n"


def texts_of(cls: type) -> dict[str, str]:
    """Return what the docstring says under `Attributes:`, by the name of the field."""
    section = re.search(
        r"^Attributes:\n((?:    .*\n|\n)+)", inspect.cleandoc(cls.__doc__) + "\n", re.M
    )
    if section is None:
        raise Incomplete(f"{cls.__name__} has no `Attributes:` in its docstring")
    entries = inspect.cleandoc(section[1])
    return {
        name: " ".join(entry["text"].split())
        for entry in _ENTRY.finditer(entries)
        for name in entry["names"].split(", ")
    }


def default_of(field: attrs.Attribute[Any]) -> str:
    """Return the default of a field with its unit."""
    default = field.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return "`{}`" if default.factory is dict else f"`{default.factory.__name__}()`"
    if callable(default):
        return f"`{default.__name__}`"
    unit = unit_of(field)
    if unit is None or default is None:
        return f"`{default!r}`".replace("'", '"') + (f" ({unit})" if unit else "")
    if unit == "bytes" and default % (1 << 10) == 0:
        size = f"{default >> 20} MiB" if default % (1 << 20) == 0 else f"{default >> 10} KiB"
        return f"`{default}` bytes ({size})"
    return f"`{default:g}` {unit}" if unit == "s" else f"`{default}` {unit}"


def unit_of(field: attrs.Attribute[Any]) -> str | None:
    """Return the unit of a field's value; None: it has none."""
    kind = str(field.type).removesuffix(" | None")
    if kind == "float":
        return "s"
    if kind != "int":
        return None
    if BYTES.match(field.name):
        return "bytes"
    if field.name not in COUNTED:
        raise Incomplete(f"{field.name}: what does it count? Add it to COUNTED")
    return COUNTED[field.name]
