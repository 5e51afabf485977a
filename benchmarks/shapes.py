"""The records in the topics that contenders read. confluent-kafka writes each topic once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """The records of a topic.

    Attributes:
        size: bytes of a value.
        keys: the number of different keys. 0: there are no keys.
        json: the values are JSON documents, which can be compressed. Otherwise, random bytes.
        batch_bytes, batch_messages: the largest batch.
        linger_ms: how long the producer waits for a full batch.
        one_by_one: the partitions are filled one after the other, so that batches become long.
    """

    name: str
    size: int
    partitions: int = 4
    keys: int = 0
    json: bool = False
    codec: str | None = None
    batch_bytes: int = 65536
    batch_messages: int = 10_000
    linger_ms: int = 50
    one_by_one: bool = False


SMALL = Shape("100B", 100)
KEYED = Shape("keyed.100B", 100, keys=200_000)
KILO = Shape("1kB", 1000)
SINGLE = Shape("single.100B", 100, batch_messages=1, linger_ms=0)
LARGE = Shape("900kB", 900_000, batch_bytes=1_000_000)
ZSTD, LZ4, GZIP = (
    Shape(f"{codec}.300B", 300, json=True, codec=codec) for codec in ("zstd", "lz4", "gzip")
)
BACKLOG = Shape(
    "backlog.870B",
    870,
    partitions=100,
    json=True,
    codec="zstd",
    batch_bytes=1_000_000,
    linger_ms=200,
    one_by_one=True,
)
SCALES = (1, 10, 100, 1000)
SPREAD = {
    number: Shape(f"{number}.partitions.100B", 100, partitions=number, one_by_one=True)
    for number in SCALES
}
QUIET = {number: Shape(f"{number}.quiet", 100, partitions=number) for number in (100, 1000)}
