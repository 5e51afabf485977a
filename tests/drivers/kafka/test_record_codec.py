"""Decoding the bytes of a fetch, good, damaged or hostile, by each implementation."""

from __future__ import annotations

import base64
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import snappy
from kafka.codec import gzip_encode, zstd_encode
from kafka.record.memory_records import MemoryRecordsBuilder

from tests.drivers.batches import (
    CODECS,
    ENCODE,
    batch,
    bomb,
    flipped,
    raw_batch,
    raw_record,
    record_with_headers,
    with_byte,
    zeros,
)
from tests.drivers.batches_of_others import LIBRDKAFKA
from transport.drivers.kafka.decompression import TooLarge, decompress
from transport.drivers.kafka.records.choice import codec_for
from transport.drivers.kafka.records.codec import CONTROL, LOG_APPEND_TIME, TRANSACTIONAL, Codec
from transport.drivers.kafka.records.encoded import PORTION_BYTES, EncodedRecords
from transport.drivers.kafka.records.fetch import Extent, extent_of
from transport.errors import UnreadableBatch
from transport.fetched import PORTION, Portion
from transport.types import TP, Record
from transport.weights import HEADER_BYTES, RECORD_BYTES

LIMIT = 1 << 20
HUGE = 64 << 20  # the default of max_decompressed_bytes


@pytest.fixture(params=["compiled", "pure"])
def codec(request: pytest.FixtureRequest) -> Codec:
    return codec_for(request.param)[0]


class Reading:
    """The records of a fetch, and the error that ends the reading."""

    def __init__(
        self,
        codec: Codec,
        data: bytes,
        start: int = 0,
        limit: int = LIMIT,
        aborted: Iterable[Any] = (),
    ) -> None:
        self.extent: Extent = extent_of(data, start, list(aborted), limit)
        self.fetched = EncodedRecords(TP("t", 0), data, self.extent, codec, limit)
        self.error: UnreadableBatch | None = None

    def portions(self) -> Iterator[Portion]:
        portions = self.fetched.read() if self.extent.count else iter(())
        try:
            yield from portions
        except UnreadableBatch as error:
            self.error = error

    def records(self) -> list[Record]:
        return [record for portion in self.portions() for record in portion.records]

    def good(self) -> list[Record]:
        """Return all records; check that there is no error and that the extent is right."""
        records = self.records()
        assert self.error is None, self.error
        for record in records:
            assert self.fetched.first <= record.offset < self.fetched.end
        return records

    def values(self) -> list[bytes | None]:
        return [record.value for record in self.records()]

    def ends_with(self, match: str) -> None:
        """Check that each reading ends with a matching error, after the same records."""
        before = self.values()
        for _ in range(2):
            self.error = None
            assert self.values() == before
            with pytest.raises(UnreadableBatch, match=match):
                raise self.error or AssertionError("no error")


# Formats and their codecs. Only Kafka 0.8 and 0.9 wrote lz4 in format 0.
GOOD = [
    (0, 0),
    (0, 1),
    (0, 2),
    (1, 0),
    (1, 1),
    (1, 2),
    (1, 3),
    *((2, number) for number in range(5)),
]


@pytest.mark.parametrize(("magic", "number"), GOOD)
def test_good_batch_is_decoded(codec: Codec, magic: int, number: int) -> None:
    data = batch(0, b"a", None, b"c" * 100_000, codec=number, magic=magic)
    reading = Reading(codec, data)
    assert [record.value for record in reading.good()] == [b"a", None, b"c" * 100_000]
    assert [record.offset for record in reading.good()] == [0, 1, 2]
    assert reading.fetched.end == 3
    assert reading.fetched.count == 3


def test_all_formats_and_codecs_in_one_fetch_are_decoded(codec: Codec) -> None:
    data = b"".join(
        batch(2 * n, b"%d" % n, b"x", codec=number, magic=magic)
        for n, (magic, number) in enumerate(GOOD * 20)
    )
    reading = Reading(codec, data, 1, HUGE)
    records = reading.good()
    assert [record.offset for record in records] == list(range(1, 40 * len(GOOD)))
    assert [record.value for record in records[1::2]] == [
        b"%d" % n for n in range(1, 20 * len(GOOD))
    ]
    assert reading.fetched.count == 40 * len(GOOD) or reading.fetched.count == len(records)
    assert max(len(portion.records) for portion in reading.portions()) <= PORTION


