"""The job that a contender receives, and the line of JSON with which it answers.

A contender is a small program in its own environment. It receives its job as one argument, does the
work, and prints one line. So this file imports only the standard library.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

# The byte of a value that the checksum adds up. The last one of a JSON document never changes.
CHECK = -2

# All contenders give their clients the same options, which are the defaults of an App.
COMMIT_INTERVAL = 1.0
LINGER_MS = 5
BATCH_BYTES = 131072
KEYS = tuple(b"key-%d" % number for number in range(1000))


class Job(NamedTuple):
    """The job of a contender.

    Attributes:
        work: the name of one of the program's works.
        topic: the topic to read.
        target: the topic to write. Each run has a new one.
        messages: the number of messages.
        size: bytes of a value.
        options: further parameters of the work.
    """

    work: str
    bootstrap: str = ""
    topic: str = ""
    target: str = ""
    messages: int = 0
    size: int = 0
    partitions: int = 4
    options: Mapping[str, Any] = {}

    @property
    def values(self) -> tuple[bytes, ...]:
        """The values to send in turn, one for each key."""
        return tuple(
            bytes((number + index) % 251 for index in range(self.size))
            for number in range(len(KEYS))
        )

    @property
    def checksum(self) -> int:
        """The checksum of all values to send."""
        values = self.values
        return sum(values[number % len(values)][CHECK] for number in range(self.messages))


class Done(NamedTuple):
    """The result of a job.

    Attributes:
        count: the number of messages that were read or delivered.
        checksum: the sum of one byte of each value.
        seconds: the time from the first message to the last.
        measures: other numbers, by name.
    """

    count: int
    checksum: int
    seconds: float
    measures: Mapping[str, float] = {}


Work = Callable[[Job], Done]


def group() -> str:
    """Return the name of a new consumer group."""
    return f"bench-{uuid.uuid4().hex}"


def percentile(numbers: list[float], share: float) -> float:
    """Return the number that a `share` of all numbers does not exceed."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def resident() -> float:
    """Return the current memory of this process, in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def peak() -> float:
    """Return the peak memory of this process, in megabytes."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # not Linux: this number includes the process that started this one
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def report(done: Done) -> None:
    """Print the answer."""
    print(
        json.dumps(
            {
                "count": done.count,
                "checksum": done.checksum,
                "seconds": done.seconds,
                "rss": peak(),
                "cpu": time.process_time(),
                **done.measures,
            }
        ),
        flush=True,
    )


def main(works: Mapping[str, Work]) -> None:
    """Do the job that is the first argument of the program."""
    job = Job(**json.loads(sys.argv[1]))
    report(works[job.work](job))
