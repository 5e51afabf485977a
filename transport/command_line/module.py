"""The app of a module that the command line names as MODULE:NAME."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path

from transport.app import App
from transport.command_line.usage import UsageError
from transport.errors import TransportError


def app_at(target: str) -> App:
    """Return the app. Raises UsageError, and each error that the module itself raises."""
    module_name, colon, name = target.partition(":")
    if not module_name or module_name.startswith(".") or not colon or not name:
        raise UsageError(f"an app is MODULE:NAME, such as billing:app, not {target!r}")
    sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UsageError(f"there is no module {error.name!r} in {os.getcwd()}") from None
    except (ValueError, OSError, TransportError) as error:
        # Such an error is printed as one line without a traceback, so its text needs the place.
        raise ValueError(
            f"the module {module_name!r} cannot be imported:"
            f" {type(error).__name__}: {error}{_place_of(error)}"
        ) from error
    found = getattr(module, name, None)
    if not isinstance(found, App):
        raise UsageError(f"{name!r} of the module {module_name!r} is no App, but {found!r:.100}")
    return found


def _place_of(error: BaseException) -> str:
    """Return the last line of the present folder's code in which an error was raised."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(Path.cwd()):
            return f" ({frame.filename}, line {frame.lineno})"
    return ""
