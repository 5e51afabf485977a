"""The verb `lag` on both brokers, and its rates."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

from tests.apps import take
from tests.command_line.conftest import Run
from tests.command_line.messages import numbered, written
from tests.lanes import Place
from transport import TP, App, UnknownTopic
from transport.command_line.group_lag import GroupLag, PartitionLag, lag_of
from transport.command_line.lag_rates import progress
from transport.drivers.admin import Admin, GroupDescription, Partition, TopicDescription


async def test_lag_shows_what_is_not_committed_and_the_owner(run: Run, place: Place) -> None:
    await written(place, place.name, *numbered(5))
    async with App(place.name, broker=place.url) as app:
        messages = aiter(app.topic(place.name).noack())
        for message in await take(messages, 2):
            message.ack()
        await app.consumer.commit()
        shown = (await run("lag", place.name, "--json")).json
        (row,) = shown["partitions"]
        assert (shown["state"], shown["lag"]) == ("Stable", 3)
        assert (row["committed"], row["end"], row["lag"]) == (2, 5, 3)
        assert row["owner"].startswith("kafka-nursery")
    ended = (await run("lag", place.name, "--json")).json
    assert (ended["state"], ended["partitions"][0]["owner"]) == ("Empty", None)


async def test_a_group_that_does_not_exist_is_an_error(run: Run) -> None:
    missing = await run("lag", "absent-group")
    assert (missing.code, missing.out) == (1, "")
    assert "absent-group" in missing.err


class OneTopicLeft:
    """An admin client of a group with offsets of two topics, of which one was deleted."""

    async def group(self, id: str) -> GroupDescription:
        return GroupDescription(id, "Empty", "", ())

    async def committed(self, group: str) -> dict[TP, int]:
        return {TP("gone", 0): 5, TP("here", 0): 7}

    async def topic(self, name: str) -> TopicDescription:
        if name == "gone":
            raise UnknownTopic(name)
        return TopicDescription(name, False, (Partition(0, 1, (1,), (1,)),))

    async def ends(self, tps: Collection[TP]) -> dict[TP, int]:
        return dict.fromkeys(tps, 9)


async def test_the_lag_of_a_deleted_topic_is_not_known_and_hides_no_other() -> None:
    behind = await lag_of(cast(Admin, OneTopicLeft()), "g")
    assert [(each.end, each.lag) for each in behind.partitions] == [(None, None), (9, 2)]
    assert behind.total == 2


def look(committed: int | None, end: int | None) -> GroupLag:
    return GroupLag("g", "Stable", (PartitionLag(TP("t", 0), committed, end, None, None),))


def test_rates_count_what_was_read_and_written_between_two_looks() -> None:
    rate = progress(look(10, 100), 50.0, look(50, 120), 54.0).partitions[TP("t", 0)]
    assert (rate.read, rate.written) == (10.0, 5.0)
    assert rate.seconds_to_catch_up(70) == 14.0


def test_a_lag_that_does_not_shrink_is_never_caught_up() -> None:
    rates = progress(look(10, 100), 0.0, look(20, 110), 1.0)
    assert rates.total.seconds_to_catch_up(90) is None
    assert rates.total.seconds_to_catch_up(0) == 0.0


def test_a_partition_without_a_commit_has_no_rate() -> None:
    assert progress(look(None, 100), 0.0, look(20, 110), 1.0).partitions == {}
