"""Closing of connections whose reader or writer failed with an unexpected error.

After such an error the client drops the task and keeps the connection, which then returns no more
answers. Each request on the connection waits for its timeout. This module closes the connection, as
the client does after errors that it expects. So each request fails at once and can be retried.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import kafka.errors

from transport.excerpt import excerpt_of_error
from transport.log import Log


def close_on_errors(connection: Any, log: Log) -> None:
    """Close a new connection after any error of its reader or writer."""
    # `connection_made`, `_read_from_sock`, `_write_to_sock`: the transport starts the other two as
    # tasks of the loop, and the first of them not before `connection_made`.
    made, unpause = connection.connection_made, connection.unpause

    def connection_made(transport: Any) -> None:
        transport._read_from_sock = _closing(transport, transport._read_from_sock, log)
        transport._write_to_sock = _closing(transport, transport._write_to_sock, log)
        made(transport)

    def unpause_if_open(reason: Any) -> None:
        # `unpause` writes to the socket, and a connection that is being closed raises then.
        if connection.transport is not None and connection.transport.is_closing():
            connection.paused.discard(reason)
        else:
            unpause(reason)

    connection.connection_made = connection_made
    connection.unpause = unpause_if_open


def _closing(
    transport: Any, run: Callable[[], Awaitable[None]], log: Log
) -> Callable[[], Awaitable[None]]:
    async def run_to_the_end() -> None:
        try:
            await run()
        except Exception as error:  # noqa: BLE001 - any error ends the connection
            if transport.is_closing():
                return  # the socket is closed, and its requests have failed
            log.warning(
                "connection_closed",
                "%s is closed, because its reader or writer failed: %s",
                *(str(transport), excerpt_of_error(error)),
                error=error,
            )
            lost = kafka.errors.KafkaConnectionError(f"closed after {error!r}")
            lost.__cause__ = error
            transport.abort(error=lost)

    return run_to_the_end
