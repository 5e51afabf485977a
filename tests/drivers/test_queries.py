"""The contract: offsets for times, the texts of commits, and topics that do not exist."""

from __future__ import annotations

import attrs
import pytest
import trio

from tests.drivers.rig import PATIENCE, Member, Rig, outgoing
from tests.drivers.test_transactions import fence_of, writer
from transport.drivers.base import RebalanceKind
from transport.errors import CommitRefused, UnknownTopic
from transport.types import TP

NOON = 1_700_000_000_000  # milliseconds since 1970


# Offsets for times


async def test_offset_for_time_is_that_of_first_record_with_that_or_later_timestamp(
    rig: Rig,
) -> None:
    topic = await rig.topic(3)
    tps = [TP(topic, number) for number in range(3)]
    async with rig.sender() as sender, rig.member([]) as member:
        times = [NOON, NOON + 1000, NOON + 2000]
        await sender.send([outgoing(topic, partition=0, timestamp_ms=each) for each in times])
        await sender.send([outgoing(topic, partition=1, timestamp_ms=NOON + 5)])
        ask = member.client.offsets_for_times
        assert await ask({}) == {}
        assert await ask({tps[0]: 0}) == {tps[0]: (0, NOON)}
        assert await ask({tps[0]: NOON + 1000}) == {tps[0]: (1, NOON + 1000)}
        assert await ask({tps[0]: NOON + 1001}) == {tps[0]: (2, NOON + 2000)}
        assert await ask({tps[0]: NOON + 2001}) == {}
        assert await ask(dict.fromkeys(tps, NOON + 5)) == {
            tps[0]: (1, NOON + 1000),
            tps[1]: (0, NOON + 5),
        }


async def test_offset_for_time_lies_before_open_transactions_with_read_committed(
    rig: Rig,
) -> None:
    topic = await rig.topic(1)
    tp = TP(topic, 0)
    async with (
        writer(rig, rig.name()) as sender,
        rig.member([topic]) as committed,
        rig.member([], isolation="read_uncommitted") as all_records,
    ):
        await sender.client.begin()
        await sender.send([outgoing(topic, partition=0, timestamp_ms=NOON)])
        assert await committed.client.offsets_for_times({tp: NOON}) == {}
        assert await all_records.client.offsets_for_times({tp: NOON}) == {tp: (0, NOON)}
        await sender.client.commit(PATIENCE)
        await committed.take(1)
        assert await committed.client.offsets_for_times({tp: NOON}) == {tp: (0, NOON)}


# What does not exist


async def test_questions_about_missing_topics_and_partitions_raise_and_create_nothing(
    rig: Rig,
) -> None:
    topic, missing = await rig.topic(1), rig.name()
    async with rig.member([]) as member:
        client = member.client
        for tp in TP(missing, 0), TP(topic, 1):
            for ask in (
                lambda tp=tp: client.beginning_offsets([TP(topic, 0), tp]),
                lambda tp=tp: client.end_offsets([TP(topic, 0), tp]),
                lambda tp=tp: client.offsets_for_times({TP(topic, 0): 0, tp: 0}),
            ):
                with pytest.raises(UnknownTopic, match=tp.topic):
                    await ask()
        for name in missing, "not a topic's name":
            with pytest.raises(UnknownTopic, match=name):
                await client.partitions(name)
        with pytest.raises(UnknownTopic, match=missing):
            await client.topic_settings(missing)
        assert await client.committed([TP(missing, 0)]) == {}
        assert missing not in await client.topics()
        assert await client.partitions(topic) == {TP(topic, 0)}


async def test_settings_of_a_topic_are_those_that_it_was_created_with(rig: Rig) -> None:
    topic = await rig.topic(1, config={"cleanup.policy": "compact"})
    async with rig.member([]) as member:
        assert (await member.client.topic_settings(topic))["cleanup.policy"] == "compact"


async def test_question_about_topic_that_was_deleted_raises_soon(rig: Rig) -> None:
    topic = await rig.topic(1)
    tp = TP(topic, 0)
    # Otherwise the subscribed client may let the broker create the topic again.
    options = {"allow_auto_create_topics": False}
    async with rig.member([topic], client_options=options) as member:
        await member.located([tp])
        assert await member.client.end_offsets([tp]) == {tp: 0}
        await rig.delete(topic)
        with trio.fail_after(PATIENCE), pytest.raises(UnknownTopic, match=topic):
            await ask_on(member, tp)
        with pytest.raises(UnknownTopic, match=topic):
            await member.client.offsets_for_times({tp: 0}, 30.0)


