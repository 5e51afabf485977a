"""Finding the compiled record code.

The code is part of aiokafka (Apache-2.0). Nothing else of aiokafka is used. It needs an
interpreter and a platform for which aiokafka has wheels. Elsewhere the code in Python does the
same.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

# The interface that `compiled.py` and `building.py` rely on is that of these versions.
SUPPORTED = "0.14"
NAME = "aiokafka.record._crecords.default_records"


@functools.cache
def compiled_code() -> tuple[Any, str]:
    """Return the module and its version; or None, and why there is none.

    Importing it takes some 60 ms, because aiokafka's client is imported with it. So the driver
    imports it with its first client, and `import transport` does not.
    """
    try:
        version: str = importlib.import_module("aiokafka").__version__
        if not version.startswith(f"{SUPPORTED}."):
            return None, f"aiokafka {version} is installed, and {SUPPORTED} is needed"
        return importlib.import_module(NAME), version
    except Exception as error:  # noqa: BLE001  whatever is wrong with it, there is other code
        return None, f"aiokafka cannot be imported: {error!r}"
