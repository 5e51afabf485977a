"""`Layer`: the settings that one source gives, each with its place in that source. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import attrs

from transport.synonyms import explanation_of


@attrs.frozen
class Given:
    """The value of a setting in one source.

    Attributes:
        origin: the place in the source, such as the name of an environment variable.
    """

    value: Any = attrs.field(repr=False)
    origin: str


@attrs.frozen
class Layer:
    """The settings that one source gives, by name. The client's options are apart."""

    settings: Mapping[str, Given] = attrs.field(factory=dict)
    client_options: Mapping[str, Given] = attrs.field(factory=dict)

    def overridden_by(self, other: Layer) -> Layer:
        """Return the settings of both. Where both give one, that of the other is in force."""
        return Layer(
            {**self.settings, **other.settings},
            {**self.client_options, **other.client_options},
        )

    def without(self, other: Layer) -> Layer:
        """Return the settings that the other does not give."""
        return Layer(
            {name: each for name, each in self.settings.items() if name not in other.settings},
            {
                name: each
                for name, each in self.client_options.items()
                if name not in other.client_options
            },
        )


def unknown(names: Mapping[str, str], known: Collection[str], hint: str) -> ValueError:
    """Return the error for settings that do not exist, with what to write instead.

    Args:
        names: their names, by their places in the source.
        known: the names of all settings.
        hint: how this source spells the name of a setting.
    """
    explained = (
        f"{place}: {explanation_of(name, known).removeprefix(f'{name}: ')}"
        for place, name in sorted(names.items())
    )
    return ValueError(f"unknown settings: {'; '.join(explained)}. {hint}")
