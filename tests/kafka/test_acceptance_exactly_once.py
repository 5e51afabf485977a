"""I9 on a real Kafka: a reader of what is committed sees each result once, whatever crashed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition

from tests.kafka.cluster import end_offsets
from tests.kafka.members import PATIENCE, ROOT, lags, produce, until_no_lag

pytestmark = pytest.mark.kafka

INPUTS = 50_000
PARTITIONS = 6
KILLS = 10
MODES = pytest.mark.parametrize("mode", ["member", "partition"])


class Copiers:
    """The processes of one test; those that are left are killed when it ends."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.running: list[subprocess.Popen[bytes]] = []
        self._errors = folder / "errors"
        self._command = [sys.executable, "-m", "tests.kafka.copier", *options]

    @property
    def errors(self) -> str:
        return self._errors.read_text(errors="replace")

    def start(self) -> subprocess.Popen[bytes]:
        with self._errors.open("ab") as errors:
            process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        self.running.remove(process)

    def check_alive(self) -> None:
        for process in self.running:
            assert process.poll() is None, f"one ended by itself:\n{self.errors[-5000:]}"

    def close(self) -> None:
        for process in list(self.running):
            self.kill(process)


@pytest.fixture
def copiers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Copiers]]:
    made: list[Copiers] = []

    def make(*options: str) -> Copiers:
        made.append(Copiers(tmp_path, *options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def options(bootstrap: str, source: str, target: str, mode: str, *more: str) -> list[str]:
    places = ["--bootstrap", bootstrap, "--group", source, "--source", source, "--target", target]
    return [*places, "--mode", mode, *more]


def read_committed(bootstrap: str, topic: str, partitions: int) -> Counter[str]:
    """What a reader of committed records gets up to the end, once nothing is open any more."""
    reader = KafkaConsumer(
        bootstrap_servers=bootstrap.split(","),
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    try:
        tps = [TopicPartition(topic, number) for number in range(partitions)]
        reader.assign(tps)
        ends = {place[1]: end for place, end in end_offsets(bootstrap, topic).items()}
        seen: Counter[str] = Counter()
        deadline = time.monotonic() + PATIENCE
        while any(reader.position(tp) < ends[tp.partition] for tp in tps):
            assert time.monotonic() < deadline, "a transaction is open for too long"
            for records in reader.poll(timeout_ms=500).values():
                seen.update(record.value.decode() for record in records)
        return seen
    finally:
        reader.close()


def once_each(ends: dict[int, int]) -> Counter[str]:
    return Counter(
        f"{partition} {offset}" for partition, end in ends.items() for offset in range(end)
    )


@MODES
def test_each_result_is_seen_once_whoever_is_killed(
    kafka_bootstrap: str,
    kafka_topic: Callable[..., str],
    copiers: Callable[..., Copiers],
    mode: str,
) -> None:
    source, target = kafka_topic(PARTITIONS), kafka_topic(3)
    produce(kafka_bootstrap, source, INPUTS, size=20)
    ends = {place[1]: end for place, end in end_offsets(kafka_bootstrap, source).items()}
    chance = random.Random(mode)
    crew = copiers(*options(kafka_bootstrap, source, target, mode, "--pause", "0.2"))
    for _ in range(3):
        crew.start()
    for _ in range(KILLS):
        time.sleep(chance.uniform(1.5, 3.5))
        crew.check_alive()
        crew.kill(chance.choice(crew.running))
        crew.start()
    assert sum(lag or 0 for lag in lags(kafka_bootstrap, source).values()) > 0, "done too early"
    until_no_lag(kafka_bootstrap, source, PARTITIONS, timeout=180.0)
    crew.check_alive()
    for process in crew.running:
        process.send_signal(signal.SIGTERM)
    for process in crew.running:
        assert process.wait(15) == 0, crew.errors[-5000:]
    assert read_committed(kafka_bootstrap, target, 3) == once_each(ends)


@MODES
def test_a_zombie_writes_nothing_and_ends(
    kafka_bootstrap: str,
    kafka_topic: Callable[..., str],
    copiers: Callable[..., Copiers],
    mode: str,
) -> None:
    source, target = kafka_topic(2), kafka_topic(1)
    produce(kafka_bootstrap, source, 4000, size=20)
    ends = {place[1]: end for place, end in end_offsets(kafka_bootstrap, source).items()}
    zombies = copiers(*options(kafka_bootstrap, source, target, mode, "--pause", "0.5"))
    zombie = zombies.start()
    deadline = time.monotonic() + PATIENCE
    while not any(end_offsets(kafka_bootstrap, target).values()):
        assert time.monotonic() < deadline, zombies.errors
    zombie.send_signal(signal.SIGSTOP)
    try:
        heir = zombies.start()
        until_no_lag(kafka_bootstrap, source, 2, timeout=PATIENCE)
    finally:
        zombie.send_signal(signal.SIGCONT)
    assert zombie.wait(30) != 0
    assert "Fenced" in zombies.errors
    heir.send_signal(signal.SIGTERM)
    assert heir.wait(15) == 0, zombies.errors[-5000:]
    assert read_committed(kafka_bootstrap, target, 1) == once_each(ends)
