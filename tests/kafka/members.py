"""Members in processes, and checks of their diaries, for the acceptance tests."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from kafka import KafkaProducer

from tests.kafka.cluster import PERFORMANCE, ToolFailed, describe_group, tool, tool_command

ROOT = Path(__file__).parents[2]
# Seconds between two checks for progress, and seconds after which a test gives up.
LOOK_INTERVAL = 0.02
PATIENCE = 60.0

Place = tuple[int, int]  # partition, offset


class Done(NamedTuple):
    """A message that a handler has finished and not acked yet."""

    partition: int
    offset: int
    generation: int
    epoch: int
    begun: float
    ended: float
    pid: int

    @property
    def place(self) -> Place:
        return self.partition, self.offset


class Seen(NamedTuple):
    """The state of a member at a moment; generation -1: it owned no partition."""

    at: float
    generation: int
    unacked: int
    begun: int
    held: int
    rss: int


class Alive(NamedTuple):
    """The resources of a program at a moment; `rss` in bytes."""

    at: float
    rss: int
    tasks: int
    threads: int
    files: int


class Diary:
    """The diary of a member so far; `read` adds the new lines."""

    def __init__(self, path: Path) -> None:
        self.begun: list[tuple[Place, float]] = []
        self.done: list[Done] = []
        self.acked: list[tuple[Place, float]] = []
        self.seen: list[Seen] = []
        self.alive: list[Alive] = []
        self._path = path
        self._offset = 0

    def read(self) -> Self:
        if not self._path.exists():
            return self
        with self._path.open("rb") as file:
            file.seek(self._offset)
            new, _, _ = file.read().rpartition(b"\n")
        if new:
            self._offset += len(new) + 1
            for line in new.decode().splitlines():
                self._enter(line.split(" "))
        return self

    def _enter(self, words: list[str]) -> None:
        match words:
            case ["begun", p, o, at]:
                self.begun.append(((int(p), int(o)), float(at)))
            case ["acked", p, o, at]:
                self.acked.append(((int(p), int(o)), float(at)))
            case ["done", p, o, generation, epoch, begun, ended, pid]:
                place = int(p), int(o)
                times = float(begun), float(ended)
                self.done.append(Done(*place, int(generation), int(epoch), *times, int(pid)))
            case ["seen", at, *numbers]:
                self.seen.append(Seen(float(at), *map(int, numbers)))
            case ["alive", at, *numbers]:
                self.alive.append(Alive(float(at), *map(int, numbers)))
            case _:
                raise AssertionError(f"unknown line in a diary: {words}")


class Member:
    """A running `tests.kafka.member`."""

    def __init__(self, folder: Path, name: str, options: Iterable[str]) -> None:
        self.name = name
        self.diary = Diary(folder / f"{name}.diary")
        self._errors = folder / f"{name}.stderr"
        command = [sys.executable, "-m", "tests.kafka.member"]
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*command, "--log", str(folder / f"{name}.diary"), *options],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )

    @property
    def errors(self) -> str:
        """The stderr of the program: warnings, and the error that ended it."""
        return self._errors.read_text(errors="replace")

    def until(
        self, condition: Callable[[Diary], bool], what: str, *, timeout: float = PATIENCE
    ) -> None:
        """Wait until the diary fulfills a condition. The program must not end before."""
        deadline = time.monotonic() + timeout
        while not condition(self.diary.read()):
            code = self.process.poll()
            assert code is None, f"{self.name} ended with {code} before {what}:\n{self.errors}"
            assert time.monotonic() < deadline, (
                f"{self.name}: not {what} within {timeout} s;"
                f" {len(self.diary.done)} done, {self.diary.seen[-1:]}\n{self.errors}"
            )
            time.sleep(LOOK_INTERVAL)

    def end(self, number: signal.Signals, *, code: int, within: float) -> float:
        """Send a signal, check that the program ends in time with this code; return the seconds."""
        began = time.monotonic()
        self.process.send_signal(number)
        try:
            got = self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} runs {within} s later:\n{self.errors}") from None
        took = time.monotonic() - began
        assert got == code, f"{self.name} ended with {got}, not {code}:\n{self.errors}"
        self.diary.read()
        return took

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.diary.read()


class Crew:
    """The members of one test; `close` kills those that still run."""

    def __init__(self, folder: Path, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.members: list[Member] = []
        self._folder = folder

    def start(
        self,
        group: str,
        topic: str,
        *,
        tasks: int = 4,
        batch: int = 1,
        pause: float = 0.0,
        stop_grace: float = 5.0,
        **settings: object,
    ) -> Member:
        """Start one more member, and return at once."""
        options = {
            **{"bootstrap": self.bootstrap, "group": group, "topic": topic},
            **{"tasks": tasks, "batch": batch, "pause": pause, "stop-grace": stop_grace},
        }
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        for key, value in settings.items():
            words += ["--setting", f"{key}={json.dumps(value)}"]
        member = Member(self._folder, f"member{len(self.members) + 1}-{group}", words)
        self.members.append(member)
        return member

    def diaries(self) -> list[Diary]:
        return [member.diary.read() for member in self.members]

    def done(self) -> list[Done]:
        return [done for diary in self.diaries() for done in diary.done]

    def until_all_done(self, ends: dict[int, int], *, timeout: float = PATIENCE) -> None:
        """Wait until every record up to these ends was handled at least once."""
        deadline = time.monotonic() + timeout
        while missing := missing_of(self.done(), ends):
            assert time.monotonic() < deadline, (
                f"not handled within {timeout} s: {len(missing)}, such as {sorted(missing)[:5]}\n"
                + "\n".join(f"{member.name}: {member.errors}" for member in self.members)
            )
            time.sleep(10 * LOOK_INTERVAL)

    def close(self) -> None:
        for member in self.members:
            member.kill()


def missing_of(done: Iterable[Done], ends: dict[int, int]) -> set[Place]:
    """Return the places before these ends that no handler has finished."""
    wanted = {(partition, offset) for partition, end in ends.items() for offset in range(end)}
    return wanted.difference(entry.place for entry in done)


def delivered_after_ack(diaries: Iterable[Diary]) -> list[Place]:
    """Return the places that were delivered again after they had been acked."""
    diaries = list(diaries)
    acked: dict[Place, float] = {}
    for diary in diaries:
        for place, at in diary.acked:
            acked[place] = min(at, acked.get(place, at))
    return sorted(
        place
        for diary in diaries
        for place, at in diary.begun
        if place in acked and at > acked[place]
    )


def overlaps(done: Iterable[Done]) -> list[tuple[Done, Done]]:
    """Return pairs of messages of one partition on which two processes worked at once."""
    found = []
    by_partition: dict[int, list[Done]] = {}
    for entry in done:
        by_partition.setdefault(entry.partition, []).append(entry)
    for entries in by_partition.values():
        # For each process, the message that ends last of those that have begun so far.
        last: dict[int, Done] = {}
        for entry in sorted(entries, key=lambda entry: entry.begun):
            found += [
                (other, entry)
                for pid, other in last.items()
                if pid != entry.pid and other.ended > entry.begun
            ]
            if entry.pid not in last or entry.ended > last[entry.pid].ended:
                last[entry.pid] = entry
    return found


def produce(bootstrap: str, topic: str, count: int, *, size: int = 100) -> None:
    """Write records into a topic, as fast as Kafka's own producer can."""
    tool(PERFORMANCE, *_load(topic, count, size, -1), bootstrap=bootstrap)


