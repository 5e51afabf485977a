"""The programs that run during a fault, and the checks after it.

A producer feeds a topic. One group handles its messages at least once (`tests.kafka.member`);
another copies them, exactly once, into a second topic (`tests.kafka.copier`). All of them are
processes that connect through the proxies only, and write diaries.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import attrs
from kafka import KafkaConsumer, TopicPartition

from tests.faults.brokers import ThreeBrokers
from tests.kafka.cluster import describe_groups
from tests.kafka.members import ROOT, Diary, Place

PARTITIONS = 6
RATE = 60.0  # messages a second
# Session timeouts in seconds: long for a busy machine, short where a test lets a session expire.
SESSION, SHORT_SESSION = 30.0, 8.0
GRACE = 20.0
# Seconds beyond the grace that a process takes to end once its app is closed.
EXIT = 10.0
# Bounds in seconds, to find hangs. The table shows the real times.
OUTAGE = 90.0
CATCH_UP = 90.0
SETTLE = 90.0
# The most that a process may hold at the end above what it held after its start.
MORE_BYTES = 64 << 20
MORE_THREADS = 2
MORE_FILES = 12  # connections to brokers that it did not need before
WARM_UP = 2.0
LOOK_INTERVAL = 0.1

SETTINGS: dict[str, object] = {
    "commit_interval": 0.5,
    "commit_timeout": 10.0,
    "heartbeat_interval": 1.0,
    "max_poll_interval": 60.0,
    # Longer than the detection of a dead broker, so that no transaction times out meanwhile.
    "transaction_timeout": 60.0,
    "metadata_max_age": 5.0,
    "grace": GRACE,
    # A request that is lost on a broken connection is repeated after this time.
    "request_timeout": 10.0,
    "client_options": {"metadata_max_age_ms": 5000},
}


class Acked(NamedTuple):
    """A message that was acknowledged to the producer."""

    number: int
    place: Place
    at: float


class Report(NamedTuple):
    """The effect of a fault: times in seconds, and the growth of the processes in MB.

    Attributes:
        outage: the longest time in which no message of some partition was handled.
        caught_up: from the repair until all messages acknowledged before it were handled and
            copied.
    """

    fault: str
    outage: float
    outage_of_copies: float
    caught_up: float
    grown: float


def table(reports: list[Report]) -> str:
    width = max(len(report.fault) for report in reports)
    head = f"{'fault':<{width}}  outage s  of copies s  caught up s  grown MB"
    return "\n".join(
        [head]
        + [
            f"{r.fault:<{width}}  {r.outage:8.1f}  {r.outage_of_copies:11.1f}"
            f"  {r.caught_up:11.1f}  {r.grown:8.1f}"
            for r in reports
        ]
    )


class ProgramDiary(Diary):
    """The diary of one of the programs so far, which may be the producer."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.sent = 0
        self.acknowledged: list[Acked] = []
        self.failed: dict[int, str] = {}
        self.places: set[Place] = set()  # of the messages that it has finished

    def acknowledged_after(self, since: float) -> set[Place]:
        """Return the places of the messages that were acknowledged after that time."""
        later = itertools.takewhile(lambda each: each.at > since, reversed(self.acknowledged))
        return {each.place for each in later}

    def _enter(self, words: list[str]) -> None:
        match words:
            case ["sent", number]:
                self.sent = int(number) + 1
            case ["acked", number, partition, offset, at]:
                place = int(partition), int(offset)
                self.acknowledged.append(Acked(int(number), place, float(at)))
            case ["failed", number, error, _]:
                self.failed[int(number)] = error
            case ["done", partition, offset, *_]:
                self.places.add((int(partition), int(offset)))
                super()._enter(words)
            case _:
                super()._enter(words)


class Program:
    """A running process with a diary."""

    def __init__(self, folder: Path, name: str, module: str, words: Sequence[str]):
        path = folder / f"{name}.diary"
        self.name = name
        self.diary = ProgramDiary(path)
        self._errors = folder / f"{name}.stderr"
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, "--log", str(path), *words],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )

    @property
    def errors(self) -> str:
        return self._errors.read_text(errors="replace")

    def check_alive(self) -> None:
        code = self.process.poll()
        assert code is None, f"{self.name} ended by itself with {code}:\n{self.errors[-8000:]}"

    @property
    def is_fenced(self) -> bool:
        """Whether the program has ended because it was fenced."""
        return self.process.poll() not in (None, 0) and "errors.Fenced" in self.errors

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def ask_to_end(self) -> None:
        self.check_alive()
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float, code: int = 0) -> None:
        """Check that the program ends in time, with this exit code."""
        try:
            got = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} runs {seconds} s later:\n{self.errors[-8000:]}"
            ) from None
        assert got == code, f"{self.name} ended with {got}, not {code}:\n{self.errors[-8000:]}"
        self.diary.read()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@attrs.define
