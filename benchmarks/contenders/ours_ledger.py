"""The ledger alone, without a broker and without trio: acks, memory and growth."""

from __future__ import annotations

import random
import sys
import time
import tracemalloc
from typing import NamedTuple

from job import Done, Job, main

from transport.delivering.ledger import BufferUsage, Lane, Ledger, Tally
from transport.fetched import FetchedRecords
from transport.message import Message
from transport.types import TP

FETCH = 500  # records in one fetch
SAFE_CALLS = 1000


class Stored(NamedTuple):
    """A `transport.types.Record` of which only the offset matters."""

    offset: int
    key: bytes | None = None
    value: bytes | None = b"value"
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp: int = 0
    timestamp_type: int = 0


def lane_of(messages: int) -> tuple[Ledger, Lane]:
    """Return a ledger with one lane, in which this number of records wait."""
    ledger = Ledger(TP("bench", 0), 1, 1, Tally(), position=0, committed=0)
    lane = ledger.open_lane(BufferUsage(limit=messages + 1))
    for first in range(0, messages, FETCH):
        last = min(first + FETCH, messages)
        ledger.put(FetchedRecords([Stored(offset) for offset in range(first, last)]))
    return ledger, lane


def take_all(lane: Lane) -> list[Message]:
    taken = []
    while lane.ready():
        while (message := lane.take()) is not None:
            taken.append(message)
    return taken


def acks(job: Job) -> Done:
    """Ack messages in order or at random, with `in_flight` messages delivered before the acks."""
    in_flight = job.options.get("in_flight", job.messages)
    chance = random.Random(0)
    seconds = 0.0
    acked = 0
    while acked < job.messages:
        ledger, lane = lane_of(min(in_flight, job.messages - acked))
        taken = take_all(lane)
        if job.options["order"] == "random":
            chance.shuffle(taken)
        began = time.perf_counter()
        for message in taken:
            message.ack()
        seconds += time.perf_counter() - began
        if ledger.safe != len(taken):
            raise AssertionError(f"the safe offset is {ledger.safe} after {len(taken)} acks")
        acked += len(taken)
    each = seconds / acked * 1e9
    return Done(acked, 0, seconds, {"nanoseconds": each})


def memory(job: Job) -> Done:
    """Measure the memory of the ledger for each unacked message, without the message itself."""
    _, lane = lane_of(job.messages)
    began = time.perf_counter()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    taken = take_all(lane)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    grown -= sys.getsizeof(taken) + sum(map(sys.getsizeof, taken))
    return Done(len(taken), 0, time.perf_counter() - began, {"bytes": grown / len(taken)})


def stuck(job: Job) -> Done:
    """Ack messages behind one message that stays unacked, or behind none."""
    ledger, lane = lane_of(job.messages + 1)
    taken = take_all(lane)
    is_stuck = job.options["stuck"]
    first = taken.pop(0)
    if not is_stuck:
        first.ack()
    began = time.perf_counter()
    for message in taken:
        message.ack()
    seconds = time.perf_counter() - began
    safe = ledger.safe
    if safe != (0 if is_stuck else job.messages + 1):
        raise AssertionError(f"the safe offset is {safe}")
    began = time.perf_counter()
    for _ in range(SAFE_CALLS):
        _ = ledger.due
    commit = (time.perf_counter() - began) / SAFE_CALLS
    measures = {
        "nanoseconds": seconds / job.messages * 1e9,
        "commit_nanoseconds": commit * 1e9,
        "held": float(lane.usage.held),
    }
    return Done(job.messages, 0, seconds, measures)


if __name__ == "__main__":
    main({"acks": acks, "memory": memory, "stuck": stuck})
