"""Which partition a key belongs to: the rule of Kafka's Java client.

murmur2 of the key's bytes with the seed 0x9747b28c, the sign bit cleared, modulo the number of
partitions (`org.apache.kafka.clients.producer.internals.BuiltInPartitioner`), so that programs in
several languages agree. Knows neither trio nor Kafka.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Partitioner: TypeAlias = Callable[[bytes, int], int]

_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The 32-bit hash of `data`, without a sign."""
    length = len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _M & _MASK
        k = (k ^ (k >> 24)) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if length != whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ (h >> 13)) * _M & _MASK
    return h ^ (h >> 15)


def java_partitioner(key: bytes, partitions: int) -> int:
    """The partition of `key` among `partitions` (at least 1), as the Java client computes it."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
