"""The settings in a TOML file: `kafka-nursery.toml`, or a table of `pyproject.toml`."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transport.configuration.conversion import OPTIONS, TYPES
from transport.configuration.environment import CONFIG
from transport.configuration.layer import Given, Layer, unknown

OWN = "kafka-nursery.toml"
SHARED = "pyproject.toml"

_HINT = "Write the settings as keyword arguments of App, such as commit_interval = 0.5"


def toml_layer(environ: Mapping[str, str], folder: Path) -> Layer:
    """Return the settings in the TOML file that is in force, with TOML's values.

    The file is the one that `KAFKA_NURSERY_CONFIG` names. Else it is `kafka-nursery.toml` in the
    folder. Else it is `pyproject.toml` there, if that has a table `[tool.kafka-nursery]`.

    Raises:
        ValueError: the file cannot be read, is not TOML, or has a key that is no setting. The text
            names the file.
    """
    if path := environ.get(CONFIG):
        place = folder / path
        table = _table(place)
        if place.name == SHARED:
            table = _nursery(place, table)
    elif (place := folder / OWN).is_file():
        table = _table(place)
    elif (place := folder / SHARED).is_file() and b"kafka-nursery" in _content(place):
        table = _nursery(place, _table(place))
    else:
        return Layer()
    return _layer(str(place), table)


def _nursery(path: Path, table: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the table `[tool.kafka-nursery]`; an empty one if there is none."""
    tool = table.get("tool")
    found = tool.get("kafka-nursery", {}) if isinstance(tool, Mapping) else {}
    if not isinstance(found, Mapping):
        raise ValueError(f"{path}: tool.kafka-nursery must be a table: [tool.kafka-nursery]")
    return found


def _table(path: Path) -> Mapping[str, Any]:
    content = _content(path)
    try:
        return _parsed(content)
    except ValueError as error:  # also UnicodeDecodeError
        raise ValueError(f"the file {str(path)!r} is not valid TOML: {error}") from error


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"the file {str(path)!r} cannot be read: {error.strerror}") from error


@functools.lru_cache(maxsize=2)
def _parsed(content: bytes) -> Mapping[str, Any]:
    """Return a file's tables. A program that makes many apps parses the file once."""
    return tomllib.loads(content.decode("utf-8-sig"))  # some editors on Windows write a BOM


def _layer(path: str, table: Mapping[str, Any]) -> Layer:
    options = table.get(OPTIONS, {})
    if not isinstance(options, Mapping):
        raise ValueError(f"{path}: {OPTIONS} must be a table, such as [{OPTIONS}]")
    if wrong := {f"{name} in {path}": name for name in table if name not in TYPES}:
        raise unknown(wrong, TYPES, _HINT)
    return Layer(
        {
            name: Given(value, f"{name} in {path}")
            for name, value in table.items()
            if name != OPTIONS
        },
        {name: Given(value, f"{OPTIONS}.{name} in {path}") for name, value in options.items()},
    )
