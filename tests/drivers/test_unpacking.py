"""What is broken or hostile in what a broker sends, up to the client's unpacking of it."""

from __future__ import annotations

import collections
import contextlib
import gzip
import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import kafka.errors
import lz4.frame
import pytest
import snappy
import zstandard
from kafka import TopicPartition
from kafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from kafka.consumer.fetcher import Fetcher
from kafka.consumer.subscription_state import SubscriptionState
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder
from kafka.record.util import calc_crc32c, encode_varint

from transport.drivers.kafka.decompression import TooLarge, decompress
from transport.drivers.kafka.unpacking import BoundedRecords, Room, bound_unpacking
from transport.errors import UnreadableBatch
from transport.weights import HEADER_BYTES, RECORD_BYTES

LIMIT = 1 << 20
CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
ENCODE = {1: gzip_encode, 2: snappy_encode, 3: lz4_encode, 4: zstd_encode}
HEADER = DefaultRecordBatch.HEADER_STRUCT


def batch(offset: int, *values: bytes | None, codec: int = 0, magic: int = 2) -> bytes:
    builder = MemoryRecordsBuilder(magic, codec, 1 << 30, offset=offset if magic < 2 else 0)
    for value in values:
        builder.append(1, None, value)
    builder.close()
    data = bytes(builder.buffer())
    return data if magic < 2 else struct.pack(">q", offset) + data[8:]


def raw_batch(offset: int, count: int, records: bytes, codec: int = 0) -> bytes:
    """A batch of whatever is in `records`, with a CRC that is right."""
    rest = struct.pack(">hiqqqhii", codec, count - 1, 1, 1, -1, -1, -1, count) + records
    head = struct.pack(">qiibI", offset, len(rest) + 9, 0, 2, calc_crc32c(rest))
    return head + rest


def raw_record(*, offset_delta: int = 0, value: bytes = b"v", header: bytes | None = None) -> bytes:
    body = bytearray(b"\0\0")  # attributes, timestamp delta
    for number in (offset_delta, -1, len(value)):
        encode_varint(number, body.append)
    body += value
    encode_varint(0 if header is None else 1, body.append)
    if header is not None:
        encode_varint(len(header), body.append)
        body += header
        encode_varint(1, body.append)
        body += b"h"
    record = bytearray()
    encode_varint(len(body), record.append)
    return bytes(record + body)


def unpacking(data: bytes, start: int = 0, limit: int = LIMIT) -> BoundedRecords:
    return BoundedRecords(Room(limit, limit), start, TopicPartition("t", 0), MemoryRecords(data))


def values(records: list[Any]) -> list[bytes | None]:
    return [record.value for record in records]


def ends_with(unpacked: BoundedRecords, match: str) -> None:
    """It says what is wrong, and says so as often as it is asked."""
    for _ in range(3):
        with pytest.raises(UnreadableBatch, match=match):
            unpacked.take(10**9)
        assert unpacked  # there is something left: the error


# Formats and the codecs that they know. The first one's lz4 was written by Kafka 0.8 and 0.9 alone.
GOOD = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3), *((2, codec) for codec in range(5))]


@pytest.mark.parametrize(("magic", "codec"), GOOD)
def test_what_is_good_is_unpacked(magic: int, codec: int) -> None:
    unpacked = unpacking(batch(0, b"a", None, b"c" * 100_000, codec=codec, magic=magic))
    assert values(unpacked.take(10**9)) == [b"a", None, b"c" * 100_000]
    assert unpacked.next_fetch_offset == 3
    assert not unpacked


@pytest.mark.parametrize("codec", CODECS.values())
def test_several_frames_in_one_batch(codec: int) -> None:
    parts = [raw_record(), raw_record(offset_delta=1)]
    if codec == 2:
        packed = snappy.compress(b"".join(parts))  # as a client writes it that knows no blocks
    else:
        packed = b"".join(ENCODE[codec](part) for part in parts)
    assert len(unpacking(raw_batch(0, 2, packed, codec)).take(10**9)) == 2


# What is broken.


def with_byte(data: bytes, at: int, byte: int) -> bytes:
    return data[:at] + bytes([byte]) + data[at + 1 :]


def flipped(data: bytes) -> bytes:
    return with_byte(data, len(data) - 1, data[-1] ^ 1)


