"""The load of the verb `bench`: messages that are written, read, and sent one by one.

Each function makes one measurement and returns it as a row. The clock starts after the connection
is made and the partitions are known.
"""

from __future__ import annotations

import math
import random
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeAlias

import attrs
import trio

from transport.errors import TransportError
from transport.message import Batch
from transport.topic import Topic

AnyTopic: TypeAlias = Topic[bytes, bytes]
AnyBatch: TypeAlias = Batch[bytes, bytes]

COLUMNS = (
    "step",
    "messages",
    "seconds",
    "per_second",
    "mb_per_second",
    "p50_ms",
    "p99_ms",
    "max_ms",
)
# The first bytes of a value: the number of the message, or the time at which it was sent.
_HEAD = struct.Struct(">Q")
SMALLEST = _HEAD.size
_CHUNK = 1000  # messages in one call of `send_many`
_NS = 1e9

Show = Callable[[int], None]


@attrs.frozen
class Load:
    """The messages to write: how many, and of how many bytes.

    Their values are hexadecimal digits after eight bytes, so that they can be compressed as JSON
    can. The same load always has the same bytes.
    """

    messages: int
    size: int

    def values(self) -> Sequence[bytes]:
        """Return the ends of the values of one chunk."""
        digits = random.Random(0)
        length = self.size - SMALLEST
        return [digits.randbytes(length // 2 + 1).hex().encode()[:length] for _ in range(_CHUNK)]


async def write(topic: AnyTopic, load: Load, show: Show) -> dict[str, Any]:
    """Write the load as fast as possible, until all messages are acknowledged.

    A checkpoint. Cancelled: a part of the messages is written.
    """
    ends = load.values()
    producer = topic.app.producer
    await producer.ask_partitions(topic.name)
    began = time.perf_counter()
    sent = []
    for first in range(0, load.messages, _CHUNK):
        numbers = range(first, min(first + _CHUNK, load.messages))
        pairs = [(_HEAD.pack(n), _HEAD.pack(n) + ends[n - first]) for n in numbers]
        sent.append(await topic.send_many(pairs))
        show(first)
    await producer.flush()
    for deliveries in sent:
        await deliveries
    show(load.messages)
    return _row("send", load, time.perf_counter() - began)


async def read(batches: AsyncIterator[AnyBatch], load: Load, show: Show) -> dict[str, Any]:
    """Read the load, and check that all messages are there.

    The clock starts with the first batch. A checkpoint. Cancelled: a part of them is read. Raises
    TransportError: a message has come twice, and another one has not.
    """
    seen = bytearray(load.messages)
    count = first = 0
    began = 0.0
    while count < load.messages:
        batch = await anext(batches)
        if not count:
            began, first = time.perf_counter(), len(batch)
        for value in batch.values():
            (number,) = _HEAD.unpack_from(value)
            seen[number] = 1
        batch.ack()
        count += len(batch)
        show(count)
    seconds = time.perf_counter() - began
    if missing := load.messages - sum(seen):
        raise TransportError(f"{missing} of {load.messages} messages have not come back")
    return _row("read", Load(max(count - first, 1), load.size), seconds)


@trio.lowlevel.enable_ki_protection
async def one_by_one(
    topic: AnyTopic, batches: AsyncIterator[AnyBatch], load: Load, rate: float, show: Show
) -> list[dict[str, Any]]:
    """Send messages at a rate, each alone, and read them at the same time.

    Return the row of the times to the acknowledgment, and that of the times to the reader. A
    checkpoint. Cancelled: a part of the messages is written.

    Args:
        rate: messages a second.
    """
    end = load.values()[0]
    acknowledged, received = list[float](), list[float]()

    async def send(number: int) -> None:
        sent = time.perf_counter_ns()
        head = _HEAD.pack(sent)
        await topic.send_and_wait(key=_HEAD.pack(number), value=head + end)
        acknowledged.append((time.perf_counter_ns() - sent) / _NS)

    async def send_all(nursery: trio.Nursery) -> None:
        began = trio.current_time()
        for number in range(load.messages):
            await trio.sleep_until(began + number / rate)
            nursery.start_soon(send, number)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, nursery)
        while len(received) < load.messages:
            batch = await anext(batches)
            now = time.perf_counter_ns()
            for value in batch.values():
                (sent,) = _HEAD.unpack_from(value)
                received.append((now - sent) / _NS)
            batch.ack()
            show(len(received))
    seconds = time.perf_counter() - began
    return [
        _row("send one by one", load, seconds, acknowledged),
        _row("send and receive", load, seconds, received),
    ]


def _row(
    step: str, load: Load, seconds: float, times: Sequence[float] | None = None
) -> dict[str, Any]:
    """Return a measurement.

    Args:
        times: seconds of each message. None: they were not measured.
    """
    seconds = max(seconds, 1e-9)
    return {
        "step": step,
        "messages": load.messages,
        "seconds": round(seconds, 3),
        "per_second": round(load.messages / seconds),
        "mb_per_second": round(load.messages * load.size / seconds / 1e6, 1),
        "p50_ms": None if times is None else _percentile(times, 0.5),
        "p99_ms": None if times is None else _percentile(times, 0.99),
        "max_ms": None if times is None else _percentile(times, 1.0),
    }


def _percentile(times: Sequence[float], share: float) -> float:
    at = math.ceil(share * len(times)) - 1
    return round(sorted(times)[at] * 1000, 2)
