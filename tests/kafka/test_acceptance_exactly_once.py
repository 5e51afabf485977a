"""I9 on a real Kafka: a `read_committed` reader sees each result once, whatever crashed."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.consumer.fetcher import ConsumerRecord

from tests.kafka.cluster import end_offsets
from tests.kafka.members import LOOK_INTERVAL, PATIENCE, ROOT, lags, produce, until_no_lag

pytestmark = pytest.mark.kafka

INPUTS = 50_000
PARTITIONS = 6
KILLS = 10
BETWEEN_GENERATIONS = ("PreparingRebalance", "CompletingRebalance")
MODES = pytest.mark.parametrize("mode", ["member", "partition"])


class Copier:
    """A running `tests.kafka.copier`, or another program that prints lines like it."""

    def __init__(self, folder: Path, name: str, options: Sequence[str], program: str) -> None:
        self._output = folder / f"{name}.stdout"
        self._errors = folder / f"{name}.stderr"
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", program, *options],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )

    @property
    def errors(self) -> str:
        """The stderr of the program: warnings, and the error that ended it."""
        return self._errors.read_text(errors="replace")

    @property
    def lines(self) -> list[str]:
        """The lines that the program has printed."""
        return self._output.read_text().splitlines()

    @property
    def written(self) -> int:
        """The number of batches or messages that the copier has written."""
        return self._output.read_bytes().count(b"written")

    @property
    def has_lost(self) -> bool:
        """Whether the copier has received the loss of its partitions."""
        return b"lost\n" in self._output.read_bytes()

    def check_alive(self) -> None:
        assert self.process.poll() is None, f"a copier ended by itself:\n{self.errors[-5000:]}"

    def stop(self) -> None:
        """Send SIGTERM, and check that the copier ends in order."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(15) == 0, self.errors[-5000:]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Copiers:
    """The copiers of one test; `close` kills those that still run."""

    def __init__(self, folder: Path, program: str = "tests.kafka.copier") -> None:
        self.running: list[Copier] = []
        self._folder = folder
        self._program = program
        self._started = 0

    def start(self, *options: str) -> Copier:
        self._started += 1
        copier = Copier(self._folder, f"copier{self._started}", options, self._program)
        self.running.append(copier)
        return copier

    def kill(self, copier: Copier) -> None:
        copier.kill()
        self.running.remove(copier)

    def until_one_writes(self) -> Copier:
        """Wait until a copier has written its next batch or message, and return that copier.

        What it has written is not acked yet.
        """
        before = {copier: copier.written for copier in self.running}
        deadline = time.monotonic() + PATIENCE
        while True:
            for copier, count in before.items():
                if copier.written > count:
                    return copier
            self.check_alive()
            assert time.monotonic() < deadline, "no copier has written a batch"
            time.sleep(LOOK_INTERVAL)

    def check_alive(self) -> None:
        for copier in self.running:
            copier.check_alive()

    def stop(self) -> None:
        """Send SIGTERM to all copiers at once, and check that they end in order."""
        self.check_alive()
        for copier in self.running:
            copier.process.send_signal(signal.SIGTERM)
        for copier in self.running:
            assert copier.process.wait(15) == 0, copier.errors[-5000:]

    def close(self) -> None:
        for copier in list(self.running):
            self.kill(copier)


@pytest.fixture
def copiers(kafka_java: None, tmp_path: Path) -> Iterator[Copiers]:
    copiers = Copiers(tmp_path)
    yield copiers
    copiers.close()


def options(bootstrap: str, source: str, target: str, mode: str, *more: str) -> list[str]:
    places = ["--bootstrap", bootstrap, "--group", source, "--source", source, "--target", target]
    return [*places, "--mode", mode, *more]


