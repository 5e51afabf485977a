"""Tests of programs that use the transport: no second is slept, and a seed tells the whole run.

`simulate` runs an app among crashes, rebalances and lost answers and counts what it has done;
`cancel_everywhere` cancels a call, or all of a program, at each of its moments; `run` is a
`trio.run` on a clock that jumps. `transport.testing.strategies` draws histories with Hypothesis,
and `transport.testing.fixtures` are for pytest.
"""

from transport.drivers.memory import MemoryBroker
from transport.testing.cancelling import LeftBehind, Scenario, Target, cancel_everywhere
from transport.testing.faults import (
    Chance,
    Fault,
    Faults,
    FaultyDriver,
    Script,
    refused,
    slow,
    unanswered,
)
from transport.testing.history import (
    AddPartitions,
    Break,
    Crash,
    CutOff,
    Event,
    Gap,
    History,
    Start,
    Stop,
    Write,
    WriteAborted,
)
from transport.testing.invariants import Books, InvariantViolated
from transport.testing.schedule import Hang, run
from transport.testing.simulation import Done, Report, simulate
from transport.testing.timeline import Entry, Timeline

__all__ = [
    "AddPartitions",
    "Books",
    "Break",
    "Chance",
    "Crash",
    "CutOff",
    "Done",
    "Entry",
    "Event",
    "Fault",
    "Faults",
    "FaultyDriver",
    "Gap",
    "Hang",
    "History",
    "InvariantViolated",
    "LeftBehind",
    "MemoryBroker",
    "Report",
    "Scenario",
    "Script",
    "Start",
    "Stop",
    "Target",
    "Timeline",
    "Write",
    "WriteAborted",
    "cancel_everywhere",
    "refused",
    "run",
    "simulate",
    "slow",
    "unanswered",
]