def test_all_fields_of_a_record_are_decoded(codec: Codec) -> None:
    data = batch_of(
        (None, None, []),
        (b"", b"", [("", b""), ("none", None), ("\u00e9", b"x" * 300)]),
        (b"k" * 200, b"v" * 70_000, [("a", b"1"), ("a", b"2")]),
    )
    records = Reading(codec, data, 10).good()
    assert [(each.key, each.value, list(each.headers)) for each in records] == [
        (None, None, []),
        (b"", b"", [("", b""), ("none", None), ("\u00e9", b"x" * 300)]),
        (b"k" * 200, b"v" * 70_000, [("a", b"1"), ("a", b"2")]),
    ]
    assert [(each.offset, each.timestamp, each.timestamp_type) for each in records] == [
        (10, 1_700_000_000_000, 0),
        (11, 1_700_000_000_007, 0),
        (12, 1_700_000_000_014, 0),
    ]


def batch_of(*messages: tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]) -> bytes:
    builder = MemoryRecordsBuilder(2, 0, 1 << 30)
    for number, (key, value, headers) in enumerate(messages):
        builder.append(1_700_000_000_000 + 7 * number, key, value, headers)
    builder.close()
    return struct.pack(">q", 10) + bytes(builder.buffer())[8:]


# The content of each batch of `batches_of_others.py`: key, value and headers.
MESSAGES = [
    (b"key0", b"value 0 " * 12, [("h", b"1"), ("none", None), ("\u00e9", b"")]),
    (None, b"value 1 " * 12, [("h", b"1"), ("none", None), ("\u00e9", b"")]),
    (b"key2", b"value 2 " * 12, []),
    (None, None, []),
]


@pytest.mark.parametrize("name", LIBRDKAFKA)
def test_batch_of_librdkafka_is_decoded(codec: Codec, name: str) -> None:
    records = Reading(codec, base64.b64decode(LIBRDKAFKA[name])).good()
    assert [(each.key, each.value, list(each.headers)) for each in records] == MESSAGES
    assert [each.offset for each in records] == [0, 1, 2, 3]
    assert [each.timestamp for each in records] == [1_700_000_000_000 + n for n in range(4)]


def test_log_append_time_is_max_timestamp_of_batch(codec: Codec) -> None:
    data = raw_batch(0, 1, raw_record(), attributes=LOG_APPEND_TIME, max_timestamp=1234)
    (record,) = Reading(codec, data).good()
    assert (record.timestamp, record.timestamp_type) == (1234, 1)


@pytest.mark.parametrize("attributes", [0, LOG_APPEND_TIME])
def test_record_without_timestamp_is_decoded(codec: Codec, attributes: int) -> None:
    data = raw_batch(
        0, 1, raw_record(), attributes=attributes, first_timestamp=-1, max_timestamp=-1
    )
    (record,) = Reading(codec, data).good()
    assert (record.timestamp, record.timestamp_type) == (-1, int(attributes > 0))


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("start", [0, 1, 63, 64, 65, 199, 250, 399])
def test_reading_can_begin_in_the_middle_of_a_batch(codec: Codec, number: int, start: int) -> None:
    data = b"".join(
        batch(at, *[b"%d" % n for n in range(at, at + 200)], codec=number) for at in (0, 200)
    )
    reading = Reading(codec, data, start)
    records = reading.good()
    assert [record.offset for record in records] == list(range(start, 400))
    assert [record.value for record in records] == [b"%d" % n for n in range(start, 400)]
    assert reading.fetched.first == start


