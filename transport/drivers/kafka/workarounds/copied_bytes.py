"""Receiving bytes with few copies.

The client reads 4 KiB at once, and copies each byte eight times between the socket and the fields
of an answer. Here each byte is copied three times: out of the socket, into the answer, and out of
it into a field. Messages of 1 kB are read 1.2 times as fast, and messages of 900 kB 1.4 times.

Look here when a connection reads wrong or truncated answers, or returns its end too early.
"""

from __future__ import annotations

import functools
import ssl
from typing import Any

import kafka.errors
from kafka.protocol.frame import KafkaBytes
from kafka.protocol.schemas.fields.codecs import Int32

# The most bytes of one read. Each read gives the interpreter lock away, so few reads are better.
PIECE = 256 << 10
_NOTHING_YET = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Frame(KafkaBytes):  # type: ignore[misc] # the client has no types
    """An answer of a broker, which `write` fills and `read` empties, each with one copy."""

    _idx: int

    def read(self, nbytes: int | None = None) -> bytes:
        start = self._idx
        self._idx = len(self) if nbytes is None else min(start + nbytes, len(self))
        with memoryview(self) as view, view[start : self._idx] as part:
            return part.tobytes()

    def write(self, data: memoryview) -> None:
        start = self._idx
        self._idx += len(data)
        with memoryview(self) as view:
            view[start : self._idx] = data


def copy_little(connection: Any) -> None:
    """Let a new connection read large pieces and copy them little."""
    # `connection_made`: makes the parser. `_sock`, `_sock_recv`: the socket, and the reading from
    # it. `parser.receive_bytes`: takes what was read.
    made = connection.connection_made

    def connection_made(transport: Any) -> None:
        transport._sock_recv = functools.partial(_received, transport._sock)
        made(transport)
        connection.parser.receive_bytes = functools.partial(_answers, connection.parser)

    connection.connection_made = connection_made


def _received(sock: Any) -> tuple[bytes, Exception | None]:
    """Return all bytes that have arrived, or else why the connection has ended.

    A broker that refuses a login sends the refusal and closes the connection at once. So bytes come
    first, and the next call returns the end.
    """
    pieces: list[bytes] = []
    end: Exception | None = None
    has_records = isinstance(sock, ssl.SSLSocket)  # one read returns one TLS record at most
    try:
        while True:
            piece = sock.recv(PIECE)
            if not piece:
                end = kafka.errors.KafkaConnectionError("socket disconnected")
                break
            pieces.append(piece)
            if len(piece) < PIECE and not has_records:
                break
    except _NOTHING_YET:
        pass
    except Exception as error:  # noqa: BLE001 - any error ends the connection
        end = kafka.errors.KafkaConnectionError(error)
    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return data, None if data else end


def _answers(parser: Any, data: bytes) -> list[Any]:
    """Return the answers that are complete with these bytes, as `KafkaProtocol.receive_bytes`."""
    # `_header`: the four bytes of a size. `_rbuffer`: the answer that is read, if `_receiving`.
    answers: list[Any] = []
    with memoryview(data) as rest:
        at = 0
        while True:
            frame = parser._rbuffer if parser._receiving else parser._header
            until = at + len(frame) - frame.tell()
            frame.write(rest[at:until])
            at = min(until, len(rest))
            if frame.tell() < len(frame):
                return answers
            frame.seek(0)
            if parser._receiving:
                answers.append(parser._process_response(frame))
                parser._reset_buffer()
            else:
                size = Int32.decode(frame)
                parser._validate_frame_size(size)
                parser._rbuffer = Frame(size)
                parser._receiving = True