def records(
    bootstrap: str, ends: Mapping[tuple[str, int], int], isolation: str
) -> list[ConsumerRecord]:
    """Return what a reader gets of these partitions up to their ends, in order.

    A reader of committed messages gets there once no transaction is open.
    """
    reader = KafkaConsumer(
        bootstrap_servers=bootstrap.split(","),
        isolation_level=isolation,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    try:
        wanted = {TopicPartition(*place): end for place, end in ends.items()}
        reader.assign(list(wanted))
        got: list[ConsumerRecord] = []
        deadline = time.monotonic() + PATIENCE
        while any(reader.position(tp) < end for tp, end in wanted.items()):
            assert time.monotonic() < deadline, "a transaction is open for too long"
            for polled in reader.poll(timeout_ms=500).values():
                got += polled
        return got
    finally:
        reader.close()


def read(bootstrap: str, topic: str, isolation: str) -> Counter[str]:
    """Return the values that a reader gets up to the end, once no transaction is open."""
    ends = end_offsets(bootstrap, topic)
    return Counter(record.value.decode() for record in records(bootstrap, ends, isolation))


def read_committed(bootstrap: str, topic: str) -> Counter[str]:
    return read(bootstrap, topic, "read_committed")


def once_each(ends: dict[int, int]) -> Counter[str]:
    return Counter(
        f"{partition} {offset}" for partition, end in ends.items() for offset in range(end)
    )


def is_in_rebalance(admin: KafkaAdminClient, group: str) -> bool:
    """Return whether the group is between two generations at this moment."""
    return bool(admin.describe_groups([group])[group]["group_state"] in BETWEEN_GENERATIONS)


def until_in_rebalance(admin: KafkaAdminClient, group: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_in_rebalance(admin, group):
        assert time.monotonic() < deadline, "no rebalance, although a member was killed"
        time.sleep(LOOK_INTERVAL)


@MODES
def test_each_result_is_seen_once_whichever_member_is_killed(
    kafka_bootstrap: str,
    kafka_admin: KafkaAdminClient,
    kafka_topic: Callable[..., str],
    copiers: Copiers,
    mode: str,
) -> None:
    """Half of the kills come within a transaction, the others within a rebalance."""
    source, target = kafka_topic(PARTITIONS), kafka_topic(3)
    produce(kafka_bootstrap, source, INPUTS, size=20)
    ends = {place[1]: end for place, end in end_offsets(kafka_bootstrap, source).items()}
    assert sum(ends.values()) == INPUTS
    chance = random.Random(mode)
    command = options(kafka_bootstrap, source, target, mode, "--pause", "0.3")
    for _ in range(3):
        copiers.start(*command)
    in_a_transaction = in_a_rebalance = 0
    while in_a_rebalance < KILLS / 2:
        if in_a_transaction > in_a_rebalance:
            until_in_rebalance(kafka_admin, source)
            copiers.check_alive()
            copiers.kill(chance.choice(copiers.running))
            in_a_rebalance += is_in_rebalance(kafka_admin, source)  # if it still goes on
        else:
            time.sleep(chance.uniform(0.0, 2.0))
            copiers.kill(copiers.until_one_writes())
            in_a_transaction += 1
        copiers.start(*command)
    assert any(lag != 0 for lag in lags(kafka_bootstrap, source).values()), (
        "all was copied before the last kill"
    )
    until_no_lag(kafka_bootstrap, source, PARTITIONS, timeout=180.0)
    copiers.stop()
    committed = read_committed(kafka_bootstrap, target)
    assert committed == once_each(ends)
    written = read(kafka_bootstrap, target, "read_uncommitted")
    assert written.total() > committed.total(), "no kill has hit an open transaction"


@attrs.frozen
class Zombie:
    """A member that is frozen after it has written a transaction, and continued once another member
    has done its work.

    Attributes:
        mode: its `transactions` setting.
        first: what it does first when it continues: "commits" its transaction, or "hears" of its
            eviction.
    """

    mode: str
    first: str

    def check(self, bootstrap: str, source: str, target: str, members: Copiers) -> None:
        """Check that it writes nothing, and joins again unless its heir has fenced it.

        It may end, with `Fenced`, only if its heir has taken over its transactional id.
        """
        produce(bootstrap, source, 1000, size=20)
        command = options(bootstrap, source, target, self.mode, "--transaction-timeout", "60")
        zombie = members.start(*command, "--zombie", self.first)
        assert members.until_one_writes() is zombie
        zombie.process.send_signal(signal.SIGSTOP)
        try:
            heir = members.start(*command)
            until_no_lag(bootstrap, source, 2, timeout=PATIENCE)
        finally:
            zombie.process.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + 30
        while not zombie.has_lost and zombie.process.poll() is None:
            assert time.monotonic() < deadline, "the zombie has not received its eviction"
            time.sleep(LOOK_INTERVAL)
        produce(bootstrap, source, 1000, size=20)
        until_no_lag(bootstrap, source, 2, timeout=PATIENCE)
        ends = {place[1]: end for place, end in end_offsets(bootstrap, source).items()}
        if zombie.process.poll() is not None:
            assert self.mode == "partition"
            assert "transport.errors.Fenced: " in zombie.errors
        else:
            assert "Fenced" not in zombie.errors or self.mode == "partition"
            zombie.stop()
        heir.stop()
        assert "Fenced" not in heir.errors
        assert read_committed(bootstrap, target) == once_each(ends)
        assert read(bootstrap, target, "read_uncommitted").total() > sum(ends.values())


def test_a_zombie_writes_nothing_and_joins_again(
    kafka_bootstrap: str, kafka_topic: Callable[..., str], kafka_java: None, tmp_path: Path
) -> None:
    """Four zombies at the same time, because each waits for most of its 40 s.

    The timeout of their transactions is too long to abort these.
    """
    zombies = [
        Zombie(*each) for each in itertools.product(["member", "partition"], ["commits", "hears"])
    ]
    with ThreadPoolExecutor(len(zombies)) as pool, contextlib.ExitStack() as stack:
        checks = []
        for zombie in zombies:
            folder = tmp_path / f"{zombie.mode} {zombie.first}"
            folder.mkdir()
            members = Copiers(folder)
            stack.callback(members.close)
            topics = kafka_topic(2), kafka_topic(1)
            checks.append(pool.submit(zombie.check, kafka_bootstrap, *topics, members))
        for check in checks:
            check.result()
