"""The verb `bench`: how fast this library writes to and reads from a broker."""

from __future__ import annotations

import math
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Literal

import trio
from cyclopts import Parameter

from transport.command_line.connection import CLIENT_ID, Connection
from transport.command_line.load import COLUMNS, SMALLEST, Load, one_by_one, read, write
from transport.command_line.output import Json, print_rows
from transport.command_line.progress import counting
from transport.command_line.usage import UsageError
from transport.drivers.admin import Admin
from transport.drivers.settings import Compression
from transport.errors import TransportError, UnknownTopic

# Seconds for the deletion of the topic, also after Ctrl-C.
_CLEANING = 10.0
# At least so many messages are sent one by one, so that a percentile means something.
_FEW = 100


async def bench(
    *,
    messages: Annotated[int, Parameter(name=("--messages", "-n"))] = 100_000,
    size: Annotated[int, Parameter(name=("--size", "-s"))] = 1000,
    partitions: Annotated[int, Parameter(name=("--partitions", "-p"))] = 6,
    replication: Annotated[int | None, Parameter(name=("--replication", "-r"))] = None,
    acks: Annotated[Literal["all", "1", "0"], Parameter(name="--acks")] = "all",
    compression: Annotated[Compression | None, Parameter(name="--compression")] = None,
    rate: float = 100.0,
    seconds: float = 5.0,
    json: Json = False,
    connection: Connection = Connection(),
) -> None:
    """Measure the broker with a topic of its own, which is deleted at the end.

    First all messages are written as fast as possible, and then read. After that, single messages
    are sent at a low rate, and read at once. The last two rows have the times until such a message
    is acknowledged, and until it is received.

    Example: kafka-nursery bench --messages 20000 --size 200 --seconds 1

    Parameters
    ----------
    messages:
        The number of messages to write and read.
    size:
        The bytes of each value.
    partitions:
        The number of partitions of the topic.
    replication:
        The number of copies of each partition. Without it, the broker chooses.
    acks:
        The brokers that must have a message before it counts as written.
    compression:
        How batches are compressed. The values are random hexadecimal digits.
    rate:
        The single messages in a second.
    seconds:
        How long single messages are sent.
    """
    for option, value, least in (
        ("--messages", messages, 1),
        ("--size", size, SMALLEST),
        ("--partitions", partitions, 1),
    ):
        if value < least:
            raise UsageError(f"{option} takes a number of at least {least}, not {value}")
    for option, number in (("--rate", rate), ("--seconds", seconds)):
        if not 0 < number < math.inf:
            raise UsageError(f"{option} takes a number above 0, not {number:g}")
    load, single = Load(messages, size), Load(max(_FEW, round(rate * seconds)), size)
    sent_with: dict[str, Any] = {
        "acks": acks if acks == "all" else int(acks),
        "compression_type": compression,
    }
    async with (
        connection.admin() as admin,
        _own_topic(admin, partitions, replication) as topic,
        connection.writer(**sent_with) as writer,
        connection.writer(auto_offset_reset="earliest") as reader,
    ):
        target = writer.topic(topic)
        with counting("written", topic) as show:
            rows = [await write(target, load, show)]
        batches = aiter(reader.topic(topic).batches())
        with counting("read", topic) as show:
            rows.append(await read(batches, load, show))
        with counting("received", topic) as show:
            rows += await one_by_one(target, batches, single, rate, show)
    print_rows(rows, COLUMNS, is_json=json)


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def _own_topic(admin: Admin, partitions: int, replication: int | None) -> AsyncIterator[str]:
    """Create a topic for the block, and delete it after the block, also if that is cancelled."""
    name = f"{CLIENT_ID}-bench-{uuid.uuid4().hex[:8]}"
    is_there = True  # also if the creation is cancelled, because its request may be on its way
    try:
        try:
            await admin.create_topic(name, partitions, replication, {})
        except TransportError:
            is_there = False
            raise
        yield name
    finally:
        with trio.move_on_after(_CLEANING, shield=True) as cleaning, suppress(UnknownTopic):
            if is_there:
                await admin.delete_topic(name)
        if cleaning.cancelled_caught:
            raise TimeoutError(
                f"{name} could not be deleted within {_CLEANING:g} s:"
                f" kafka-nursery topics delete {name} --yes"
            )
