"""The verb `topics`, on both brokers."""

from __future__ import annotations

from tests.command_line.conftest import Run
from tests.command_line.messages import numbered, written
from tests.lanes import Place


async def test_create_list_and_delete_a_topic(run: Run, place: Place) -> None:
    name = place.name
    assert (await run("topics", "create", name, "--partitions", "3")).code == 0
    listed = {row["topic"]: row for row in (await run("topics", "list", "--json")).json}
    assert listed[name]["partitions"] == 3
    assert (await run("topics", "delete", name, "--yes")).code == 0
    assert name not in (await run("topics", "list")).out


async def test_create_refuses_a_topic_that_exists(run: Run, place: Place) -> None:
    await run("topics", "create", place.name, "-p", "1")
    again = await run("topics", "create", place.name, "-p", "1")
    assert (again.code, again.out) == (1, "")
    assert again.err.startswith("kafka-nursery: ")
    assert len(again.err.splitlines()) == 1
    assert "exists" in again.err


async def test_changes_print_json_on_request_and_nothing_else(run: Run, place: Place) -> None:
    created = await run("topics", "create", place.name, "-p", "1", "--json")
    assert (created.json["topic"], created.json["partitions"]) == (place.name, 1)
    grown = await run("topics", "partitions", place.name, "4", "--json")
    assert grown.json == {**created.json, "partitions": 4}
    deleted = await run("topics", "delete", place.name, "--yes", "--json")
    assert deleted.json == {"topic": place.name}
    assert (await run("topics", "create", place.name, "-p", "1")).out == ""
    assert (await run("topics", "partitions", place.name, "2")).out == ""
    assert (await run("topics", "delete", place.name, "--yes")).out == ""


async def test_delete_does_nothing_without_yes(run: Run, place: Place) -> None:
    await run("topics", "create", place.name, "-p", "1")
    refused = await run("topics", "delete", place.name)
    assert refused.code == 2
    assert "--yes" in refused.err
    assert place.name in (await run("topics", "list")).out


async def test_describe_shows_the_offsets_of_each_partition(run: Run, place: Place) -> None:
    await written(place, place.name, *numbered(3), partitions=2)
    described = (await run("topics", "describe", place.name, "--json")).json
    assert [(row["beginning"], row["end"]) for row in described["partitions"]] == [(0, 3), (0, 0)]
    text = await run("topics", "describe", place.name)
    assert "PARTITION" in text.out
    assert "\x1b" not in text.out


async def test_a_topic_that_does_not_exist_is_an_error_with_its_name(
    run: Run, place: Place
) -> None:
    for verb in (
        ("topics", "describe"),
        ("topics", "configs"),
        ("topics", "delete", "--yes"),
        ("tail",),
    ):
        missing = await run(*verb, "absent-topic")
        assert (missing.code, missing.out) == (1, "")
        assert "absent-topic" in missing.err


async def test_configs_changes_and_prints_the_configuration(run: Run, place: Place) -> None:
    await run("topics", "create", place.name, "-p", "1", "-c", "retention.ms=1000")
    await run("topics", "configs", place.name, "--set", "max.message.bytes=2000")
    shown = (await run("topics", "configs", place.name, "--json")).json
    assert {row["config"]: row["value"] for row in shown} == {
        "max.message.bytes": "2000",
        "retention.ms": "1000",
    }
    shown = (await run("topics", "configs", place.name, "--unset", "retention.ms", "--json")).json
    assert [row["config"] for row in shown] == ["max.message.bytes"]


async def test_partitions_grows_a_topic_and_never_shrinks_it(run: Run, place: Place) -> None:
    await run("topics", "create", place.name, "-p", "2")
    assert (await run("topics", "partitions", place.name, "4")).code == 0
    described = (await run("topics", "describe", place.name, "--json")).json
    assert len(described["partitions"]) == 4
    assert (await run("topics", "partitions", place.name, "3")).code == 1
