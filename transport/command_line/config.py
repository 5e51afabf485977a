"""The verb `config`: the settings that are in force here, and where each comes from."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from transport.command_line.module import app_at
from transport.command_line.output import Json, print_rows
from transport.command_line.usage import checked_arguments
from transport.configuration import configured

_NO_APP = "kafka-nursery"
_COLUMNS = ("setting", "value", "origin")


def config(
    target: str | None = None,
    /,
    *,
    changed: Annotated[bool, Parameter(name=("--changed", "-c"), negative="")] = False,
    json: Json = False,
) -> None:
    """Print the settings that an app has in this folder and environment, and their origins.

    Passwords are not shown.

    Example: kafka-nursery config billing:app --changed

    Parameters
    ----------
    target:
        The app as MODULE:NAME. Without it, the keyword arguments of a program are not known.
    changed:
        Only settings that do not have their defaults.
    """
    with checked_arguments():
        configuration = app_at(target).configuration if target else configured(_NO_APP, None, {})
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
    if isinstance(value, str):
        return repr(value)[1:-1]
    if isinstance(value, (bytes, list, tuple, dict)):
        return repr(value)
    # The `repr` of other objects may have a secret, such as the token of a token provider.
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}:{named.__qualname__}"