def send(bootstrap: str, topic: str, values: Mapping[int, Sequence[bytes]]) -> None:
    """Write these values into these partitions."""
    producer = KafkaProducer(bootstrap_servers=bootstrap.split(","))
    for partition, several in values.items():
        for value in several:
            producer.send(topic, value, partition=partition)
    producer.flush()
    producer.close()


@contextlib.contextmanager
def producing(bootstrap: str, topic: str, *, rate: int, size: int = 100) -> Iterator[None]:
    """Write `rate` records a second into the topic while the block runs."""
    command = tool_command(PERFORMANCE, *_load(topic, 10**9, size, rate), bootstrap=bootstrap)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield
            assert process.poll() is None, "the load ended before the test"
        finally:
            process.kill()


def _load(topic: str, count: int, size: int, rate: int) -> list[str]:
    options = {"topic": topic, "num-records": count, "record-size": size, "throughput": rate}
    return [word for key, value in options.items() for word in (f"--{key}", str(value))]


def lags(bootstrap: str, group: str) -> dict[int, int | None]:
    """Return the lags that ConsumerGroupCommand shows for a group that reads one topic."""
    return {place[1]: offset.lag for place, offset in describe_group(bootstrap, group).items()}


def until_no_lag(bootstrap: str, group: str, partitions: int, *, timeout: float = 20.0) -> None:
    """Wait until ConsumerGroupCommand shows lag 0 for every partition."""
    deadline = time.monotonic() + timeout
    wanted: dict[int, int | None] = dict.fromkeys(range(partitions), 0)
    while (shown := _lags_or_none(bootstrap, group)) != wanted:
        assert time.monotonic() < deadline, f"the lag is not 0 after {timeout} s: {shown}"


def _lags_or_none(bootstrap: str, group: str) -> dict[int, int | None] | str:
    try:
        return lags(bootstrap, group)
    except ToolFailed as error:  # a rebalance is under way
        return str(error)
