"""Batches of Kafka's own producer, read by each implementation of the record codec."""

from __future__ import annotations

import uuid

import pytest
import trio

from tests.kafka.cluster import CONSOLE_PRODUCER, tool
from transport import App

pytestmark = pytest.mark.kafka

BOUND = 60.0  # seconds, on a busy machine
COUNT = 300


def line(number: int) -> str:
    """Return a message as a line for the console producer: headers, key and value."""
    key = "NULL" if number % 3 == 0 else f"k{number}"
    value = "NULL" if number % 5 == 4 else f"v{number} " * (number % 20)
    return f"n:{number},u:\u00e9,n:again\t{key}\t{value}"


def message(number: int) -> tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]:
    return (
        None if number % 3 == 0 else b"k%d" % number,
        None if number % 5 == 4 else b"v%d " % number * (number % 20),
        [("n", b"%d" % number), ("u", "\u00e9".encode()), ("n", b"again")],
    )


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_both_codecs_read_what_kafkas_own_producer_writes(
    kafka_java: None, kafka_bootstrap: str, compression: str
) -> None:
    name = f"java-{compression}-{uuid.uuid4().hex[:12]}"
    url = f"kafka://{kafka_bootstrap}"
    async with App(name, url) as app:
        await app.producer.create_topic(name, 1)
    options = ["parse.headers=true", "parse.key=true", "null.marker=NULL"]
    args = ["--topic", name, "--compression-codec", compression]
    args += [part for option in options for part in ("--reader-property", option)]
    lines = "".join(line(number) + "\n" for number in range(COUNT))
    await trio.to_thread.run_sync(
        lambda: tool(CONSOLE_PRODUCER, *args, bootstrap=kafka_bootstrap, stdin=lines)
    )
    for codec in ("compiled", "pure"):
        found = []
        with trio.fail_after(BOUND):
            async with App(f"{name}-{codec}", url, record_codec=codec) as app:
                assert ("aiokafka" in app.transport.driver_version) == (codec == "compiled")
                async for each in app.topic(name).noack():
                    found.append((each.key, each.value, list(each.headers)))
                    if len(found) == COUNT:
                        break
        assert found == [message(number) for number in range(COUNT)]
