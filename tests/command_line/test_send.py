"""The verb `send`: the messages that it makes of its input, and what it says about failures."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from tests.command_line.conftest import Run
from tests.command_line.messages import written
from tests.lanes import Place
from transport import DeliveryFailed
from transport.command_line.program import run_in_trio
from transport.drivers.memory.producer import MemoryProducer

Feed = Callable[[str | bytes], None]


@pytest.fixture
def feed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Feed]:
    """Return a function that sets the content of stdin."""
    with contextlib.ExitStack() as files:

        def set_stdin(content: str | bytes) -> None:
            file = tmp_path / "stdin"
            file.write_bytes(content.encode() if isinstance(content, str) else content)
            monkeypatch.setattr("sys.stdin", files.enter_context(file.open()))

        yield set_stdin


async def test_each_line_is_a_message(run: Run, place: Place, feed: Feed) -> None:
    await written(place, place.name)
    feed(b"a\r\n\nb\xff\nlast")
    assert (await run("send", place.name, "--header", "by=test")).code == 0
    lines = (await run("tail", place.name, "--json")).json_lines
    assert [line.get("value", line.get("value_base64")) for line in lines] == [
        *("a", "", "Yv8=", "last")
    ]
    assert all(line["headers"] == [["by", "test"]] for line in lines)


async def test_long_lines_stay_whole(run: Run, place: Place, feed: Feed) -> None:
    """The input is read in parts of 64 KiB."""
    await written(place, place.name)
    lines = ["a" * 70_000, "b", "c" * 131_072, "d"]
    feed("\n".join(lines))
    assert (await run("send", place.name)).code == 0
    printed = (await run("tail", place.name, "--json")).json_lines
    assert [line["value"] for line in printed] == lines


async def test_a_separator_parts_key_and_value(run: Run, place: Place, feed: Feed) -> None:
    await written(place, place.name)
    feed("anna:20:x\nbert:\n")
    await run("send", place.name, "-K", ":")
    lines = (await run("tail", place.name, "--json")).json_lines
    assert [(line["key"], line["value"]) for line in lines] == [("anna", "20:x"), ("bert", "")]


async def test_what_tail_prints_send_writes_again(run: Run, place: Place, feed: Feed) -> None:
    copy = f"{place.name}-copy"
    messages = [
        {"key": b"\xff", "value": b"text", "headers": [("a", b"\xfe"), ("a", None), ("b", b"")]},
        {"key": None, "value": None, "partition": 2},
        {"key": b"", "value": '"\n☃"'.encode(), "timestamp": 1_700_000_000.125},
    ]
    await written(place, place.name, *messages, partitions=3)
    await written(place, copy, partitions=3)
    printed = await run("tail", place.name, "--from", "0", "--json")
    feed(printed.out)
    assert (await run("send", copy, "--json", "--keep-partition")).code == 0
    again = await run("tail", copy, "--from", "0", "--json")
    expected = sorted(printed.out.replace(place.name, copy).splitlines())
    assert sorted(again.lines) == expected


async def test_typed_values_make_the_round_trip(run: Run, place: Place, feed: Feed) -> None:
    await written(place, place.name)
    typed = ["--json", "--key-type", "int", "--value-type", "json"]
    feed('{"key": 7, "value": {"n": [1, null]}}\n{"key": 8, "value": null}\n')
    assert (await run("send", place.name, *typed)).code == 0
    first, second = (await run("tail", place.name, *typed)).json_lines
    assert (first["key"], first["value"]) == (7, {"n": [1, None]})
    assert (second["key"], second["value"]) == (8, None)


async def test_a_whole_file_is_one_message(run: Run, place: Place, tmp_path: Path) -> None:
    await written(place, place.name)
    file = tmp_path / "order.txt"
    file.write_text("two\nlines\n")
    await run("send", place.name, str(file), "--whole", "--key", "k")
    (line,) = (await run("tail", place.name, "--json")).json_lines
    assert (line["key"], line["value"]) == ("k", "two\nlines\n")


@pytest.mark.parametrize(
    ("content", "options", "place_of_error"),
    [
        ("{}\n{", ["--json"], "line 2"),
        ('{"value": 5}', ["--json"], "line 1"),
        ('{"value_base64": "?"}', ["--json"], "line 1"),
        ("a:b\nc", ["-K", ":"], "line 2"),
        ("x", ["--value-type", "int"], "line 1"),
        ('{"headers": 5}', ["--json"], "line 1"),
        ('{"timestamp": "soon"}', ["--json"], "line 1"),
        ('{"timestamp": -1}', ["--json"], "line 1"),
        ('{}\n{"partition": "0"}', ["--json", "--keep-partition"], "line 2"),
        ('{"partition": 7}', ["--json", "--keep-partition"], "line 1"),
        ("a\n" + "b" * 2_000_000, [], "line 2"),
    ],
)
async def test_an_error_names_the_line(
    run: Run, place: Place, feed: Feed, content: str, options: list[str], place_of_error: str
) -> None:
    await written(place, place.name)
    feed(content)
    refused = await run("send", place.name, *options)
    assert refused.code == 1
    assert f"stdin {place_of_error}:" in refused.err
    assert len(refused.err.splitlines()) == 1


async def test_a_folder_and_a_closed_stdin_are_errors_of_one_line(
    run: Run, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written(place, place.name)
    refused = await run("send", place.name, str(tmp_path))
    assert (refused.code, len(refused.err.splitlines())) == (1, 1)
    assert str(tmp_path) in refused.err
    monkeypatch.setattr("sys.stdin", None)
    refused = await run("send", place.name)
    assert (refused.code, len(refused.err.splitlines())) == (1, 1)
    assert "stdin is closed" in refused.err


async def test_send_creates_no_topic(run: Run, place: Place, feed: Feed) -> None:
    feed("x\n")
    assert (await run("send", f"{place.name}-absent")).code == 1
    assert "absent" not in (await run("topics", "list")).out


async def test_rate_bounds_the_messages_in_a_second(run: Run, place: Place, feed: Feed) -> None:
    await written(place, place.name)
    feed("x\n" * 5)
    began = trio.current_time()
    await run("send", place.name, "--rate", "10")
    assert trio.current_time() - began >= 0.4


async def test_a_pipe_that_stays_open_does_not_delay_its_lines(
    run: Run, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written(place, place.name)
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin, os.fdopen(writing, "wb", buffering=0) as pipe:
        monkeypatch.setattr("sys.stdin", stdin)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, "send", place.name)
            pipe.write(b"early\n")
            following = ["tail", place.name, "--from", "0", "-n", "1", "--follow"]
            with trio.fail_after(30):
                assert await run_in_trio(following) == 0
            nursery.cancel_scope.cancel()


async def test_a_message_that_is_not_written_is_an_error_with_its_line(
    run: Run, place: Place, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not place.url.startswith("memory://"):
        pytest.skip("the failure is made in memory")
    await written(place, place.name)
    before = MemoryProducer.__dict__["send_now"]
    count = 0

    def fail_second(self: MemoryProducer, batch: list[object]) -> bool:
        nonlocal count
        count += 1
        if count == 2:
            self._report([(each, DeliveryFailed("a fault")) for each in batch])  # type: ignore
            return True
        return before(self, batch)  # type: ignore[no-any-return]

    monkeypatch.setattr(MemoryProducer, "send_now", fail_second)
    feed("a\nb\nc\n")
    failed = await run("send", place.name, "--rate", "1")
    assert failed.code == 1
    assert "stdin line 2 was not written: a fault" in failed.err
