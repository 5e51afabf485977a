"""`Configuration`: the settings of an app, and where each of them comes from.

Look here for the order of the sources. A keyword argument of `App` comes before an environment
variable, and that before the TOML file. The options in `client_options` are put together in the
same order, each on its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from transport.configuration.conversion import BROKER, OPTIONS, TYPES, converted
from transport.configuration.environment import environment_layer
from transport.configuration.layer import Given, Layer
from transport.configuration.toml_file import toml_layer
from transport.drivers.secret import Url
from transport.settings import Settings, settings_from

DEFAULT = "default"
KEYWORD = "keyword argument"
DEFAULT_BROKER = "memory://"


@attrs.frozen
class Configuration:
    """The broker and the settings of an app, and the origin of each.

    Attributes:
        broker: one or more URLs, or another broker that `App` was given.
        origins: the origin of each setting that does not have its default value, by name.
    """

    broker: Any
    settings: Settings
    origins: Mapping[str, str]

    def rows(self) -> Iterator[tuple[str, Any, str]]:
        """Yield the name, the value and the origin of each setting. `repr()` hides secrets."""
        yield BROKER, self.broker, self.origins.get(BROKER, DEFAULT)
        for name in sorted(TYPES.keys() - {BROKER, OPTIONS}):
            holder = self.settings if hasattr(self.settings, name) else self.settings.client
            yield name, getattr(holder, name), self.origins.get(name, DEFAULT)
        for name, value in sorted(self.settings.client.client_options.items()):
            yield f"{OPTIONS}.{name}", value, self.origins[f"{OPTIONS}.{name}"]


def configured(id: str, broker: Any, keywords: Mapping[str, Any]) -> Configuration:
    """Return the configuration of an app, from its arguments, the environment and a TOML file.

    Args:
        id: the app's id.
        broker: the argument of `App`. None: another source gives it, or it is `memory://`.
        keywords: the other keyword arguments of `App`.

    Raises:
        TypeError: a keyword is no setting.
        ValueError: another source gives what is no setting or not valid; or settings contradict
            each other. The text names the source.
    """
    outside = Layer()
    for layer in (toml_layer(os.environ, _folder()), environment_layer(os.environ)):
        outside = outside.overridden_by(layer)
    inside = _keywords_layer(broker, keywords)
    # Only the values in force are converted: some of them name modules, which are imported.
    merged = converted(outside.without(inside)).overridden_by(inside)
    given, options = merged.settings, merged.client_options
    origins = {name: each.origin for name, each in given.items()}
    origins |= {f"{OPTIONS}.{name}": each.origin for name, each in options.items()}
    values = {name: each.value for name, each in given.items()}
    if OPTIONS not in values:
        values[OPTIONS] = {name: each.value for name, each in options.items()}
    chosen = _secretive(values.pop(BROKER, DEFAULT_BROKER))
    return Configuration(chosen, _settings(id, values, origins), origins)


def _folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:  # it was removed, so it has no file
        return Path()


def _secretive(broker: Any) -> Any:
    """Return the broker with URLs that `repr()` shows without their passwords."""
    if isinstance(broker, (list, tuple)):
        return [_secretive(each) for each in broker]
    return Url(broker) if isinstance(broker, str) else broker


def _keywords_layer(broker: Any, keywords: Mapping[str, Any]) -> Layer:
    settings = {name: Given(value, KEYWORD) for name, value in keywords.items()}
    options = keywords.get(OPTIONS)
    if broker is not None:
        settings[BROKER] = Given(broker, KEYWORD)
    if not isinstance(options, Mapping):
        return Layer(settings)  # the check of the setting refuses other values
    del settings[OPTIONS]
    return Layer(settings, {name: Given(value, KEYWORD) for name, value in options.items()})


def _settings(id: str, values: Mapping[str, Any], origins: Mapping[str, str]) -> Settings:
    try:
        return settings_from(id, values)
    except ValueError as error:
        # Each value is valid, so two of them contradict each other. A reader of the program does
        # not see those from other sources.
        others = [
            f"{name} comes from {origin}"
            for name, origin in origins.items()
            if origin != KEYWORD and name.removeprefix(f"{OPTIONS}.") in str(error)
        ]
        if not others:
            raise
        raise ValueError(f"{error} ({', '.join(others)})") from error
