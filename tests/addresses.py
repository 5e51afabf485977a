"""Addresses for servers of tests and of programs in docs, which no other process can get."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def reserved_address() -> Iterator[str]:
    """Give a HOST:PORT of this machine at which nothing listens.

    A socket holds the port in the block. A server can listen there, because both reuse addresses,
    and the system gives the port to no other socket.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        host, port = held.getsockname()
        yield f"{host}:{port}"
