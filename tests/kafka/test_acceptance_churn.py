"""Members that join and leave, and slow handlers: two members never work on one partition."""

import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.kafka.cluster import end_offsets
from tests.kafka.members import (
    Crew,
    Diary,
    Member,
    delivered_after_ack,
    overlaps,
    producing,
    send,
    until_no_lag,
)

pytestmark = pytest.mark.kafka

PARTITIONS = 4
TIMES = 5
SESSION = 6.0
# Seconds of a slow handler: more than the session, and well within the bound of a drain, which is
# half of max_poll_interval.
SLOW = 10.0
QUICK = 20
SETTINGS: dict[str, Any] = {
    "session_timeout": SESSION,
    "heartbeat_interval": 0.5,
    "max_poll_interval": 60.0,
}


def acked_by(*diaries: Diary, count: int) -> Callable[[object], bool]:
    return lambda _: sum(len(diary.read().acked) for diary in diaries) >= count


def acks_more(member: Member, count: int) -> None:
    """Wait until the member has acked `count` more messages."""
    goal = len(member.diary.read().acked) + count
    member.until(lambda diary: len(diary.acked) >= goal, f"acking {count} more")


@pytest.mark.parametrize("assignment", ["cooperative", "eager"])
def test_no_work_overlaps_while_a_third_member_joins_and_leaves(
    crew: Crew, kafka_topic: Callable[..., str], assignment: str
) -> None:
    topic = kafka_topic(PARTITIONS)
    # Each batch is handled for 50 or 100 ms, so that each rebalance meets unacked messages.
    load: dict[str, Any] = {"tasks": 4, "batch": 50, "assignment": assignment, **SETTINGS}
    with producing(crew.bootstrap, topic, rate=4000):
        staying = [crew.start(topic, topic, pause=pause, **load) for pause in (0.05, 0.1)]
        for member in staying:
            acks_more(member, 200)
        for _ in range(TIMES):
            guest = crew.start(topic, topic, pause=0.05, **load)
            acks_more(guest, 200)
            guest.end(signal.SIGTERM, code=0, within=10.0)
            for member in staying:
                acks_more(member, 200)
    ends = {place[1]: end for place, end in end_offsets(crew.bootstrap, topic).items()}
    crew.until_all_done(ends)
    until_no_lag(crew.bootstrap, topic, PARTITIONS)
    for member in staying:
        member.end(signal.SIGTERM, code=0, within=10.0)

    assert overlaps(crew.done()) == []
    assert delivered_after_ack(crew.diaries()) == []
    generations = {seen.generation for diary in crew.diaries() for seen in diary.seen}
    assert max(generations) > 2 * TIMES, "fewer rebalances than joins and leaves"
    for member in crew.members:
        assert "was abandoned at the bound" not in member.errors, member.errors


def test_a_handler_slower_than_the_session_finishes_its_message(
    crew: Crew, kafka_topic: Callable[..., str]
) -> None:
    """Once alone, and once while another member joins and waits for its partitions."""
    topic = kafka_topic(PARTITIONS)
    partitions = range(PARTITIONS)
    slow = {partition: [b"wait %d s" % SLOW] for partition in partitions}
    quick = {partition: [b"quick"] * QUICK for partition in partitions}
    groups = {assignment: f"{topic}-{assignment}" for assignment in ("cooperative", "eager")}

    def start(assignment: str) -> Member:
        return crew.start(
            groups[assignment], topic, tasks=PARTITIONS, assignment=assignment, **SETTINGS
        )

    firsts = [start(assignment) for assignment in groups]
    for first in firsts:
        first.until(lambda diary: any(seen.generation > 0 for seen in diary.seen), "a member")
    send(crew.bootstrap, topic, slow)
    for first in firsts:
        first.until(lambda diary: len(diary.acked) == PARTITIONS, "acking all slow messages")
        since = first.diary.begun[0][1]
        generations = {seen.generation for seen in first.diary.seen if seen.at > since}
        assert len(generations) == 1, f"the group was rebalanced meanwhile: {generations}"

    send(crew.bootstrap, topic, slow)
    for first in firsts:
        first.until(lambda diary: len(diary.begun) == 2 * PARTITIONS, "at work again")
    seconds = [start(assignment) for assignment in groups]
    for first in firsts:
        first.until(
            lambda diary: len(diary.acked) == 2 * PARTITIONS, "acking all slow messages again"
        )
    send(crew.bootstrap, topic, quick)
    for second in seconds:
        second.until(lambda diary: bool(diary.acked), "having taken over")

    goal = PARTITIONS * (1 + 1 + QUICK)
    for first, second in zip(firsts, seconds, strict=True):
        both = [first.diary, second.diary]
        first.until(acked_by(*both, count=goal), "acking all, together with the second member")
        assert sorted(place for diary in both for place, _ in diary.begun) == [
            (partition, offset)
            for partition in range(PARTITIONS)
            for offset in range(goal // PARTITIONS)
        ], "messages were lost or delivered twice"
        assert overlaps([done for diary in both for done in diary.done]) == []