class Load:
    """The programs of one test. The block of `running` starts and kills them.

    Attributes:
        session: the session timeout of each member, in seconds.
        may_be_fenced: whether a copier may end with Fenced; another one is then started, as a
            supervisor would.
        may_fail: the errors that a message may fail with; by default none.
        topic, copies: the topic that is fed, and the one that the copiers write to.
        group, copying: the group of the members, and that of the copiers.
    """

    brokers: ThreeBrokers
    folder: Path
    report: Callable[[Report], None]
    session: float = SESSION
    may_be_fenced: bool = False
    may_fail: Collection[str] = ()
    feeder_settings: dict[str, object] = attrs.field(factory=dict)
    feeder_options: Sequence[str] = ()
    topic_configs: dict[str, str] = attrs.field(factory=dict)
    topic: str = attrs.field(init=False)
    members: list[Program] = attrs.field(init=False, factory=list)
    copiers: list[Program] = attrs.field(init=False, factory=list)
    ended: list[Program] = attrs.field(init=False, factory=list)
    feeder: Program = attrs.field(init=False)
    partitions: int = attrs.field(init=False, default=PARTITIONS)
    _is_fed: bool = attrs.field(init=False, default=False)
    _base: dict[str, tuple[int, int, int, int]] = attrs.field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self.topic = f"fault-{uuid.uuid4().hex[:8]}"

    @property
    def copies(self) -> str:
        return f"{self.topic}-copies"

    @property
    def group(self) -> str:
        return f"{self.topic}-handling"

    @property
    def copying(self) -> str:
        return f"{self.topic}-copying"

    @property
    def programs(self) -> list[Program]:
        """The programs that must run now."""
        return [*([] if self._is_fed else [self.feeder]), *self.members, *self.copiers]

    # Start and end

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        """Start all programs, and wait until both groups handle every partition."""
        self.brokers.create_topic(self.topic, self.partitions, **self.topic_configs)
        self.brokers.create_topic(self.copies, 3)
        started: list[Program] = []
        try:
            self.feeder = self._feeder()
            started = self.programs
            for _ in range(2):
                self.start_member()
                self.start_copier()
            self.goes_on()
            time.sleep(WARM_UP)
            for program in self.programs:
                self._base[program.name] = self._holds(program)
            yield self
        finally:
            for program in {*started, *self.members, *self.copiers, *self.ended}:
                program.kill()

    def start_member(self) -> Program:
        words = ["--group", self.group, "--topic", self.topic, "--tasks", "2", "--batch", "50"]
        words += ["--pause", "0.02", "--stop-grace", str(GRACE), *self._options()]
        program = self._start("member", "tests.kafka.member", words)
        self.members.append(program)
        return program

    def start_copier(self) -> Program:
        words = ["--group", self.copying, "--source", self.topic, "--target", self.copies]
        words += ["--mode", "member", *self._options()]
        program = self._start("copier", "tests.kafka.copier", words)
        self.copiers.append(program)
        return program

    def remove(self, program: Program) -> None:
        """Remove a program that has ended or was killed. Its diary still counts."""
        (self.members if program in self.members else self.copiers).remove(program)
        self.ended.append(program)

    def _feeder(self) -> Program:
        words = ["--topic", self.topic, "--rate", str(RATE), *self._options(**self.feeder_settings)]
        words += self.feeder_options
        return self._start("feeder", "tests.faults.feeder", words)

    def _options(self, **more: object) -> list[str]:
        settings = {**SETTINGS, "session_timeout": self.session, **more}
        return [
            word
            for key, value in settings.items()
            for word in ("--setting", f"{key}={json.dumps(value)}")
        ]

    def _start(self, name: str, module: str, words: Sequence[str]) -> Program:
        name = f"{name}-{uuid.uuid4().hex[:4]}"
        words = ["--bootstrap", self.brokers.bootstrap, *words]
        return Program(self.folder, name, module, words)

    # While it runs

    @contextlib.contextmanager
    def fault(self, name: str) -> Iterator[None]:
        """Run a block that breaks and repairs something, then wait until all is handled and copied.

        A report says how long handling and copying were interrupted.
        """
        broken = time.monotonic()
        yield
        mended = time.monotonic()
        self._until(lambda: not self._missing(mended), "all acked messages are handled", CATCH_UP)
        caught_up = time.monotonic() - mended
        self.goes_on()
        self._report(name, broken, caught_up)

    def _report(self, name: str, broken: float, caught_up: float) -> None:
        outage, outage_of_copies = (
            _longest_silence(self._diaries(group), broken, self.partitions)
            for group in (self.members, self.copiers)
        )
        grown = max(
            program.diary.read().alive[-1].rss - self._base[program.name][0]
            for program in self.programs
            if program.name in self._base
        )
        self.report(Report(name, outage, outage_of_copies, caught_up, grown / (1 << 20)))

    def goes_on(self, timeout: float = OUTAGE) -> None:
        """Wait until new messages of each partition are acknowledged, handled and copied."""
        since = time.monotonic()

        def all_move() -> bool:
            acked = self.feeder.diary.read().acknowledged_after(since)
            return all(
                {place[0] for place in self._done(group, acked)} == set(range(self.partitions))
                for group in (self.members, self.copiers)
            )

        self._until(all_move, "each partition makes progress", timeout)

    def generations(self) -> set[int]:
        """Return the generations in which the last message of each partition was handled."""
        last: dict[int, tuple[float, int]] = {}
        for diary in self._diaries(self.members):
            for done in diary.done:
                entry = done.ended, done.generation
                last[done.partition] = max(entry, last.get(done.partition, entry))
        return {generation for _, generation in last.values()}

    def handled_twice(self) -> list[Place]:
        done = Counter(done.place for diary in self._diaries(self.members) for done in diary.done)
        return sorted(place for place, times in done.items() if times > 1)

    def run_for(self, seconds: float) -> None:
        """Let time pass. No program may end meanwhile."""
        self._until(_after(seconds), "time passes", seconds + 60.0)

    def _until(self, condition: Callable[[], bool], what: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            self._check_programs()
            assert time.monotonic() < deadline, f"not within {timeout} s: {what}\n{self._state()}"
            time.sleep(LOOK_INTERVAL)

    def _check_programs(self) -> None:
        for program in self.programs:
            fenced = program in self.copiers and program.is_fenced
            if fenced and self.may_be_fenced:
                self.remove(program)
                self.start_copier()
            else:
                program.check_alive()

    def until(self, condition: Callable[[Load], bool], what: str, timeout: float = OUTAGE) -> None:
        """Wait for a condition on the diaries. No program may end meanwhile."""
        self._until(lambda: condition(self), what, timeout)

    def _missing(self, until: float) -> bool:
        """Return whether a message acknowledged by then is not yet handled, or not copied."""
        return self._undone(
            each.place for each in self.feeder.diary.read().acknowledged if each.at <= until
        )

    def _undone(self, places: Iterable[Place]) -> bool:
        """Return whether a message of these places is not yet handled, or not copied."""
        wanted = set(places)
        return any(
            len(self._done(group, wanted)) < len(wanted) for group in (self.members, self.copiers)
        )

    def _diaries(self, group: Collection[Program]) -> list[ProgramDiary]:
        """Return the diaries of a group's programs, also of those that have ended."""
        ended = [each for each in self.ended if (group is self.members) == _is_member(each)]
        return [program.diary.read() for program in (*group, *ended)]

    def _done(self, group: Collection[Program], wanted: set[Place]) -> set[Place]:
        """Return the places among these whose messages a group has finished."""
        return {place for diary in self._diaries(group) for place in wanted & diary.places}

    def _state(self) -> str:
        feeder = self.feeder.diary.read()
        lines = [f"sent {feeder.sent}, acked {len(feeder.acknowledged)}, failed {feeder.failed}"]
        now = time.monotonic()
        for program in self.programs:
            done = program.diary.read().done
            last = {each.partition: f"{now - each.ended:.1f} s ago" for each in done}
            lines.append(f"{program.name}: last done {last}\n{program.errors[-3000:]}")
        return "\n".join(lines)

    # At the end

    def check(self) -> None:
        """Stop the producer; check that all is handled and copied, and that all programs end."""
        self.feeder.ask_to_end()
        self.feeder.wait(GRACE + EXIT + float(str(self._delivery_timeout)))
        self._is_fed = True
        self._hold_no_more()
        written = self._read(self.topic)
        self._check_feeder(written)
        self._until(lambda: not self._undone(written), "all written messages are handled", SETTLE)
        self._check_programs()
        for program in (*self.members, *self.copiers):
            program.ask_to_end()
        for program in (*self.members, *self.copiers):
            program.wait(GRACE + EXIT)
        shown = describe_groups(self.brokers.direct, self.group, self.copying)
        for group, offsets in shown.items():
            lags = {place[1]: offset.lag for place, offset in offsets.items()}
            assert lags == dict.fromkeys(range(self.partitions), 0), f"lag of {group}: {lags}"
        copies = Counter(self._read(self.copies).values())
        wanted = Counter(b"%d %d" % place for place in written)
        missing, more = list(wanted - copies), list(copies - wanted)
        assert not missing, f"{len(missing)} were not copied, such as {missing[:5]}"
        assert not more, f"{len(more)} were copied twice, such as {more[:5]}"

    @property
    def _delivery_timeout(self) -> object:
        return self.feeder_settings.get("delivery_timeout", 120.0)

    def _hold_no_more(self) -> None:
        """Check that the faults have left no tasks, threads, files or memory."""
        for program in (*self.members, *self.copiers):
            if program.name not in self._base:
                continue
            base = self._base[program.name]
            most = base[0] + MORE_BYTES, base[1], base[2] + MORE_THREADS, base[3] + MORE_FILES

            def fits(program: Program = program, most: tuple[int, ...] = most) -> bool:
                return all(a <= b for a, b in zip(self._holds(program), most, strict=True))

            deadline = time.monotonic() + SETTLE
            while not fits():
                program.check_alive()
                assert time.monotonic() < deadline, (
                    f"{program.name} holds (bytes, tasks, threads, files) {self._holds(program)},"
                    f" and held {base} before\n{program.errors[-3000:]}"
                )
                time.sleep(LOOK_INTERVAL)

    def _holds(self, program: Program) -> tuple[int, int, int, int]:
        alive = program.diary.read().alive[-1]
        return alive.rss, alive.tasks, alive.threads, alive.files

    def _read(self, topic: str) -> dict[Place, bytes]:
        """Return the committed records of a topic up to its end, read with another client."""
        reader = KafkaConsumer(
            bootstrap_servers=self.brokers.direct.split(","),
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        numbers = reader.partitions_for_topic(topic)
        ends = self._ends(topic, numbers)
        try:
            tps = [TopicPartition(topic, number) for number in numbers]
            reader.assign(tps)
            seen: dict[Place, bytes] = {}
            deadline = time.monotonic() + SETTLE
            while any(reader.position(tp) < ends[tp] for tp in tps):
                assert time.monotonic() < deadline, "a transaction is open for too long"
                for records in reader.poll(timeout_ms=500).values():
                    seen.update({(r.partition, r.offset): r.value for r in records})
            return seen
        finally:
            reader.close()

    def _ends(self, topic: str, numbers: Iterable[int]) -> dict[TopicPartition, int]:
        """Return the ends of the logs, including open transactions."""
        outsider = KafkaConsumer(bootstrap_servers=self.brokers.direct.split(","))
        try:
            return outsider.end_offsets([TopicPartition(topic, number) for number in numbers])
        finally:
            outsider.close()

    def _check_feeder(self, written: dict[Place, bytes]) -> None:
        """Check that each acknowledged message is where its outcome said, that no message was
        written twice, and that the acknowledged messages of a partition are in order.

        A message that failed may have been written all the same, and late: a broker may still
        have its request to do when the next message arrives on another connection.
        """
        diary = self.feeder.diary.read()
        wrong = [
            each for each in diary.acknowledged if written.get(each.place) != b"%d" % each.number
        ]
        assert not wrong, f"acknowledged and not in the log: {wrong[:5]}"
        twice = [value for value, times in Counter(written.values()).items() if times > 1]
        assert not twice, f"written twice: {twice[:5]}"
        for partition in range(self.partitions):
            found = (
                number_of(written[place]) for place in sorted(written) if place[0] == partition
            )
            numbers = [number for number in found if number not in diary.failed]
            assert numbers == sorted(numbers), f"out of order in {partition}: {numbers}"
        failed = {number: why for number, why in diary.failed.items() if why not in self.may_fail}
        assert not failed, f"failed: {failed}\n{self.feeder.errors[-3000:]}"
        assert len(diary.acknowledged) + len(diary.failed) == diary.sent, (
            "messages without an outcome"
        )


def number_of(value: bytes) -> int:
    """Return the number of a message, without the bytes that make it large."""
    return int(value.rstrip(b"\0"))


def _is_member(program: Program) -> bool:
    return program.name.startswith("member")


def _after(seconds: float) -> Callable[[], bool]:
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() >= deadline


def _longest_silence(diaries: Iterable[Diary], since: float, partitions: int) -> float:
    """Return the longest time after `since` in which no message of some partition was finished."""
    moments: dict[int, list[float]] = {number: [since] for number in range(partitions)}
    for diary in diaries:
        for done in diary.done:
            if done.ended > since:
                moments[done.partition].append(done.ended)
    return max(
        (later - earlier)
        for several in map(sorted, moments.values())
        for earlier, later in itertools.pairwise(several)
    )
