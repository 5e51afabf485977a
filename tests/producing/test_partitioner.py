"""Tests of `transport/partitioner.py` against the test vectors of Kafka's Java client."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.partitioner import java_partitioner, murmur2

# From org.apache.kafka.common.utils.UtilsTest.testMurmur2. An int of Java has a sign.
JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "expected"), JAVA.items())
def test_the_hash_is_that_of_java(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected & 0xFFFFFFFF


@pytest.mark.parametrize(("key", "expected"), JAVA.items())
def test_the_partition_is_the_hash_without_its_sign_bit(key: bytes, expected: int) -> None:
    assert java_partitioner(key, 12) == (expected & 0x7FFFFFFF) % 12


def test_an_empty_key_has_a_partition() -> None:
    assert murmur2(b"") == 275646681
    assert java_partitioner(b"", 1) == 0


@given(st.binary(max_size=50), st.integers(1, 1000))
def test_each_key_has_one_valid_partition(key: bytes, partitions: int) -> None:
    partition = java_partitioner(key, partitions)
    assert 0 <= partition < partitions
    assert java_partitioner(key, partitions) == partition


@given(st.binary(max_size=50))
def test_bytes_above_127_are_hashed_as_unsigned(key: bytes) -> None:
    assert murmur2(key) == murmur2_by_the_book(key)


def murmur2_by_the_book(data: bytes) -> int:
    """Compute murmur2 as the Java code does, with its switch for the last bytes."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ len(data)) & mask
    for word in range(len(data) // 4):
        k = sum((data[word * 4 + i] & 0xFF) << (8 * i) for i in range(4))
        k = k * m & mask
        k ^= k >> 24
        k = k * m & mask
        h = h * m & mask
        h ^= k
    rest = data[len(data) & ~3 :]
    if len(rest) == 3:
        h ^= rest[2] << 16
    if len(rest) >= 2:
        h ^= rest[1] << 8
    if rest:
        h ^= rest[0]
        h = h * m & mask
    h ^= h >> 13
    h = h * m & mask
    return h ^ (h >> 15)
