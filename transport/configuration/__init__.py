"""Settings from the environment and from a TOML file, beside the keyword arguments of an app.

Start reading at `configuration.py`, which puts the three sources in order. `environment.py` and
`toml_file.py` are the sources, and `conversion.py` makes values of their texts.
Imports: the settings, and values.
"""

from transport.configuration.configuration import Configuration, configured

__all__ = ["Configuration", "configured"]
