"""Two processes of one group, of which one is killed, stopped or interrupted."""

import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.kafka.cluster import end_offsets
from tests.kafka.member import INTERRUPTED
from tests.kafka.members import (
    Crew,
    Member,
    delivered_after_ack,
    lags,
    overlaps,
    produce,
    until_no_lag,
)

pytestmark = pytest.mark.kafka

RECORDS = 200_000
PARTITIONS = 4
# Messages that each member has acked when one of them ends: both are then far from the end.
MIDWAY = 20_000
GRACE = 5.0
# Seconds that a process takes to end once its app is closed.
EXIT = 2.0
# A member handles about 20,000 messages a second, so the load lasts for seconds.
LOAD: dict[str, Any] = {
    **{"tasks": 4, "batch": 100, "pause": 0.02, "stop_grace": GRACE, "grace": GRACE},
    # The takeover from a killed member waits for its session timeout.
    **{"session_timeout": 6.0, "heartbeat_interval": 1.0},
}
# The same with one handler, which acks in order. Ctrl-C cancels handlers. With several of them, one
# can leave a message unacked while others have acked later ones. Those would be redelivered,
# because the committed offset never passes an unacked message.
IN_ORDER: dict[str, Any] = {**LOAD, "tasks": 1, "pause": 0.005}


def both_midway(crew: Crew, topic: str, load: dict[str, Any]) -> tuple[Member, Member]:
    first = crew.start(topic, topic, **load)
    first.until(lambda diary: bool(diary.acked), "acking")
    second = crew.start(topic, topic, **load)
    for member in (first, second):
        member.until(lambda diary: len(diary.acked) >= MIDWAY, "midway")
    return first, second


def filled(crew: Crew, topic: str) -> dict[int, int]:
    produce(crew.bootstrap, topic, RECORDS)
    ends = {place[1]: end for place, end in end_offsets(crew.bootstrap, topic).items()}
    assert len(ends) == PARTITIONS
    assert sum(ends.values()) == RECORDS
    return ends


def test_no_message_is_lost_when_a_member_is_killed(
    crew: Crew, kafka_topic: Callable[..., str]
) -> None:
    topic = kafka_topic(PARTITIONS)
    ends = filled(crew, topic)
    victim, survivor = both_midway(crew, topic, LOAD)

    victim.kill()
    assert len({entry.place for entry in crew.done()}) < RECORDS, "killed at the end, not midway"

    crew.until_all_done(ends)
    until_no_lag(crew.bootstrap, topic, PARTITIONS)  # by automatic commits
    survivor.end(signal.SIGTERM, code=0, within=GRACE + EXIT)
    assert lags(crew.bootstrap, topic) == dict.fromkeys(range(PARTITIONS), 0)


@pytest.mark.parametrize(
    ("number", "load"), [(signal.SIGTERM, LOAD), (signal.SIGINT, IN_ORDER)], ids=["term", "int"]
)
def test_no_acked_message_is_redelivered_when_a_member_is_stopped(
    crew: Crew, kafka_topic: Callable[..., str], number: signal.Signals, load: dict[str, Any]
) -> None:
    topic = kafka_topic(PARTITIONS)
    ends = filled(crew, topic)
    leaver, survivor = both_midway(crew, topic, load)

    code = INTERRUPTED if number is signal.SIGINT else 0
    leaver.end(number, code=code, within=GRACE + EXIT)
    assert len({entry.place for entry in crew.done()}) < RECORDS, "stopped at the end, not midway"

    crew.until_all_done(ends)
    survivor.end(number, code=code, within=GRACE + EXIT)
    assert lags(crew.bootstrap, topic) == dict.fromkeys(range(PARTITIONS), 0)
    assert delivered_after_ack(crew.diaries()) == []
    assert overlaps(crew.done()) == []
