"""The verb `bench`, on both brokers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from tests.command_line.conftest import Run
from tests.lanes import Place
from transport import App
from transport.command_line.load import AnyBatch, Load, read
from transport.drivers.memory.admin import MemoryAdmin
from transport.errors import TransportError

SMALL = ("bench", "--messages", "2500", "--size", "100", "--partitions", "2", "--seconds", "0.1")


async def names(run: Run) -> set[str]:
    return {row["topic"] for row in (await run("topics", "list", "--json")).json}


async def test_bench_measures_four_steps_and_deletes_its_topic(run: Run, place: Place) -> None:
    before = await names(run)
    rows = {row["step"]: row for row in (await run(*SMALL, "--json")).json}
    assert set(rows) == {"send", "read", "send one by one", "send and receive"}
    assert rows["send"]["messages"] == 2500
    assert rows["send"]["per_second"] > 0
    assert rows["send"]["p50_ms"] is None
    for step in ("send one by one", "send and receive"):
        assert rows[step]["messages"] == 100
        assert 0 < rows[step]["p50_ms"] <= rows[step]["p99_ms"] <= rows[step]["max_ms"]
    assert await names(run) == before


async def test_bench_prints_a_table_and_no_warning(run: Run, place: Place) -> None:
    found = await run(*SMALL, "--compression", "gzip", "--acks", "1")
    assert found.lines[0].split()[:3] == ["STEP", "MESSAGES", "SECONDS"]
    assert (len(found.lines), found.err) == (5, "")


async def test_a_bench_that_is_cancelled_deletes_its_topic(run: Run, place: Place) -> None:
    before = await names(run)
    with trio.move_on_after(0.5) as scope:
        await run("bench", "--messages", "1", "--size", "100", "--rate", "10", "--seconds", "60")
    assert scope.cancelled_caught
    assert await names(run) == before


async def test_a_bench_that_is_cancelled_while_it_creates_its_topic_deletes_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_NURSERY_BROKER", "memory://bench")
    create = MemoryAdmin.create_topic

    async def create_without_an_answer(self: MemoryAdmin, *args: Any) -> None:
        await create(self, *args)
        await trio.sleep_forever()

    monkeypatch.setattr(MemoryAdmin, "create_topic", create_without_an_answer)
    with trio.move_on_after(0.5) as scope:
        await run(*SMALL)
    assert scope.cancelled_caught
    assert await names(run) == set()


@pytest.mark.parametrize(
    "option", ["--messages=0", "--size=7", "--partitions=0", "--rate=0", "--seconds=nan"]
)
async def test_an_impossible_load_is_a_usage_error(run: Run, option: str) -> None:
    refused = await run("bench", option)
    assert refused.code == 2
    assert option.partition("=")[0] in refused.err


@pytest.mark.parametrize("size", [8, 9, 100, 1001])
def test_values_have_the_size_of_the_load(size: int) -> None:
    values = Load(1, size).values()
    assert {8 + len(value) for value in values} == {size}
    assert size < 100 or len(set(values)) == len(values)


async def test_a_message_that_comes_twice_and_one_that_is_missing_are_an_error() -> None:
    async with App("bench") as app:
        await app.producer.create_topic("numbers", 1)
        for number in (0, 1, 1):
            await app.topic("numbers").send_and_wait(value=number.to_bytes(8, "big"))
        batches: AsyncIterator[AnyBatch] = aiter(app.topic("numbers").batches())
        with pytest.raises(TransportError, match="1 of 3 messages have not come back"):
            await read(batches, Load(3, 8), lambda count: None)