def test_gaps_in_offsets_are_skipped(codec: Codec) -> None:
    compacted = raw_record(offset_delta=2) + raw_record(offset_delta=5)
    data = raw_batch(10, 2, compacted, last_delta=9) + raw_batch(20, 0, b"", last_delta=9)
    reading = Reading(codec, data + batch(40, b"w"), 11)
    assert [record.offset for record in reading.good()] == [12, 15, 40]
    assert (reading.fetched.first, reading.fetched.end, reading.fetched.count) == (11, 41, 3)


def test_batch_cut_off_by_the_fetch_is_left_for_the_next(codec: Codec) -> None:
    whole, rest = batch(0, b"a", b"b"), batch(2, b"c")
    for size in range(len(rest)):
        reading = Reading(codec, whole + rest[:size])
        assert [record.value for record in reading.good()] == [b"a", b"b"]
        assert reading.fetched.end == 2


def marker(offset: int, producer: int, kind: int) -> bytes:
    record = raw_record(key=struct.pack(">hh", 0, kind), value=bytes(6))
    return raw_batch(offset, 1, record, attributes=CONTROL | TRANSACTIONAL, producer=producer)


ABORT, COMMIT = 0, 1


def data_of(offset: int, producer: int, *, transactional: bool = True) -> bytes:
    attributes = TRANSACTIONAL if transactional else 0
    record = raw_record(value=b"%d" % offset)
    return raw_batch(offset, 1, record, attributes=attributes, producer=producer)


def aborted(first_offset: int, producer_id: int) -> Any:
    return SimpleNamespace(first_offset=first_offset, producer_id=producer_id)


def test_markers_and_aborted_data_are_not_delivered(codec: Codec) -> None:
    log = [
        data_of(0, 7),
        data_of(1, 8),
        data_of(2, 7, transactional=False),
        marker(3, 7, ABORT),
        data_of(4, 7),  # a new transaction of the same producer
        marker(5, 8, COMMIT),
        marker(6, 7, COMMIT),
        data_of(7, 9),
        marker(8, 9, ABORT),
        data_of(9, -1, transactional=False),
        marker(10, 9, COMMIT),
    ]
    told = [aborted(7, 9), aborted(0, 7)]
    reading = Reading(codec, b"".join(log), aborted=told)
    assert [record.offset for record in reading.good()] == [1, 2, 4, 9]
    assert (reading.fetched.first, reading.fetched.end, reading.fetched.count) == (1, 11, 4)
    everything = Reading(codec, b"".join(log))
    assert [record.offset for record in everything.good()] == [0, 1, 2, 4, 7, 9]


def test_fetch_of_only_markers_and_aborted_data_advances_the_offset(codec: Codec) -> None:
    log = data_of(5, 7) + marker(6, 7, ABORT) + raw_batch(7, 0, b"", last_delta=2)
    reading = Reading(codec, log, 5, aborted=[aborted(5, 7)])
    assert (reading.extent.count, reading.extent.end) == (0, 10)


def test_empty_control_batch_is_skipped(codec: Codec) -> None:
    """Compaction leaves such batches."""
    empty = raw_batch(1, 0, b"", attributes=CONTROL | TRANSACTIONAL, producer=7)
    reading = Reading(codec, data_of(0, 7) + empty + data_of(2, 8), aborted=[aborted(0, 7)])
    assert [record.offset for record in reading.good()] == [2]


@pytest.mark.parametrize("attributes", [CONTROL, TRANSACTIONAL])
def test_batch_with_damaged_header_is_not_skipped(codec: Codec, attributes: int) -> None:
    """A flipped bit can turn any batch into a marker or aborted data."""
    damaged = bytearray(data_of(1, 7, transactional=False))
    damaged[22] ^= attributes
    log = data_of(0, 8) + bytes(damaged) + data_of(2, 8)
    reading = Reading(codec, log, aborted=[aborted(1, 7)])
    assert reading.values() == [b"0"]
    reading.ends_with("t-0 offset 1: .*crc")


@pytest.mark.parametrize("number", CODECS.values())
def test_several_frames_in_one_batch_are_decoded(codec: Codec, number: int) -> None:
    parts = [raw_record(), raw_record(offset_delta=1)]
    if number == 2:
        packed = snappy.compress(b"".join(parts))  # as clients without the block format do
    else:
        packed = b"".join(ENCODE[number](part) for part in parts)
    assert len(Reading(codec, raw_batch(0, 2, packed, number)).good()) == 2


