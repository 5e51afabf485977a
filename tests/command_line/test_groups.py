"""The verbs `groups` and `seek`, on both brokers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.apps import take
from tests.command_line.conftest import Run
from tests.command_line.messages import numbered, written
from tests.lanes import Place
from transport import TP, App


async def committed_at(place: Place, offset: int) -> None:
    """Let the group have committed an offset of partition 0, of 6 messages in two partitions."""
    messages = numbered(6)
    for number, message in enumerate(messages):
        message["timestamp"] = 1_700_000_000.0 + number
    await written(place, place.name, *messages, partitions=2)
    async with place.app() as app:
        messages_of = aiter(app.topic(place.name).noack())
        for message in await take(messages_of, offset):
            message.ack()
        await app.consumer.commit()


@asynccontextmanager
async def member(place: Place) -> AsyncIterator[App]:
    """Open a member of the group that has partitions."""
    async with place.app() as app:
        await take(aiter(app.topic(place.name).noack()), 1)
        yield app


async def test_groups_are_listed_and_described(run: Run, place: Place) -> None:
    await committed_at(place, 2)
    async with member(place):
        listed = {row["group"]: row for row in (await run("groups", "list", "--json")).json}
        assert listed[place.name]["state"] == "Stable"
        described = (await run("groups", "describe", place.name, "--json")).json
        assert (described["lag"], described["topics"]) == (4, [place.name])
        (only,) = described["members"]
        assert only["partitions"] == [f"{place.name}-0", f"{place.name}-1"]
    text = await run("groups", "describe", place.name)
    assert "state:" in text.out
    assert (await run("groups", "describe", "absent-group")).code == 1


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (["--to-beginning"], 0),
        (["--to-end"], 6),
        (["--to-offset", "3"], 3),
        (["--to-offset", "99"], 6),
        (["--to-time", "2023-11-14T22:13:22Z"], 2),
        (["--to-time", "1m"], 6),
        (["--shift", "-1"], 3),
        (["--shift", "1"], 5),
        (["--shift", "-99"], 0),
    ],
)
async def test_seek_commits_the_new_offset_within_the_log(
    run: Run, place: Place, target: list[str], expected: int
) -> None:
    await committed_at(place, 4)
    done = await run("seek", place.name, "-t", place.name, "-p", "0", *target, "--json")
    (row,) = done.json
    assert (done.code, row["before"], row["after"]) == (0, 4, expected)
    assert (row["repeated"], row["skipped"]) == (max(0, 4 - expected), max(0, expected - 4))
    assert (await place.committed())[TP(place.name, 0)] == expected


async def test_a_dry_run_prints_the_plan_and_changes_nothing(run: Run, place: Place) -> None:
    await committed_at(place, 4)
    planned = await run("seek", place.name, "--all-topics", "--to-beginning", "--dry-run", "--json")
    assert planned.json[0]["after"] == 0
    assert (await place.committed())[TP(place.name, 0)] == 4


async def test_seek_refuses_while_the_group_has_members_and_names_them(
    run: Run, place: Place
) -> None:
    await committed_at(place, 4)
    async with member(place):
        refused = await run("seek", place.name, "--all-topics", "--to-beginning")
        assert refused.code == 1
        assert "nothing was changed" in refused.err
        assert "kafka-nursery-" in refused.err
        planned = await run("seek", place.name, "--all-topics", "--to-beginning", "--dry-run")
        assert planned.code == 0
        assert "has members" in planned.err
    assert (await place.committed())[TP(place.name, 0)] == 4


async def test_seek_works_for_a_group_that_does_not_exist_yet(run: Run, place: Place) -> None:
    await written(place, place.name, *numbered(3))
    assert (await run("seek", place.name, "-t", place.name, "--to-end")).code == 0
    assert await place.committed() == {TP(place.name, 0): 3}


@pytest.mark.parametrize(
    "options",
    [
        ["--all-topics"],
        ["--to-end"],
        ["--all-topics", "--to-end", "--to-beginning"],
        ["--all-topics", "--to-time", "5"],
        ["--all-topics", "--to-offset", "-1"],
        ["--all-topics", "--topic", "t", "--to-end"],
    ],
)
async def test_a_seek_without_one_clear_target_is_refused(run: Run, options: list[str]) -> None:
    refused = await run("seek", "billing", *options)
    assert (refused.code, refused.out) == (2, "")


async def test_partitions_of_a_deleted_topic_do_not_disturb_the_others(
    run: Run, place: Place
) -> None:
    await committed_at(place, 4)
    await run("topics", "create", f"{place.name}-old", "-p", "1")
    await run("seek", place.name, "-t", f"{place.name}-old", "--to-end")
    await run("topics", "delete", f"{place.name}-old", "--yes")
    behind = (await run("lag", place.name, "--json")).json
    assert behind["lag"] == 2
    assert (await run("seek", place.name, "--all-topics", "--to-end")).code == 0
