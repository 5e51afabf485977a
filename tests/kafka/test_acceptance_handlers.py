"""I9 with handlers on a real Kafka: each message has its result or its dead letter once."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import attrs
import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.consumer.fetcher import ConsumerRecord

from tests.kafka.cluster import end_offsets
from tests.kafka.handler_copier import ATTEMPTS, is_bad, is_shaky
from tests.kafka.members import Place, until_no_lag
from tests.kafka.test_acceptance_exactly_once import Copier, Copiers, records, until_in_rebalance

pytestmark = pytest.mark.kafka

PARTITIONS = 6
MEMBERS = 2  # of each group
KILLS = 10  # of the members of each group

Ends = Mapping[tuple[str, int], int]  # of topics and partitions


@attrs.define
class Group:
    """A group of copiers in one mode, and the topics that they write to.

    Attributes:
        killed: the members that were killed within a transaction.
    """

    bootstrap: str
    mode: str
    source: str
    target: str
    dead: str
    members: Copiers
    killed: list[Copier] = attrs.field(factory=list)

    @property
    def id(self) -> str:
        return self.target

    def start(self) -> None:
        """Start one more member."""
        places = ["--source", self.source, "--target", self.target, "--dead", self.dead]
        group = ["--group", self.id, "--mode", self.mode]
        self.members.start("--bootstrap", self.bootstrap, *group, *places)

    def kill_members(self) -> None:
        """Kill members within a transaction and, in turn, within the rebalance after that."""
        chance = random.Random(self.mode)
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap.split(","))
        try:
            for number in range(KILLS):
                if number % 2:
                    until_in_rebalance(admin, self.id)
                    self.members.check_alive()
                    self.members.kill(chance.choice(self.members.running))
                else:
                    member = self.members.until_one_writes()
                    self.members.kill(member)
                    self.killed.append(member)
                self.start()
        finally:
            admin.close()

    def stop(self) -> None:
        """Wait until the group has handled all messages, and stop its members."""
        until_no_lag(self.bootstrap, self.id, PARTITIONS, timeout=180.0)
        self.members.stop()


@attrs.frozen
class Copy:
    """A message that a copier has written; see `handler_copier`."""

    key: bytes
    place: Place
    pid: int
    outcome: str

    @classmethod
    def of(cls, record: ConsumerRecord) -> Self:
        partition, offset, pid, outcome = record.value.decode().split()
        return cls(record.key, (int(partition), int(offset)), int(pid), outcome)


@pytest.fixture
def copiers(kafka_java: None, tmp_path: Path) -> Iterator[Callable[[str], Copiers]]:
    """Return a function that returns the members of one more group."""
    made: list[Copiers] = []

    def make(name: str) -> Copiers:
        (tmp_path / name).mkdir()
        made.append(Copiers(tmp_path / name, program="tests.kafka.handler_copier"))
        return made[-1]

    yield make
    for each in made:
        each.close()


@contextlib.contextmanager
def producing(bootstrap: str, topic: str) -> Iterator[None]:
    """Write fifty messages a second, with a hundred keys, until the end of the block."""
    has_ended = threading.Event()

    def produce() -> None:
        producer = KafkaProducer(bootstrap_servers=bootstrap.split(","))
        try:
            for number in itertools.count():
                producer.send(topic, b"%d" % number, key=b"key %d" % (number % 100))
                if number % 5 == 0 and has_ended.wait(0.1):
                    break
        finally:
            producer.close()

    with ThreadPoolExecutor() as pool:
        producer = pool.submit(produce)
        try:
            yield
        finally:
            has_ended.set()
        producer.result()


def test_each_message_has_its_result_or_its_dead_letter_once_whichever_member_is_killed(
    kafka_bootstrap: str,
    kafka_topic: Callable[..., str],
    copiers: Callable[[str], Copiers],
) -> None:
    """A group of each mode copies the same source with handlers: concurrency 20 in key order.

    Ten members of each group are killed: half of them within a transaction, and half of them within
    the rebalance after that.
    """
    source = kafka_topic(PARTITIONS)
    groups = [
        Group(kafka_bootstrap, mode, source, kafka_topic(3), kafka_topic(1), copiers(mode))
        for mode in ("member", "partition")
    ]
    with ThreadPoolExecutor() as pool:
        with producing(kafka_bootstrap, source):
            for group in groups:
                for _ in range(MEMBERS):
                    group.start()
            list(pool.map(Group.kill_members, groups))
        list(pool.map(Group.stop, groups))
    topics = [topic for group in groups for topic in (group.target, group.dead)]
    ends = end_offsets(kafka_bootstrap, source, *topics)
    every = {
        (partition, offset)
        for (topic, partition), end in ends.items()
        for offset in range(end)
        if topic == source
    }
    for group in groups:
        check_copies(group, ends, {place for place in every if not is_bad(*place)})
        check_letters(group, ends, {place for place in every if is_bad(*place)})


def records_of(group: Group, topic: str, ends: Ends, isolation: str) -> list[ConsumerRecord]:
    own = {place: end for place, end in ends.items() if place[0] == topic}
    return records(group.bootstrap, own, isolation)


def check_copies(group: Group, ends: Ends, good: set[Place]) -> None:
    """Check that each good message was copied once, in the order of its key, and some was undone.

    The undone copies are those of failed attempts, and those of members that were killed.
    """
    committed = [
        Copy.of(record) for record in records_of(group, group.target, ends, "read_committed")
    ]
    assert Counter(copy.place for copy in committed) == Counter(good)
    assert {copy.outcome for copy in committed} == {"works"}
    by_key: defaultdict[bytes, list[Place]] = defaultdict(list)
    for copy in committed:
        by_key[copy.key].append(copy.place)
    for key, copied in by_key.items():
        assert all(before < after for before, after in itertools.pairwise(copied)), key
    written = records_of(group, group.target, ends, "read_uncommitted")
    undone = {Copy.of(record) for record in written} - set(committed)
    failed = [copy.place for copy in undone if copy.outcome == "fails"]
    assert any(is_shaky(*place) for place in failed), "no message was handled again"
    assert any(is_bad(*place) for place in failed), "no message with output became a dead letter"
    last = {(last_place(copier), copier.process.pid) for copier in group.killed}
    hit = last & {(copy.place, copy.pid) for copy in undone if copy.outcome == "works"}
    assert hit, "no kill has hit an open transaction"


def last_place(copier: Copier) -> Place:
    """Return the message that a copier has handled last, in an open transaction."""
    _, partition, offset = copier.lines[-1].split()
    return int(partition), int(offset)


def check_letters(group: Group, ends: Ends, bad: set[Place]) -> None:
    """Check that each bad message has one dead letter, after all attempts of one member."""
    letters = [
        dict(record.headers) for record in records_of(group, group.dead, ends, "read_committed")
    ]
    assert Counter(
        (int(headers["dead.partition"]), int(headers["dead.offset"])) for headers in letters
    ) == Counter(bad)
    assert {headers["dead.attempts"] for headers in letters} == {b"%d" % ATTEMPTS}
