"""Received bytes are copied little, and the answers are those that the client would return."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import kafka.errors
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from kafka.protocol.frame import KafkaBytes
from kafka.protocol.parser import KafkaProtocol

from transport.drivers.kafka.workarounds import copied_bytes
from transport.drivers.kafka.workarounds.copied_bytes import Frame, copy_little


class Connection:
    """The client's connection, as far as the workaround uses it; answers are their own bytes."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.parser = KafkaProtocol()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.parser = KafkaProtocol()
        self.parser._process_response = lambda frame: bytes(frame.read())


def connected(sock: Any = None) -> Connection:
    connection = Connection()
    copy_little(connection)
    connection.connection_made(SimpleNamespace(_sock=sock))
    return connection


def framed(*answers: bytes) -> bytes:
    return b"".join(len(answer).to_bytes(4, "big") + answer for answer in answers)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


# Parsing


@given(answers=st.lists(st.binary(max_size=9), max_size=4), cut=st.lists(st.integers(1, 9)))
def test_answers_are_the_same_wherever_the_reads_end(answers: list[bytes], cut: list[int]) -> None:
    connection, data, found = connected(), framed(*answers), []
    for size in [*cut, len(data) + 1]:
        found += connection.parser.receive_bytes(data[:size])
        data = data[size:]
    assert found == answers


@pytest.mark.parametrize("size", [-1, 100_000_001])
def test_invalid_size_of_answer_is_an_error(size: int) -> None:
    with pytest.raises(kafka.errors.InvalidReceiveError):
        connected().parser.receive_bytes(size.to_bytes(4, "big", signed=True))


@given(
    data=st.binary(max_size=20),
    steps=st.lists(st.integers(0, 9) | st.none(), max_size=6),
)
def test_frame_returns_the_same_bytes_as_the_buffer_of_the_client(
    data: bytes, steps: list[int | None]
) -> None:
    ours, theirs = Frame(len(data)), KafkaBytes(len(data))
    for frame in (ours, theirs):
        frame.write(memoryview(data))
        frame.seek(0)
    for step in steps:
        assert ours.read(step) == theirs.read(step)
        assert ours.tell() == theirs.tell()


# Reading


def test_one_read_returns_more_than_one_piece(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copied_bytes, "PIECE", 4)
    ours, theirs = pair
    theirs.send(b"0123456789")
    receive = connected(ours).transport._sock_recv
    assert receive() == (b"0123456789", None)
    assert receive() == (b"", None)


def test_end_of_connection_follows_its_last_bytes(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copied_bytes, "PIECE", 4)
    ours, theirs = pair
    theirs.send(b"01234567")
    theirs.close()
    receive = connected(ours).transport._sock_recv
    assert receive() == (b"01234567", None)
    data, end = receive()
    assert data == b""
    assert isinstance(end, kafka.errors.KafkaConnectionError)


def test_reset_connection_is_an_error_of_the_client() -> None:
    sock = SimpleNamespace(recv=lambda size: (_ for _ in ()).throw(ConnectionResetError("reset")))
    data, end = connected(sock).transport._sock_recv()
    assert data == b""
    assert isinstance(end, kafka.errors.KafkaConnectionError)
    assert "reset" in str(end)


def test_one_read_returns_all_records_of_tls(pair: tuple[socket.socket, socket.socket]) -> None:
    """The selector does not report bytes that OpenSSL has read from the socket already."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("broker").configure_cert(server)
    authority.configure_trust(client)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    pair[1].setblocking(False)
    theirs = server.wrap_bio(incoming, outgoing, server_side=True)
    with client.wrap_socket(
        pair[0], server_hostname="broker", do_handshake_on_connect=False
    ) as ours:
        shaken = [False, False]
        while not all(shaken):
            for at, shake in enumerate((ours.do_handshake, theirs.do_handshake)):
                try:
                    shake()
                    shaken[at] = True
                except ssl.SSLWantReadError:
                    pass
                _exchange(pair[1], incoming, outgoing)
        data = bytes(range(256)) * 256  # four records
        theirs.write(data)
        pair[1].sendall(outgoing.read())
        found, end = connected(ours).transport._sock_recv()
        assert end is None
        assert found == data


def _exchange(sock: socket.socket, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
    if data := outgoing.read():
        sock.sendall(data)
    with contextlib.suppress(BlockingIOError):
        incoming.write(sock.recv(65536))
