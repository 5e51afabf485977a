"""Both implementations on batches that are damaged or made up at random.

No input crashes, hangs or reads past its memory. Both implementations return the same records and
then the same error, at the same place. The bytes for compiled code end at a page that the process
may not read. So a read of one byte too many ends the process.

A few fixed cases run each time; `EFFORT=long` runs many for some minutes.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.record.util import calc_crc32c, encode_varint

from tests.drivers.batches import ENCODE, batch, raw_batch
from transport.drivers.kafka.records.codec import HEADER, Codec
from transport.drivers.kafka.records.compiled import PADDING, CompiledCodec
from transport.drivers.kafka.records.compiled_code import compiled_code
from transport.drivers.kafka.records.encoded import EncodedRecords
from transport.drivers.kafka.records.fetch import extent_of
from transport.drivers.kafka.records.pure import PureCodec
from transport.errors import UnreadableBatch
from transport.fetched import PORTION
from transport.types import TP, Record

LIMITS = [2000, 100_000, 64 << 20]
PAGES = 1 << 20  # bytes before the page that the process may not read


class Guarded(CompiledCodec):
    """The compiled code, with a page behind its buffer that the process may not read."""

    def __init__(self) -> None:
        super().__init__(*compiled_code())
        self.batches = 0
        decode = self._batch
        memory = mmap.mmap(-1, PAGES + mmap.PAGESIZE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        if libc.mprotect(address + PAGES, mmap.PAGESIZE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")

        def guarded(buffer: memoryview) -> Any:
            self.batches += 1
            whole = buffer.obj
            assert isinstance(whole, bytes)
            start = PAGES - len(whole)
            memory[start:PAGES] = whole
            return decode(memoryview(memory)[start : start + len(buffer)])

        self._batch = guarded
        self._memory, self._decode = memory, decode

    def whole(self, fetch: memoryview, at: int, end: int) -> list[Record]:
        behind = end + len(PADDING)
        if behind > len(fetch):
            return super().whole(fetch, at, end)
        self.batches += 1
        start = PAGES - (behind - at)
        self._memory[start:PAGES] = fetch[at:behind]
        return [*self._decode(memoryview(self._memory)[start : start + end - at])]


@pytest.fixture(scope="module")
def guarded() -> Guarded:
    if not hasattr(ctypes.CDLL(None), "mprotect"):
        pytest.skip("needs mprotect")
    return Guarded()


def outcome(codec: Codec, data: bytes, start: int, limit: int) -> tuple[list[Any], str | None]:
    """Return all records, or those before the error, and the error."""
    extent = extent_of(data, start, None, limit)
    assert extent.end >= start
    if not extent.count:
        return [], None
    fetched = EncodedRecords(TP("t", 0), data, extent, codec, limit)
    assert start <= fetched.first < fetched.end
    found: list[Any] = []
    weight = 0
    try:
        for portion in fetched.read():
            assert 0 < len(portion.records) <= PORTION
            assert portion.weight > 0
            weight += portion.weight
            found += [
                (
                    each.offset,
                    each.timestamp,
                    each.timestamp_type,
                    each.key,
                    each.value,
                    each.headers,
                )
                for each in portion.records
            ]
    except UnreadableBatch as error:
        return found, str(error)
    offsets = [record[0] for record in found]
    assert offsets == sorted(set(offsets))
    assert all(fetched.first <= offset < fetched.end for offset in offsets)
    return found, None


numbers = st.one_of(
    st.integers(-2, 3),
    st.integers(-300, 300),
    st.sampled_from([63, 64, -65, 8191, 8192, (1 << 31) - 1, 1 << 31, (1 << 62) - 1]),
    st.integers(-(1 << 63), (1 << 63) - 1),
)
content = st.one_of(st.none(), st.binary(max_size=40), st.binary(min_size=60, max_size=300))


def varint(number: int) -> bytes:
    out = bytearray()
    zigzag = (number << 1) ^ (number >> 63)
    while zigzag > 0x7F:
        out.append(0x80 | zigzag & 0x7F)
        zigzag >>= 7
    out.append(zigzag)
    return bytes(out)


def part(data: bytes | None) -> bytes:
    return varint(-1) if data is None else varint(len(data)) + data


@st.composite
def records(draw: st.DrawFn, delta: int) -> bytes:
    """A good record, unless `wrong` is the index of a field that is replaced by any other."""
    wrong = draw(st.sampled_from([None, None, None, None, *range(8)]))
    headers = draw(st.lists(st.tuples(st.binary(max_size=9), content), max_size=3))
    fields = [
        draw(st.sampled_from([b"\0", b"\0", b"\x07", b"\x80\x01"])),
        varint(draw(numbers)),
        varint(delta),
        part(draw(content)),
        part(draw(content)),
        varint(len(headers)),
        *[varint(len(name)) + name + part(data) for name, data in headers],
    ]
    if wrong is not None and wrong < len(fields):
        fields[wrong] = draw(st.one_of(numbers.map(varint), st.binary(max_size=12)))
    body = b"".join(fields)
    return (varint(draw(numbers)) if wrong == 7 else varint(len(body))) + body


@st.composite
def made_up(draw: st.DrawFn, offset: int) -> bytes:
    """A batch with a right CRC, of records that are mostly good."""
    count = draw(st.integers(0, 6))
    data = b"".join([draw(records(number)) for number in range(count)])
    data += draw(st.sampled_from([b"", b"", b"", b"\0", b"\x80", b"\xff" * 9]))
    data = data[: len(data) - draw(st.sampled_from([0, 0, 0, 0, 1, 2, 5]))]
    data *= draw(st.sampled_from([1, 1, 1, 1, 1, 30]))
    number = draw(st.sampled_from([0, 0, 0, 1, 2, 3, 4]))
    claimed = draw(st.one_of(st.just(count), st.just(count), st.integers(-1, 300)))
    return raw_batch(
        offset,
        claimed,
        ENCODE[number](data) if number else data,
        number,
        attributes=draw(st.sampled_from([0, 0, 0, 8, 16, 5, 32])),
        last_delta=draw(st.sampled_from([5, 5, 5, 5, 300, 0])),
        first_timestamp=draw(numbers),
        max_timestamp=draw(numbers),
    )


@st.composite
def damaged(draw: st.DrawFn, offset: int) -> bytes:
    """A good batch in which some bytes are replaced, often with a right CRC."""
    magic = draw(st.sampled_from([2, 2, 2, 1, 0]))
    number = draw(st.sampled_from([0, 0, 1, 2] if magic < 2 else [0, 0, 1, 2, 3, 4]))
    values = draw(st.lists(content, min_size=1, max_size=6))
    data = bytearray(batch(offset, *values, codec=number, magic=magic))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data) - 1))
        size = draw(st.integers(0, 2))
        data[at : at + size] = draw(st.binary(max_size=3))
    if len(data) > HEADER.size and magic == 2 and draw(st.booleans()):
        struct.pack_into(">i", data, 8, len(data) - 12)
        struct.pack_into(">I", data, 17, calc_crc32c(bytes(data[21:])))
    return bytes(data)


@st.composite
def fetches(draw: st.DrawFn) -> tuple[bytes, int, int]:
    kinds = draw(st.lists(st.sampled_from([made_up, damaged]), min_size=1, max_size=4))
    batches = [draw(kind(10 * number)) for number, kind in enumerate(kinds)]
    return b"".join(batches), draw(st.integers(0, 12)), draw(st.sampled_from(LIMITS))


@given(fetches())
def test_implementations_agree_on_any_batches(
    guarded: Guarded, fetch: tuple[bytes, int, int]
) -> None:
    assert outcome(guarded, *fetch) == outcome(PureCodec(), *fetch)


@given(st.binary(max_size=200), st.integers(0, 3))
def test_implementations_agree_on_any_bytes_as_records(
    guarded: Guarded, data: bytes, count: int
) -> None:
    fetch = raw_batch(0, count, data), 0, 64 << 20
    assert outcome(guarded, *fetch) == outcome(PureCodec(), *fetch)


@given(st.binary(max_size=300))
def test_implementations_agree_on_any_bytes_as_fetch(guarded: Guarded, data: bytes) -> None:
    assert outcome(guarded, data, 0, 1000) == outcome(PureCodec(), data, 0, 1000)


def endings() -> Iterator[bytes]:
    """Yield records that end within each of their numbers, and within each part of a header."""
    body = bytearray(b"\0\0\0")
    for number in (3, 4):
        encode_varint(number, body.append)
        body += b"x" * number
    body += varint(2) + varint(2) + b"ab" + varint(3) + b"cde" + varint(1) + b"f" + varint(-1)
    whole = varint(len(body)) + bytes(body)
    for size in range(len(whole) + 1):
        for tail in (b"", b"\x80", b"\xff" * 9, b"\x80" * 20, b"\x01", b"\xfe\xff\xff\xff\x0f"):
            cut = bytes(body[: max(0, size - 1)]) + tail
            yield whole[:size] + tail
            yield varint(len(cut)) + cut
            yield varint(len(cut) + 1) + cut


def test_truncated_record_is_an_error_and_no_byte_after_it_is_read(
    guarded: Guarded,
) -> None:
    guarded.batches = 0
    for data in endings():
        for count in (1, 2):
            fetch = raw_batch(0, count, data), 0, 64 << 20
            assert outcome(guarded, *fetch) == outcome(PureCodec(), *fetch)
    assert guarded.batches > 500
