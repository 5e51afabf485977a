"""A slow handler on a fast topic: the bounds of unacked messages and memory, and membership."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kafka.cluster import end_offsets
from tests.kafka.members import Crew, Diary, delivered_after_ack, produce, send, until_no_lag

pytestmark = pytest.mark.kafka

PARTITIONS = 4
RECORDS, SIZE = 120_000, 1000
BUFFER = 500
TASKS, BATCH = 16, 50  # together more than the buffer
FETCH = 256 << 10  # of one partition
# Most records of one poll, which returns whole batches of the producer.
MOST_FETCHED = PARTITIONS * (FETCH // SIZE + 1)
MAX_POLL_INTERVAL = 6.0
LARGE, BUFFER_BYTES = 900_000, 32 << 20
SLOW = 8  # seconds; longer than MAX_POLL_INTERVAL
# Bytes that the process may grow by after its first messages, while it handles 120 MB.
MOST_GROWTH = 16 << 20


def most_unacked(diary: Diary) -> int:
    """Return the largest number of messages that were unacked at once, by the diary."""
    changes = [(at, 1) for _, at in diary.begun] + [(at, -1) for _, at in diary.acked]
    most = held = 0
    for _, change in sorted(changes):
        held += change
        most = max(most, held)
    return most


def test_a_slow_handler_on_a_fast_topic_stays_within_the_bounds(
    crew: Crew, kafka_topic: Callable[..., str]
) -> None:
    topic = kafka_topic(PARTITIONS)
    # The first batches keep all handlers busy for SLOW seconds; each later batch takes 30 ms.
    send(crew.bootstrap, topic, {p: [b"wait %d s" % SLOW] for p in range(PARTITIONS)})
    produce(crew.bootstrap, topic, RECORDS, size=SIZE)
    ends = {place[1]: end for place, end in end_offsets(crew.bootstrap, topic).items()}

    member = crew.start(
        topic,
        topic,
        tasks=TASKS,
        batch=BATCH,
        pause=0.03,
        buffer_size=BUFFER,
        max_partition_fetch_bytes=FETCH,
        max_poll_interval=MAX_POLL_INTERVAL,
        session_timeout=6.0,
        heartbeat_interval=1.0,
        commit_timeout=1.0,
    )
    crew.until_all_done(ends)
    until_no_lag(crew.bootstrap, topic, PARTITIONS)
    member.end(signal.SIGTERM, code=0, within=10.0)

    diary = member.diary
    slowest = max(done.ended - done.begun for done in diary.done)
    assert slowest > MAX_POLL_INTERVAL
    assert most_unacked(diary) <= BUFFER
    seen = [seen for seen in diary.seen if seen.at >= diary.begun[0][1]]
    assert max(moment.unacked for moment in seen) <= BUFFER
    assert max(moment.begun for moment in seen) <= BUFFER
    assert max(moment.held for moment in seen) > BUFFER // 2, "the buffer was never half full"
    assert max(moment.held for moment in seen) < BUFFER + MOST_FETCHED
    growth = max(moment.rss for moment in seen) - seen[0].rss
    assert growth < MOST_GROWTH, f"{growth >> 20} MB"
    owned = {moment.generation for moment in seen if moment.generation != -1}
    assert len(owned) == 1, f"the member was evicted: generations {owned}"
    assert delivered_after_ack([diary]) == []
    assert len(diary.begun) == sum(ends.values()), "messages were delivered twice"


@pytest.mark.parametrize(
    ("assignment", "seconds"),
    [("eager", 4), ("cooperative", 12)],
    ids=["past the drain timeout", "past the poll interval"],
)
def test_a_blocked_program_loses_its_partitions_and_no_message(
    crew: Crew, kafka_topic: Callable[..., str], tmp_path: Path, assignment: str, seconds: int
) -> None:
    topic = kafka_topic(PARTITIONS)
    load = [b"x"] * 200
    send(crew.bootstrap, topic, {p: load for p in range(1, PARTITIONS)})
    block = f"block {seconds} {tmp_path / 'blocked'}".encode()
    send(crew.bootstrap, topic, {0: [block, *load]})
    ends = {place[1]: end for place, end in end_offsets(crew.bootstrap, topic).items()}
    settings = {
        "assignment": assignment,
        "heartbeat_interval": 0.5,
        "max_poll_interval": 8.0,
        "commit_timeout": 1.0,
        "drain_timeout": 1.0,
    }
    blocked = crew.start(topic, topic, tasks=1, **settings)
    blocked.until(lambda diary: bool(diary.begun), "blocked")
    crew.start(topic, topic, tasks=4, **settings)  # its join moves partitions
    send(crew.bootstrap, topic, {p: load for p in range(PARTITIONS)})
    ends = {partition: end + len(load) for partition, end in ends.items()}
    crew.until_all_done(ends, timeout=120.0)
    until_no_lag(crew.bootstrap, topic, PARTITIONS, timeout=30.0)
    for member in crew.members:
        member.end(signal.SIGTERM, code=0, within=10.0)


def test_large_messages_and_a_slow_handler_stay_within_buffer_bytes(
    crew: Crew, kafka_topic: Callable[..., str]
) -> None:
    """The waiting messages are far fewer than `buffer_size`, and have far more bytes."""
    topic = kafka_topic(PARTITIONS)
    produce(crew.bootstrap, topic, 400, size=LARGE)
    ends = {place[1]: end for place, end in end_offsets(crew.bootstrap, topic).items()}
    member = crew.start(topic, topic, tasks=1, batch=1, pause=0.02, buffer_bytes=BUFFER_BYTES)
    crew.until_all_done(ends, timeout=120.0)
    member.end(signal.SIGTERM, code=0, within=10.0)

    seen = [seen for seen in member.diary.seen if seen.at >= member.diary.begun[0][1]]
    most = max(moment.held for moment in seen)
    assert most * LARGE > BUFFER_BYTES // 2, "the buffer was never half full"
    assert most * LARGE < BUFFER_BYTES + 2 * PARTITIONS * (1 << 20)