@pytest.mark.parametrize("magic", [1, 2])
def test_a_wrong_crc_is_an_error_that_names_the_place_after_what_is_good_before_it(
    magic: int,
) -> None:
    good = batch(5, b"a", b"b") if magic == 2 else batch(5, b"b", magic=magic)
    unpacked = unpacking(good + flipped(batch(7, b"c", magic=magic)) + batch(8, b"d"), 5)
    assert values(unpacked.take(10**9))[-1] == b"b"
    ends_with(unpacked, r"t-0 offset [67]: .*crc")


@pytest.mark.parametrize("magic", [3, 127, 255])
def test_an_unknown_format_is_not_taken_for_a_known_one(magic: int) -> None:
    # The CRC does not cover it, so that is right.
    unpacked = unpacking(batch(0, b"a") + with_byte(batch(1, b"b"), 16, magic))
    assert values(unpacked.take(10**9)) == [b"a"]
    ends_with(unpacked, r"t-0 offset 1: .*unknown format")


BROKEN = {
    "an unknown codec": raw_batch(3, 1, raw_record(), codec=5),
    "no gzip": raw_batch(3, 1, b"no such thing", codec=1),
    "no snappy": raw_batch(3, 1, b"no such thing", codec=2),
    "no lz4": raw_batch(3, 1, b"no such thing", codec=3),
    "no zstd": raw_batch(3, 1, b"no such thing", codec=4),
    **{
        f"{name} that is broken off": raw_batch(3, 1, ENCODE[codec](b"." * 99)[:-5], codec)
        for name, codec in CODECS.items()
    },
    "snappy without its size": raw_batch(3, 1, b"\xff" * 9, codec=2),
    "an empty one": raw_batch(3, 1, b""),
    "more records than there are": raw_batch(3, 2_000_000_000, raw_record()),
    "fewer records than there are": raw_batch(3, 1, raw_record() * 2),
    "a length below 0": struct.pack(">qi", 3, -12) + batch(3, b"v")[12:],
    "a length of 0": struct.pack(">qi", 3, 0) + batch(3, b"v")[12:],
    "zeros": raw_batch(3, 1, bytes(1000)),
    "a record that claims more than there is": raw_batch(3, 1, b"\x80\x80\x01" + raw_record()),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_whatever_is_broken_is_an_error_that_names_the_place(data: bytes) -> None:
    unpacked = unpacking(batch(1, b"a", b"b") + data, 1)
    with contextlib.suppress(UnreadableBatch):
        for _ in range(3):
            unpacked.take(10**9)
    ends_with(unpacked, r"t-0 offset [34]: .")


def test_a_header_whose_name_is_not_utf8_is_read_as_other_clients_read_it() -> None:
    records = (
        raw_record()
        + raw_record(offset_delta=1, header=b"a\xffb")
        + raw_record(offset_delta=2, header=b"name")
    )
    headers = [record.headers for record in unpacking(raw_batch(0, 3, records)).take(10**9)]
    assert headers == [[], [("a\ufffdb", b"h")], [("name", b"h")]]


# What is too much.


def zeros(codec: int, size: int, head: bytes = b"", tail: bytes = b"") -> bytes:
    """So many zeros with something around them, packed, and never in memory as a whole."""
    pieces = [head, *[bytes(1 << 20)] * (size >> 20), tail]
    out = io.BytesIO()
    if codec == 1:
        with gzip.GzipFile(fileobj=out, mode="wb") as file:
            for piece in pieces:
                file.write(piece)
    elif codec == 2:
        out.write(b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1))
        for block in map(snappy.compress, filter(None, pieces)):
            out.write(struct.pack(">i", len(block)) + block)
    elif codec == 3:
        frame = lz4.frame.LZ4FrameCompressor()
        out.write(frame.begin())
        for piece in pieces:
            out.write(frame.compress(piece))
        out.write(frame.flush())
    else:
        zstd = zstandard.ZstdCompressor().compressobj()
        for piece in pieces:
            out.write(zstd.compress(piece))
        out.write(zstd.flush())
    return out.getvalue()


def bomb(codec: int, size: int) -> bytes:
    """A batch that is good but for its size: one message of so many zeros."""
    head = bytearray(b"\0\0\0")  # attributes, the deltas of timestamp and offset
    encode_varint(-1, head.append)
    encode_varint(size, head.append)
    length = bytearray()
    encode_varint(len(head) + size + 1, length.append)
    packed = zeros(codec, size, bytes(length + head), b"\0")  # no headers
    return raw_batch(0, 1, packed, codec)


