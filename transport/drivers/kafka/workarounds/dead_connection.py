"""Connections whose reader or writer fails with an error that the client does not expect.

The client drops the task and keeps the connection, which looks alive and brings no more answers.
Each request on it waits for its timeout. This module closes such a connection, as the client does
for errors that it expects, so each request fails and can be retried.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import kafka.errors

log = logging.getLogger(__name__)


def close_on_errors(connection: Any) -> None:
    """Let any error of its reader or writer close a new connection."""
    # `connection_made`, `_read_from_sock`, `_write_to_sock`: the two tasks, as the loop is given
    # them.
    made, unpause = connection.connection_made, connection.unpause

    def connection_made(transport: Any) -> None:
        transport._read_from_sock = _closing(transport, transport._read_from_sock)
        transport._write_to_sock = _closing(transport, transport._write_to_sock)
        made(transport)

    def unpause_if_open(reason: Any) -> None:
        # A timer of the client writes then, which a connection that is being closed refuses.
        if connection.transport is not None and connection.transport.is_closing():
            connection.paused.discard(reason)
        else:
            unpause(reason)

    connection.connection_made = connection_made
    connection.unpause = unpause_if_open


def _closing(transport: Any, run: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    async def run_to_the_end() -> None:
        try:
            await run()
        except Exception as error:  # noqa: BLE001 - any error ends the connection
            if transport.is_closing():
                return  # its socket is gone, and nobody waits for it
            log.warning("%s is closed, because its reader or writer failed: %r", transport, error)
            lost = kafka.errors.KafkaConnectionError(f"closed after {error!r}")
            lost.__cause__ = error
            transport.abort(error=lost)

    return run_to_the_end
