"""The conversion of texts and TOML values to the types of the settings, and their checks.

Look here when the value of an environment variable or of a TOML file is refused.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints

import attrs
import msgspec

from transport.arguments import MOST, wrong_value
from transport.configuration.layer import Given, Layer
from transport.drivers import driver_for
from transport.drivers.client_options import PASSED, check_client_options
from transport.drivers.settings import ClientSettings
from transport.settings import Settings, SettingsArgs
from transport.types import TP

BROKER = "broker"
OPTIONS = "client_options"
TYPES: Mapping[str, Any] = {BROKER: str, **get_type_hints(SettingsArgs)}

# Settings whose values are Python objects. A source names the object.
_OBJECTS = ("monitor", "partitioner", "scheduler", "ssl_context", "tracing")
# Each app needs one of its own, so a class is called.
_OWN = ("monitor", "tracing")
_FIELDS = {**attrs.fields_dict(ClientSettings), **attrs.fields_dict(Settings)}
_PARTITION = re.compile(r"(?P<topic>[^\s:=,]+):(?P<number>[0-9]+)(=(?P<offset>[0-9]+))?")


def converted(layer: Layer) -> Layer:
    """Return the layer with values of the settings' types.

    Raises:
        ValueError: a value is not valid. The text names its place in the source.
    """
    return Layer(
        {name: _checked(each, _setting, name) for name, each in layer.settings.items()},
        {name: _checked(each, _option, name) for name, each in layer.client_options.items()},
    )


def _checked(given: Given, convert: Callable[[str, Any], Any], name: str) -> Given:
    try:
        return Given(convert(name, given.value), given.origin)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{given.origin}: {error}") from error


def _setting(name: str, value: Any) -> Any:
    """Convert and check the value of a setting."""
    if name == BROKER:
        return _broker(value)
    if isinstance(value, str) and value.lower() == "none" and type(None) in get_args(TYPES[name]):
        return None
    if name in _OBJECTS:
        value = _object(name, value)
        if name in _OWN and isinstance(value, type):
            value = value()
    elif name == "partitions":
        value = _partitions(value)
    else:
        value = _as(TYPES[name], value)
    field = _FIELDS[name]
    if field.validator is not None:
        field.validator(None, field, value)
    return value


def _broker(value: Any) -> Any:
    """Check a URL, or a list of them. The errors show no password."""
    urls = value if isinstance(value, list) else [value]
    if not all(isinstance(url, str) for url in urls):
        raise ValueError("broker must be a URL, such as kafka://HOST:PORT, or a list of URLs")
    driver_for(urls)  # refuses a wrong URL
    return value


def _option(name: str, value: Any) -> Any:
    """Convert and check the value of an option of the client."""
    check_client_options(OPTIONS, {name: None})  # refuses an unknown option
    kind = PASSED[name].kind
    if kind is object:
        value = _object(name, value)
    elif kind is list:
        value = _socket_options(value)
    else:
        value = _as(kind, value)
    check_client_options(OPTIONS, {name: value})
    return value


def _as(kind: Any, value: Any) -> Any:
    """Return the value in this type, or unchanged: then the check of the setting refuses it."""
    try:
        return msgspec.convert(value, kind, strict=not isinstance(value, str))
    except msgspec.ValidationError:
        return value


def _object(name: str, value: Any) -> Any:
    """Return the Python object that a text such as "package.module:name" names."""
    module, colon, path = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not (module and colon and path):
        # The value may be a token that was given in place of its provider.
        raise ValueError(f"{name} must name a Python object, such as package.module:name")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name}: {value} cannot be imported: {error}") from error
    return found


def _partitions(value: Any) -> dict[TP, int | None]:
    """Return the partitions in a list of texts, or in one text with commas between them."""
    texts = value.split(",") if isinstance(value, str) else value
    partitions: dict[TP, int | None] = {}
    for text in texts if isinstance(texts, list) else [texts]:
        match = _PARTITION.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None or int(match["number"]) > MOST:
            expected = "partitions such as orders:0, or orders:0=42 to start at offset 42"
            raise wrong_value("partitions", expected, text)
        offset = match["offset"]
        tp = TP(match["topic"], int(match["number"]))
        if tp in partitions:
            raise wrong_value("partitions", "each partition once", text)
        partitions[tp] = None if offset is None else int(offset)
    return partitions


def _socket_options(value: Any) -> Any:
    """Return the tuples in a list of lists, or in such a list as JSON."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise ValueError(
                f"socket_options must be a list of lists as JSON, such as [[1, 9, 1]]: {error}"
            ) from error
    if isinstance(value, list):
        return [tuple(each) if isinstance(each, list) else each for each in value]
    return value
