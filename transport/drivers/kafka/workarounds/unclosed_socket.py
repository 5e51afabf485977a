"""Closing of sockets whose connection fails while it is made.

The client drops such a socket without closing it. A reference cycle with the error keeps it open
until the garbage collector runs, which may be minutes later. While a broker is down, each attempt
to connect leaves an open file.

No single client owns the functions that connect. So importing this module corrects them.
"""

from __future__ import annotations

import contextlib
import selectors
from typing import Any

from kafka.net.inet import KafkaNetSocket
from kafka.net.transport import KafkaSSLTransport

# `sock_connect`, `handshake`, `_close`: the two steps of a connection that can fail, and the end.
_connect, _handshake = KafkaNetSocket.sock_connect, KafkaSSLTransport.handshake


async def _connect_or_close(
    self: Any, net: Any, sock: Any, address: Any, timeout_at: float | None = None
) -> Any:
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(_close, net, sock)
        connected = await _connect(self, net, sock, address, timeout_at=timeout_at)
        on_failure.pop_all()
        return connected


async def _handshake_or_close(self: Any) -> None:
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(self._close)
        await _handshake(self)
        on_failure.pop_all()


def _close(net: Any, sock: Any) -> None:
    # `unregister_event`: a wait that was cut off is still registered in the client's loop.
    net.unregister_event(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
    sock.close()


KafkaNetSocket.sock_connect = _connect_or_close
KafkaSSLTransport.handshake = _handshake_or_close