@pytest.fixture
def memory() -> Iterator[Callable[[], int]]:
    """The most bytes that were in use at once."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    yield lambda: tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "size"), [("gzip", 28), ("snappy", 28), ("lz4", 28), ("zstd", 30)]
)
def test_a_bomb_is_an_error_and_takes_no_more_memory_than_is_allowed(
    memory: Callable[[], int], name: str, size: int
) -> None:
    codec = CODECS[name]
    data = raw_batch(1, 1, zeros(codec, 1 << size), codec)
    before = memory()
    unpacked = unpacking(batch(0, b"good") + data, limit=8 << 20)
    assert values(unpacked.take(10**9)) == [b"good"]
    ends_with(unpacked, f"t-0 offset 1: .*max_decompressed_bytes.*{8 << 20}")
    assert memory() - before < 4 * len(data) + 4 * (8 << 20)


def test_a_block_of_snappy_that_claims_to_be_huge() -> None:
    claim = b"\xff\xff\xff\xff\x0f" + bytes(20)  # 4 GB
    ends_with(unpacking(raw_batch(0, 1, claim, codec=2)), "max_decompressed_bytes")


def test_what_is_just_as_large_as_allowed_is_good() -> None:
    for codec in CODECS.values():
        packed = memoryview(ENCODE[codec](bytes(LIMIT)))
        assert decompress(codec, packed, LIMIT) == bytes(LIMIT)
        with pytest.raises(TooLarge):
            decompress(codec, packed, LIMIT - 1)


def read_all(batches: list[bytes], limit: int, size: int) -> tuple[list[bytes | None], list[int]]:
    """Return the values of all messages, and how many each fetch gave.

    Each batch has `size` messages. After each fetch the broker sends again what was left.
    """
    found: list[bytes | None] = []
    portions = []
    at = 0
    while at < len(batches) * size:
        unpacked = unpacking(b"".join(batches[at // size :]), at, limit)
        portion = unpacked.take(10**9)
        assert portion[0].offset == at == len(found)
        found += values(portion)
        portions.append(len(portion))
        at = unpacked.next_fetch_offset
    return found, portions


def test_a_fetch_of_many_batches_is_unpacked_up_to_the_bound_and_the_rest_is_fetched_again() -> (
    None
):
    each = b"." * 10_000
    batches = [batch(10 * n, *[each] * 10, codec=4) for n in range(20)]  # 100 KB each
    found, portions = read_all(batches, 250_000, 10)
    assert found == [each] * 200
    most = 250_000 // (10_000 + RECORD_BYTES) + 1
    assert portions == [most] * (200 // most) + [200 % most]


@pytest.mark.parametrize("magic", [1, 2])
def test_a_batch_of_very_many_small_messages_is_taken_in_portions(magic: int) -> None:
    one = batch(0, *[b"%d" % n for n in range(800)], codec=1, magic=magic)
    found, portions = read_all([one], 300 * RECORD_BYTES, 800)
    assert found == [b"%d" % n for n in range(800)]
    assert len(portions) == 3
    assert 280 <= portions[0] <= 300


def record_with_headers(count: int, *, offset_delta: int = 0) -> bytes:
    """A record with so many headers that have neither a name nor a value."""
    body = bytearray(b"\0\0")
    for number in (offset_delta, -1, -1, count):
        encode_varint(number, body.append)
    body += bytes(2 * count)
    record = bytearray()
    encode_varint(len(body), record.append)
    return bytes(record + body)


@pytest.mark.parametrize("codec", [0, 4])
def test_a_record_with_too_many_headers_is_an_error_before_they_are_decoded(
    memory: Callable[[], int], codec: int
) -> None:
    limit = 2 << 20
    records = raw_record() + record_with_headers(limit // HEADER_BYTES + 1, offset_delta=1)
    records += bytes(limit // 2 - len(records))  # whatever else there is
    data = raw_batch(7, 3, records if codec == 0 else zstd_encode(records), codec)
    before = memory()
    unpacked = unpacking(data, 7, limit)
    assert values(unpacked.take(10**9)) == [b"v"]
    ends_with(unpacked, f"t-0 offset 8: .*{limit // HEADER_BYTES + 1} headers.*{limit}")
    assert memory() - before < 2 * limit


def test_headers_count_for_what_they_take_and_not_for_their_bytes() -> None:
    each = 1000
    records = b"".join(record_with_headers(each, offset_delta=n) for n in range(50))
    one = raw_batch(0, 50, zstd_encode(records), 4)
    found, portions = read_all([one], each * HEADER_BYTES * 10, 50)
    assert len(found) == 50
    assert portions == [10] * 5


def test_a_batch_of_the_old_formats_with_too_many_messages_is_an_error() -> None:
    one = batch(0, *[None] * 1000, codec=1, magic=1)
    ends_with(unpacking(one, 0, 100_000), "t-0 offset 0: .*more than 625 messages")


def test_a_message_of_the_old_formats_that_claims_to_end_where_it_begins_is_an_error() -> None:
    inner = bytearray(batch(0, b"v", magic=1))
    inner[8:12] = struct.pack(">i", -12)
    outer = MemoryRecordsBuilder(1, 0, 1 << 30, offset=0)
    outer.append(1, None, gzip_encode(bytes(inner)))
    outer.close()
    data = bytearray(outer.buffer())
    data[17] = 1  # gzip
    data[12:16] = struct.pack(">I", zlib.crc32(data[16:]))
    ends_with(unpacking(bytes(data), 0, 100_000), "t-0 offset 0: ")


def test_very_many_empty_batches_take_no_memory(memory: Callable[[], int]) -> None:
    empty = b"".join(raw_batch(n, 0, b"") for n in range(20_000)) + batch(20_000, b"last")
    before = memory()
    unpacked = unpacking(empty)
    assert values(unpacked.take(10**9)) == [b"last"]
    assert unpacked.next_fetch_offset == 20_001
    assert memory() - before < 1 << 20


def test_a_poll_takes_of_all_partitions_together_what_there_is_room_for() -> None:
    """The rest waits as it came, undecoded, and nothing of it is skipped."""
    value, count, partitions = b"." * 1000, 20, 10
    weight = RECORD_BYTES + len(value)
    fetcher = Fetcher.__new__(Fetcher)
    state = SubscriptionState()
    tps = [TopicPartition("t", number) for number in range(partitions)]
    state.assign_from_user(tps)
    for tp in tps:
        state.seek(tp, 0)
    waiting = [
        SimpleNamespace(topic_partition=tp, fetched_offset=0, records=batch(0, *[value] * count))
        for tp in tps
    ]
    fetcher.__dict__.update(
        _subscriptions=state,
        _completed_fetches=collections.deque(waiting),
        _next_partition_records=None,
        _next_in_line_exception_metadata=None,
        _paused_completed_fetches={},
        _paused_partition_records={},
        _sensors=None,
        config={"max_poll_records": 10**9},
    )
    fetcher._parse_fetched_data = lambda fetch: fetcher.PartitionRecords(
        fetch.fetched_offset, fetch.topic_partition, MemoryRecords(fetch.records)
    )
    bound_unpacking(SimpleNamespace(_fetcher=fetcher), 90 * weight, waiting=LIMIT)
    seen: dict[TopicPartition, int] = dict.fromkeys(tps, 0)
    polls = 0
    while any(count > seen[tp] for tp in tps):
        records, _ = fetcher.fetched_records(10**9)
        polls += 1
        assert 0 < sum(map(len, records.values())) <= 46
        for tp, got in records.items():
            assert got[0].offset == seen[tp], "nothing is skipped"
            seen[tp] += len(got)
            if seen[tp] < count:  # the broker sends the rest again
                again = SimpleNamespace(
                    topic_partition=tp, fetched_offset=seen[tp], records=batch(0, *[value] * count)
                )
                fetcher._completed_fetches.append(again)
    assert polls >= partitions * count // 46


def test_what_waits_for_a_resume_is_bounded_and_what_is_more_is_fetched_again() -> None:
    parked = {
        TopicPartition("t", number): SimpleNamespace(
            partition_data=SimpleNamespace(records=bytes(1000) if number else None)
        )
        for number in range(10)
    }
    fetcher = SimpleNamespace(
        _parse_fetched_data=None,
        _append=None,
        fetched_records=lambda: ({}, False),
        _paused_completed_fetches=parked,
    )
    bound_unpacking(SimpleNamespace(_fetcher=fetcher), LIMIT, waiting=4500)
    assert fetcher.fetched_records() == ({}, False)
    assert [tp.partition for tp in parked] == [0, 1, 2, 3, 4]


def test_what_the_broker_itself_finds_damaged_is_named_too() -> None:
    def parse(fetch: Any) -> None:
        raise kafka.errors.CorruptRecordError("Unexpected error while fetching data")

    fetcher = SimpleNamespace(_parse_fetched_data=parse, fetched_records=None, _append=None)
    bound_unpacking(SimpleNamespace(_fetcher=fetcher), LIMIT, waiting=LIMIT)
    fetch = SimpleNamespace(topic_partition=TopicPartition("t", 0), fetched_offset=7)
    with pytest.raises(UnreadableBatch, match=r"t-0 offset 7: .*fetching data"):
        fetcher._parse_fetched_data(fetch)
