"""The verb `config`: the settings that are in force here, and where each comes from."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from transport.command_line.output import Json, print_rows
from transport.command_line.usage import checked_arguments
from transport.configuration import configured

_COLUMNS = ("setting", "value", "origin")


def config(
    *,
    changed: Annotated[bool, Parameter(name=("--changed", "-c"), negative="")] = False,
    json: Json = False,
) -> None:
    """Print the settings that an app gets in this folder and environment, and their origins.

    Keyword arguments of the program come before them. Passwords are not shown.

    Example: kafka-nursery config --changed

    Parameters
    ----------
    changed:
        Only settings that do not have their defaults.
    """
    with checked_arguments():
        configuration = configured("kafka-nursery", None, {})
    rows = [
        {"setting": name, "value": _shown(value, is_json=json), "origin": origin}
        for name, value, origin in configuration.rows()
        if not changed or name in configuration.origins
    ]
    print_rows(rows, _COLUMNS, is_json=json)


def _shown(value: Any, *, is_json: bool) -> Any:
    """Return a value as a text without a password. In JSON, numbers and the like stay."""
    if value is None or isinstance(value, (bool, int, float)):
        return value if is_json else str(value)
    if isinstance(value, type) or callable(value):
        return f"{value.__module__}:{value.__qualname__}"
    return repr(value) if not isinstance(value, str) else repr(value)[1:-1]
