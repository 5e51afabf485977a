"""The verb `run`: run an app of a module as the whole program."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated

import trio
from cyclopts import Parameter

from transport.app import App
from transport.command_line.usage import UsageError


def run(
    target: str,
    /,
    *,
    reload: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Run an app with handlers until Ctrl-C or SIGTERM, as App.run does.

    Example: kafka-nursery run billing:app --reload

    Parameters
    ----------
    target:
        The app as MODULE:NAME. The module is searched in the present folder first.
    reload:
        For development: restart the app when a file below the present folder changes.
    """
    if reload:
        from transport.command_line.reload import run_with_reload

        return trio.run(run_with_reload, target, os.getcwd())
    app = _app_at(target)
    if not app.handlers:
        raise UsageError(
            f"the app {target!r} has no handler, so it would do nothing: add one with @app.handler"
        )
    app.run()
    return 0


def _app_at(target: str) -> App:
    """Return the app. Raises UsageError, and each error that the module itself raises."""
    module_name, colon, name = target.partition(":")
    if not module_name or not colon or not name:
        raise UsageError(f"run takes MODULE:NAME, such as billing:app, not {target!r}")
    sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UsageError(f"there is no module {error.name!r} in {os.getcwd()}") from None
    found = getattr(module, name, None)
    if not isinstance(found, App):
        raise UsageError(f"{name!r} of the module {module_name!r} is no App, but {found!r:.100}")
    return found