# Damaged data.


@pytest.mark.parametrize("magic", [1, 2])
def test_wrong_crc_is_an_error_with_its_offset_after_good_records(codec: Codec, magic: int) -> None:
    good = batch(5, b"a", b"b") if magic == 2 else batch(5, b"b", magic=magic)
    data = good + flipped(batch(7, b"c", magic=magic)) + batch(8, b"d")
    reading = Reading(codec, data, 5)
    assert reading.values()[-1] == b"b"
    reading.ends_with(r"t-0 offset [67]: .*crc")


@pytest.mark.parametrize("magic", [3, 127, 255])
def test_unknown_format_is_an_error(codec: Codec, magic: int) -> None:
    # The CRC does not cover the format, so it is still right.
    reading = Reading(codec, batch(0, b"a") + with_byte(batch(1, b"b"), 16, magic))
    assert reading.values() == [b"a"]
    reading.ends_with(r"t-0 offset 1: .*unknown format")


BROKEN = {
    "an unknown codec": raw_batch(3, 1, raw_record(), codec=5),
    "no gzip": raw_batch(3, 1, b"no such thing", codec=1),
    "no snappy": raw_batch(3, 1, b"no such thing", codec=2),
    "no lz4": raw_batch(3, 1, b"no such thing", codec=3),
    "no zstd": raw_batch(3, 1, b"no such thing", codec=4),
    **{
        f"truncated {name}": raw_batch(3, 1, ENCODE[number](b"." * 99)[:-5], number)
        for name, number in CODECS.items()
    },
    "snappy without its size": raw_batch(3, 1, b"\xff" * 9, codec=2),
    "a claimed record that is missing": raw_batch(3, 1, b""),
    "more records than there are": raw_batch(3, 2_000_000_000, raw_record()),
    "a record count below 0": raw_batch(3, -5, raw_record()),
    "fewer records than there are": raw_batch(3, 1, raw_record() * 2),
    "a length below 0": struct.pack(">qi", 3, -12) + batch(3, b"v")[12:],
    "a length of 0": struct.pack(">qi", 3, 0) + batch(3, b"v")[12:],
    "zeros": raw_batch(3, 1, bytes(1000)),
    "a record below the batch": raw_batch(3, 1, raw_record(offset_delta=-1)),
    "a record past the batch": raw_batch(3, 1, raw_record(offset_delta=1)),
    "two records of one offset": raw_batch(3, 2, raw_record() * 2),
    "a last offset below the first": raw_batch(3, 1, raw_record(), last_delta=-1),
    "a batch of an earlier offset": batch(2, b"v"),
    "a batch below offset 0": batch(-5, b"v"),
    "a batch past all offsets": batch((1 << 63) - 1, b"v"),
    "a header count below 0": raw_batch(3, 1, b"\x0e\0\0\0\x01\x01\x01\0"),
    "a header name with a length below 0": raw_batch(3, 1, b"\x10\0\0\0\x01\x01\x02\x01\x01"),
    "a number of 80 bits": raw_batch(3, 1, b"\xff" * 20),
    "a record that claims more than there is": raw_batch(3, 1, b"\x80\x80\x01" + raw_record()),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("before", [b"", batch(1, b"a", b"b")], ids=["first", "later"])
def test_damaged_batch_is_an_error_with_its_offset(
    codec: Codec, data: bytes, before: bytes
) -> None:
    if not before and data == BROKEN["a batch of an earlier offset"]:
        return  # as the first batch it is good
    reading = Reading(codec, before + data, 1)
    assert reading.values()[: 2 if before else 0] == ([b"a", b"b"] if before else [])
    assert len(reading.values()) <= (3 if before else 1)
    reading.ends_with(r"t-0 offset [134]: .")


def test_header_name_that_is_not_utf8_is_decoded_as_by_other_clients(codec: Codec) -> None:
    records = (
        raw_record()
        + raw_record(offset_delta=1, header=b"a\xffb")
        + raw_record(offset_delta=2, header=b"name")
    )
    headers = [record.headers for record in Reading(codec, raw_batch(0, 3, records)).good()]
    assert headers == [[], [("a\ufffdb", b"h")], [("name", b"h")]]


# Bounds on memory.


@pytest.fixture
def memory() -> Iterator[Callable[[], int]]:
    """Return the most bytes that were in use at once."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    yield lambda: tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "size"), [("gzip", 28), ("snappy", 28), ("lz4", 28), ("zstd", 30)]
)
def test_decompression_bomb_is_an_error_within_the_memory_limit(
    codec: Codec, memory: Callable[[], int], name: str, size: int
) -> None:
    number = CODECS[name]
    data = raw_batch(1, 1, zeros(number, 1 << size), number)
    before = memory()
    reading = Reading(codec, batch(0, b"good") + data, limit=8 << 20)
    assert reading.values() == [b"good"]
    reading.ends_with(f"t-0 offset 1: .*max_decompressed_bytes.*{8 << 20}")
    assert memory() - before < 4 * len(data) + 4 * (8 << 20)


def test_decompression_bomb_within_the_limit_is_decoded(codec: Codec) -> None:
    (record,) = Reading(codec, bomb(4, 4 << 20), limit=8 << 20).good()
    assert record.value == bytes(4 << 20)


def test_snappy_block_that_claims_a_huge_size_is_an_error(codec: Codec) -> None:
    claim = b"\xff\xff\xff\xff\x0f" + bytes(20)  # 4 GB
    Reading(codec, raw_batch(0, 1, claim, codec=2)).ends_with("max_decompressed_bytes")


def test_content_as_large_as_the_limit_is_decompressed() -> None:
    for codec in CODECS.values():
        packed = memoryview(ENCODE[codec](bytes(LIMIT)))
        assert decompress(codec, packed, LIMIT) == bytes(LIMIT)
        with pytest.raises(TooLarge):
            decompress(codec, packed, LIMIT - 1)


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("limit", [LIMIT, HUGE])
def test_batch_of_many_small_messages_is_read_in_portions(
    codec: Codec, number: int, limit: int
) -> None:
    values = [b"%d" % n * 10 for n in range(8000)]
    reading = Reading(codec, batch(0, *values, codec=number), limit=limit)
    portions = list(reading.portions())
    assert reading.error is None
    assert [record.value for portion in portions for record in portion.records] == values
    assert [record.offset for portion in portions for record in portion.records] == list(
        range(8000)
    )
    assert all(len(portion.records) <= PORTION for portion in portions)
    assert len(portions) <= 8000 // PORTION * 1.3


@pytest.mark.parametrize("number", [0, 4])
def test_large_messages_are_read_in_portions_of_few(codec: Codec, number: int) -> None:
    values = [b"." * (PORTION_BYTES // 4) for _ in range(50)] + [b"!" * PORTION_BYTES * 4] * 3
    reading = Reading(codec, batch(0, *values, codec=number), limit=HUGE)
    portions = list(reading.portions())
    assert [record.value for portion in portions for record in portion.records] == values
    for portion in portions:
        size = sum(len(record.value or b"") for record in portion.records)
        assert size <= PORTION_BYTES or len(portion.records) == 1
        assert 0 <= portion.weight - RECORD_BYTES * len(portion.records) - size < 1000


def test_batches_of_one_record_are_read_in_full_portions(codec: Codec) -> None:
    data = b"".join(batch(n, b"%d" % n) for n in range(300))
    portions = list(Reading(codec, data, 3).portions())
    assert [len(portion.records) for portion in portions] == [64, 64, 64, 64, 41]


def test_weight_of_a_portion_is_sum_of_its_records(codec: Codec) -> None:
    data = batch_of(*[(b"k" * 10, b"v" * 100, [("name", b"value")] * (n % 3)) for n in range(60)])
    (portion,) = Reading(codec, data, 10).portions()
    least = 60 * (RECORD_BYTES + 110) + 60 * (HEADER_BYTES + 9)
    assert least <= portion.weight <= least + 60 * 12 + 61


def test_fetch_can_be_read_twice_at_the_same_time(codec: Codec) -> None:
    reading = Reading(codec, batch(0, *[b"%d" % n for n in range(200)], codec=1))
    one, other = reading.fetched.read(), reading.fetched.read()
    first, again = next(one), next(other)
    assert [r.offset for r in first.records] == [r.offset for r in again.records] == list(range(64))
    assert [len(portion.records) for portion in one] == [64, 64, 8]
    assert [len(portion.records) for portion in other] == [64, 64, 8]


@pytest.mark.parametrize("number", [0, 4])
def test_record_with_too_many_headers_fails_before_they_are_decoded(
    codec: Codec, memory: Callable[[], int], number: int
) -> None:
    limit = 2 << 20
    records = raw_record() + record_with_headers(limit // HEADER_BYTES + 1, offset_delta=1)
    records += bytes(limit // 2 - len(records))  # any other bytes
    data = raw_batch(7, 3, records if number == 0 else zstd_encode(records), number)
    before = memory()
    reading = Reading(codec, data, 7, limit)
    assert reading.values() == [b"v"]
    reading.ends_with(f"t-0 offset 8: .*{limit // HEADER_BYTES + 1} headers.*{limit}")
    assert memory() - before < 2 * limit


def test_headers_count_by_their_memory_and_not_by_their_bytes(codec: Codec) -> None:
    each = 1000
    records = b"".join(record_with_headers(each, offset_delta=n) for n in range(50))
    one = raw_batch(0, 50, zstd_encode(records), 4)
    reading = Reading(codec, one, limit=each * HEADER_BYTES * 10)
    portions = list(reading.portions())
    assert reading.error is None
    assert sum(len(portion.records) for portion in portions) == 50
    assert all(len(portion.records) <= 10 for portion in portions)
    assert all(portion.weight >= 160_000 * len(portion.records) for portion in portions)


def test_batch_in_old_format_with_too_many_messages_is_an_error(codec: Codec) -> None:
    one = batch(0, *[None] * 1000, codec=1, magic=1)
    Reading(codec, one, 0, 100_000).ends_with("t-0 offset 0: .*more than 625 messages")


def test_message_in_old_format_that_claims_no_bytes_is_an_error(
    codec: Codec,
) -> None:
    inner = bytearray(batch(0, b"v", magic=1))
    inner[8:12] = struct.pack(">i", -12)
    outer = MemoryRecordsBuilder(1, 0, 1 << 30, offset=0)
    outer.append(1, None, gzip_encode(bytes(inner)))
    outer.close()
    data = bytearray(outer.buffer())
    data[17] = 1  # gzip
    data[12:16] = struct.pack(">I", zlib.crc32(data[16:]))
    Reading(codec, bytes(data), 0, 100_000).ends_with("t-0 offset 0: ")


def test_very_many_empty_batches_take_no_memory(codec: Codec, memory: Callable[[], int]) -> None:
    empty = b"".join(raw_batch(n, 0, b"") for n in range(20_000)) + batch(20_000, b"last")
    before = memory()
    reading = Reading(codec, empty)
    assert reading.values() == [b"last"]
    assert reading.fetched.end == 20_001
    assert memory() - before < 1 << 20


def test_claimed_number_of_records_is_bounded_by_bytes(codec: Codec) -> None:
    reading = Reading(codec, raw_batch(0, 2_000_000_000, raw_record()))
    assert reading.fetched.count < 10


def test_the_compiled_code_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fallback to Python would hide that the compiled code decodes nothing."""

    def records(*_: object) -> None:
        raise AssertionError("decoded in Python")

    monkeypatch.setattr("transport.drivers.kafka.records.pure.PureCodec.records", records)
    values = [b"%d" % n * 10 for n in range(8000)]
    for number in range(5):
        for count in (1, 64, 65, 8000):
            data = batch(0, *values[:count], codec=number)
            reading = Reading(codec_for("compiled")[0], data, limit=HUGE)
            assert [record.value for record in reading.good()] == values[:count]
