"""Logins are hidden from the client's log.

At DEBUG the client logs every request as an object and as bytes. Each of them shows a login.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from kafka.protocol.sasl import SaslAuthenticateRequest, SaslBytesRequest


class Unseen(bytes):
    """Bytes that repr() does not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "b'***'"


def keep_unseen(connection: Any) -> None:
    """Hide logins in what a connection logs. Repeated calls change nothing."""
    # `_send_request`: every login passes here before the client logs it.
    if not isinstance(connection._send_request, _Sending):
        connection._send_request = _Sending(connection, connection._send_request)


class _Sending:
    """The `_send_request` of a connection, with hidden logins."""

    def __init__(self, connection: Any, send: Callable[..., Any]) -> None:
        self._connection = connection
        self._send = send

    def __call__(self, request: Any, *args: Any, **options: Any) -> Any:
        if not isinstance(request, (SaslAuthenticateRequest, SaslBytesRequest)):
            return self._send(request, *args, **options)
        if isinstance(request, SaslAuthenticateRequest):
            request.auth_bytes = Unseen(request.auth_bytes)
        with _unseen_bytes(self._connection.parser):
            return self._send(request, *args, **options)


@contextlib.contextmanager
def _unseen_bytes(parser: Any) -> Iterator[None]:
    # `parser`, `send_request`, `bytes_to_send`: encode a request to bytes, which the client logs.
    encode = parser.send_request

    def encode_unseen(*args: Any, **options: Any) -> Any:
        number = encode(*args, **options)
        parser.bytes_to_send[-1] = Unseen(parser.bytes_to_send[-1])
        return number

    parser.send_request = encode_unseen
    try:
        yield
    finally:
        parser.send_request = encode
