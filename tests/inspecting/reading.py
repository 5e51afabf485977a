"""A reader of status sockets."""

from __future__ import annotations

from pathlib import Path

import msgspec
import trio

from transport import Status


async def read(path: Path) -> Status:
    """Return the status behind a socket, as another program reads it."""
    async with await trio.open_unix_socket(str(path)) as stream:
        received = b"".join([part async for part in stream])
    assert received.endswith(b"}\n")
    return msgspec.json.decode(received, type=Status)