async def ask_on(member: Member, tp: TP) -> None:
    """Ask for the end again and again: a broker still knows a deleted topic for a moment."""
    while True:
        await member.client.end_offsets([tp], 30.0)


# The texts of commits


async def test_text_is_stored_with_its_offset_until_next_commit(rig: Rig) -> None:
    topic, group = await rig.topic(2), rig.name()
    tps = [TP(topic, 0), TP(topic, 1)]
    async with rig.member([topic], group_id=group) as member, rig.member([]) as stranger:
        client = member.client
        await member.located(tps)
        assert await client.committed_texts(tps) == {}
        await client.commit(dict.fromkeys(tps, 1), PATIENCE, {tps[0]: "the first"})
        assert await client.committed_texts(tps) == {tps[0]: "the first"}
        await client.commit({tps[1]: 2}, PATIENCE, {tps[1]: "zwei Zeilen:\ntopic-id=1 ü\n"})
        assert await client.committed_texts(tps) == {
            tps[0]: "the first",
            tps[1]: "zwei Zeilen:\ntopic-id=1 ü\n",
        }
        await client.commit(dict.fromkeys(tps, 3), PATIENCE)
        assert await client.committed_texts(tps) == {}
        assert await client.committed(tps) == dict.fromkeys(tps, 3)
        assert await stranger.client.committed_texts(tps) == {}


async def test_text_is_committed_with_transaction(rig: Rig) -> None:
    topic = await rig.topic(2)
    tps = [TP(topic, 0), TP(topic, 1)]
    async with writer(rig, rig.name()) as sender, rig.member([topic]) as member:
        await member.located(tps)
        for text, end in ("aborted", sender.client.abort), ("kept", sender.client.commit):
            await sender.client.begin()
            fence = attrs.evolve(await fence_of(member), texts={tps[0]: text})
            await sender.client.send_offsets(dict.fromkeys(tps, 1), fence, PATIENCE)
            await end(PATIENCE)
        assert await member.client.committed_texts(tps) == {tps[0]: "kept"}


async def test_text_leaves_begin_of_group_readable(rig: Rig) -> None:
    """Partition 4 is added after the group's begin: it starts at its beginning, not at its end."""
    topic, group = await rig.topic(4), rig.name()
    latest = {"group_id": group, "auto_offset_reset": "latest"}
    async with rig.member([topic], **latest) as member:
        tps = [TP(topic, number) for number in range(4)]
        starts = await member.located(tps)
        await member.client.commit(starts, PATIENCE, dict.fromkeys(tps, "a text"))
    await rig.widen(topic, 5)
    async with rig.sender() as sender:
        await sender.send([outgoing(topic, partition=4)])
    async with rig.member([topic], **latest) as heir:
        assert [(tp, record.offset) for tp, record in await heir.take(1)] == [(TP(topic, 4), 0)]


async def test_text_leaves_identity_of_topic_readable(rig: Rig) -> None:
    """The offset of a topic that was deleted does not count for the new topic of that name."""
    topic, group = await rig.topic(1), rig.name()
    tp = TP(topic, 0)
    async with rig.sender() as sender, rig.member([topic], group_id=group) as member:
        await sender.fill(topic, 3, partitions=1)
        await member.take(3)
        await member.client.commit({tp: 3}, PATIENCE, {tp: "of the old topic"})
        await rig.create_again(topic, 1)
    async with rig.sender() as sender, rig.member([topic], group_id=group) as heir:
        await sender.fill(topic, 5, partitions=1)
        assert [record.offset for _, record in await heir.take(5)] == [0, 1, 2, 3, 4]
        assert heir.events(RebalanceKind.ASSIGNED) == [frozenset([tp])]
        assert await heir.client.committed_texts([tp]) == {}


async def test_text_that_is_too_large_is_refused(rig: Rig) -> None:
    topic = await rig.topic(1)
    tp = TP(topic, 0)
    async with rig.member([topic]) as member:
        await member.located([tp])
        with pytest.raises(CommitRefused):
            await member.client.commit({tp: 1}, PATIENCE, {tp: "." * 4097})
        await member.client.commit({tp: 1}, PATIENCE, {tp: "." * 3800})
        assert await member.client.committed_texts([tp]) == {tp: "." * 3800}


async def test_client_without_group_has_no_committed_offsets(rig: Rig) -> None:
    topic = await rig.topic(1)
    tp = TP(topic, 0)
    async with rig.member([topic], client_only=True) as member:
        await member.located([tp])
        await member.client.commit({tp: 1}, PATIENCE, {tp: "a text"})
        assert await member.client.committed([tp]) == {}
        assert await member.client.committed_texts([tp]) == {}
