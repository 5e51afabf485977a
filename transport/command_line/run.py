"""The verb `run`: run an app of a module as the whole program."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Annotated

import trio
from cyclopts import Parameter

from transport.command_line.module import app_at
from transport.command_line.usage import UsageError, checked_arguments
from transport.configuration import configured
from transport.configuration.environment import PREFIX
from transport.inspecting.status_socket import AUTO


def run(
    target: str,
    /,
    *,
    reload: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Run an app with handlers until Ctrl-C or SIGTERM, as App.run does.

    The verb tree finds the app, unless the setting status_socket says otherwise.

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
    with _findable():
        app = app_at(target)
    if not app.handlers:
        raise UsageError(
            f"the app {target!r} has no handler, so it would do nothing: add one with @app.handler"
        )
    app.run()
    return 0


@contextlib.contextmanager
def _findable() -> Iterator[None]:
    """Let `kafka-nursery tree` find an app that is made in the block, unless a setting differs."""
    variable = f"{PREFIX}STATUS_SOCKET"
    with checked_arguments():
        origins = configured("kafka-nursery", None, {}).origins
    if not hasattr(socket, "AF_UNIX") or "status_socket" in origins:
        yield
        return
    os.environ[variable] = AUTO
    try:
        yield
    finally:
        del os.environ[variable]
