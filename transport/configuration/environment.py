"""The settings in the environment variables `KAFKA_NURSERY_…`, and in the files that these name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from transport.configuration.conversion import OPTIONS, TYPES
from transport.configuration.layer import Given, Layer, unknown
from transport.drivers.client_options import PASSED

PREFIX = "KAFKA_NURSERY_"
# The path of the TOML file.
CONFIG = f"{PREFIX}CONFIG"

_FILE = "_file"
# Kubernetes sets these in each pod, for a Service that is named kafka-nursery.
_OF_KUBERNETES = re.compile(rf"{PREFIX}(SERVICE_(HOST|PORT)|PORT)(_|$)")
_OPTION = f"{OPTIONS}_"
_HINT = f"Write a setting in capitals after {PREFIX}, such as {PREFIX}COMMIT_INTERVAL"


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """Return the settings in the variables whose names begin with `PREFIX`, as texts.

    - `KAFKA_NURSERY_GRACE=5` gives `grace`.
    - `KAFKA_NURSERY_GRACE_FILE=/run/grace` gives it as well: the value is the text of the file.
    - `KAFKA_NURSERY_CLIENT_OPTIONS_SSL_CAFILE=ca.pem` gives one of the `client_options`.

    Raises:
        ValueError: a variable is no setting, is empty, or is given in both ways; or its file
            cannot be read. The text names the variable.
    """
    settings: dict[str, Given] = {}
    options: dict[str, Given] = {}
    wrong: dict[str, str] = {}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or variable == CONFIG or _OF_KUBERNETES.match(variable):
            continue
        name, place, known = variable.removeprefix(PREFIX).lower(), settings, TYPES
        if name.startswith(_OPTION):
            name, place, known = name.removeprefix(_OPTION), options, PASSED
        if name not in known and name.endswith(_FILE):
            name = name.removesuffix(_FILE)
            text = _text_of_file(variable, text) if name in known else text
        if place is settings and (name not in known or name == OPTIONS):
            wrong[variable] = name
        elif name in place:
            raise ValueError(f"{variable} and {place[name].origin} are both set: remove one")
        elif not text:
            raise ValueError(f"{variable} is empty: give it a value, or remove it")
        else:
            place[name] = Given(text, variable)
    if wrong:
        raise unknown(wrong, TYPES, _HINT)
    return Layer(settings, options)


def _text_of_file(variable: str, path: str) -> str:
    """Return the text of a file, without the line break at its end."""
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ValueError(f"{variable}: the file {path!r} cannot be read: {reason}") from error
