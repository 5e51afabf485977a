"""The job that a contender is given, and the line of JSON that it answers with.

A contender is a small program in an environment of its own. It gets its job as one argument, does
the work, and prints one line. So this file imports the standard library alone.
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

# All contenders use the same options of their clients: those that are the defaults of an App.
COMMIT_INTERVAL = 1.0
LINGER_MS = 5
BATCH_BYTES = 65536
KEYS = tuple(b"key-%d" % number for number in range(1000))


class Job(NamedTuple):
    """What a contender is to do.

    Attributes:
        work: the name of one of the program's works.
        topic: to read from.
        target: to write to. Each run gets a new one.
        messages: how many.
        size: of a value, in bytes.
        options: what this work needs besides.
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
        """The values to send, in turn. Each key has one."""
        return tuple(
            bytes((number + index) % 251 for index in range(self.size))
            for number in range(len(KEYS))
        )

    @property
    def checksum(self) -> int:
        """The checksum of all that is to be sent."""
        values = self.values
        return sum(values[number % len(values)][CHECK] for number in range(self.messages))


class Done(NamedTuple):
    """What came of it.

    Attributes:
        count: messages that were read, or delivered.
        checksum: the sum of one byte of each value.
        seconds: from the first message to the last.
        measures: other numbers, by their names.
    """

    count: int
    checksum: int
    seconds: float
    measures: Mapping[str, float] = {}


Work = Callable[[Job], Done]


def group() -> str:
    """The name of a new consumer group."""
    return f"bench-{uuid.uuid4().hex}"


def percentile(numbers: list[float], share: float) -> float:
    """The number that `share` of all numbers do not exceed."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def resident() -> float:
    """The memory of this process now, in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def peak() -> float:
    """The most memory that this process has had, in megabytes."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # not Linux: also counts the process that has started this one
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
    """Do the job in the program's first argument."""
    job = Job(**json.loads(sys.argv[1]))
    report(works[job.work](job))
