"""The verb `tail`, on both brokers: which messages it prints, and how."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line.conftest import Run
from tests.command_line.messages import numbered, written
from tests.lanes import Place
from transport import App
from transport.registry import SchemaRegistry


def keys(lines: list[dict[str, object]]) -> list[object]:
    return [line["key"] for line in lines]


async def test_tail_prints_the_last_ten_messages(run: Run, place: Place) -> None:
    await written(place, place.name, *numbered(15))
    shown = await run("tail", place.name, "--json")
    assert keys(shown.json_lines) == [f"k{number}" for number in range(5, 15)]
    assert keys((await run("tail", place.name, "--json", "-n", "2")).json_lines) == ["k13", "k14"]
    assert (await run("tail", place.name, "-n", "0")).out == ""


async def test_the_last_messages_of_several_partitions_are_in_the_order_of_time(
    run: Run, place: Place
) -> None:
    messages = [
        {"key": b"k%d" % number, "partition": number % 3, "timestamp": 1_700_000_000.0 + number}
        for number in range(9)
    ]
    await written(place, place.name, *messages, partitions=3)
    shown = await run("tail", place.name, "-n", "4", "--json")
    assert keys(shown.json_lines) == ["k5", "k6", "k7", "k8"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--from", "beginning", "-n", "2"], ["k0", "k1"]),
        (["--from", "3", "--until", "5"], ["k3", "k4"]),
        (["--until", "2"], ["k0", "k1"]),
        (["--until", "4", "-n", "1"], ["k3"]),
        (["--from", "-2"], ["k4", "k5"]),
        (["--from", "end"], []),
        (["--from", "2023-11-14T22:13:24Z"], ["k4", "k5"]),
        (["--from", "0", "--until", "2023-11-14T22:13:21Z"], ["k0"]),
        (["--key", "k1"], ["k1"]),
        (["--grep", "^v[23]"], ["k2", "k3"]),
        (["--header", "parity=odd", "-n", "2"], ["k3", "k5"]),
        (["--header", "parity", "--key", "k0"], ["k0"]),
        (["--header", "absent"], []),
    ],
)
async def test_options_choose_the_messages(
    run: Run, place: Place, options: list[str], expected: list[str]
) -> None:
    messages = numbered(6)
    for number, message in enumerate(messages):
        message["timestamp"] = 1_700_000_000.0 + number
        message["headers"] = {"parity": b"odd" if number % 2 else b"even"}
    await written(place, place.name, *messages)
    shown = await run("tail", place.name, "--json", *options)
    assert (shown.code, keys(shown.json_lines)) == (0, expected)


@pytest.mark.parametrize(
    "options",
    [
        ["--count", "99999999999999999999"],
        ["--from", "99999999999999999999w"],
        ["--from", "0002-01-01T00:00:00Z"],
        ["--from=-99999999999999999999"],
    ],
)
async def test_a_huge_number_takes_all_messages(run: Run, place: Place, options: list[str]) -> None:
    await written(place, place.name, {"value": b"a"}, {"value": b"b"})
    printed = await run("tail", place.name, "--json", *options)
    assert [line["value"] for line in printed.json_lines] == ["a", "b"]


async def test_bytes_that_are_not_text_stay_whole_in_json(run: Run, place: Place) -> None:
    message = {"key": b"\xff\x00", "value": None, "headers": [("a", b"\xfe"), ("a", None)]}
    await written(place, place.name, message)
    (line,) = (await run("tail", place.name, "--json")).json_lines
    assert line["key_base64"] == "/wA="
    assert line["value"] is None
    assert line["headers"] == [["a", {"base64": "/g=="}], ["a", None]]


async def test_a_message_cannot_command_the_terminal(run: Run, place: Place) -> None:
    await written(
        place, place.name, {"key": b"a\nb", "value": b"\x1b[2Jx", "headers": {"h\t": b""}}
    )
    shown = await run("tail", place.name)
    assert len(shown.lines) == 1
    assert "\x1b" not in shown.out
    assert "a\\nb" in shown.out


async def test_values_are_decoded_by_their_type(run: Run, place: Place) -> None:
    json_value = {"key": (5).to_bytes(8, "big"), "value": b'{"n": 1}', "partition": 0}
    await written(place, place.name, json_value, {**json_value, "value": b"{"})
    typed = ["--key-type", "int", "--value-type", "json", "--json"]
    good, bad = (await run("tail", place.name, *typed)).json_lines
    assert (good["key"], good["value"]) == (5, {"n": 1})
    assert (bad["key"], bad["value_base64"]) == (5, "ew==")


@pytest.mark.parametrize("kind", ["avro", "jsonschema"])
async def test_values_of_a_schema_registry_are_decoded_and_written_again(
    run: Run, place: Place, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    registry = SchemaRegistry(f"mock://{place.name}")
    # In memory, each registry of a name has schemas of its own.
    monkeypatch.setattr("transport.registry.SchemaRegistry", lambda url: registry)
    field = {"name": "n", "type": "int"}
    avro = {"type": "record", "name": "Order", "fields": [field]}
    schema = {"type": "object", "title": "Order", "properties": {"n": {"type": "integer"}}}
    typed = registry.avro(dict, avro) if kind == "avro" else registry.json(dict, schema)
    await written(place, place.name)
    async with App("writer", broker=place.url, client_only=True) as app:
        await app.topic(place.name, value_type=typed).send_and_wait(key=b"k", value={"n": 5})
    options = ["--json", "--value-type", kind, "--registry", "http://127.0.0.1:1"]
    printed = await run("tail", place.name, *options)
    assert printed.json["value"] == {"n": 5}
    file = tmp_path / "lines"
    file.write_text(printed.out)
    assert (await run("send", place.name, str(file), *options)).code == 0
    assert [line["value"] for line in (await run("tail", place.name, *options)).json_lines] == [
        {"n": 5}
    ] * 2


@pytest.mark.parametrize(
    "options",
    [
        ["--from", "yesterday"],
        ["--grep", "("],
        ["-n", "-1"],
        ["--value-type", "xml"],
        ["--value-type", "avro"],
        ["--follow", "--until", "5"],
        ["--partition", "7"],
    ],
)
async def test_a_wrong_option_is_one_line_and_exit_code_2(
    run: Run, place: Place, options: list[str]
) -> None:
    await written(place, place.name)
    refused = await run("tail", place.name, *options)
    assert (refused.code, refused.out) == (2, "")
    assert len(refused.err.splitlines()) == 1


async def test_the_last_messages_are_found_behind_offsets_without_records(
    run: Run, place: Place
) -> None:
    await written(place, place.name, *numbered(5))
    async with App("transactions", broker=place.url, client_only=True) as app:
        for number in range(40):
            await app.producer.begin_transaction(place.name)
            if number < 3:
                await app.producer.send(
                    place.name, b"t%d" % number, None, 0, transactional_id=place.name
                )
                await app.producer.commit_transaction(place.name)
            else:
                await app.producer.send(place.name, b"a", None, 0, transactional_id=place.name)
                await app.producer.abort_transaction(place.name)
    shown = await run("tail", place.name, "-n", "4", "--json")
    assert keys(shown.json_lines) == ["k4", "t0", "t1", "t2"]
    shown = await run("tail", place.name, "--from", "0", "--json")
    assert len(shown.lines) == 8
