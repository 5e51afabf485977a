"""Tools to test programs that use the transport: no test sleeps, and a seed repeats a whole run.

- `simulate` runs an app through crashes, rebalances and lost answers, and counts its work.
- `cancel_everywhere` cancels a call or a whole program at each of its steps.
- `FaultyDriver` stands between an app and its driver, and makes calls fail or take long.
- `run` is `trio.run` on a clock that jumps.
- `transport.testing.strategies` draws histories with Hypothesis.
- `transport.testing.fixtures` has fixtures for pytest.
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
from transport.testing.outcomes import Failure, Outcomes
from transport.testing.report import Report
from transport.testing.schedule import Hang, run
from transport.testing.simulation import Done, simulate
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
    "Failure",
    "Fault",
    "Faults",
    "FaultyDriver",
    "Gap",
    "Hang",
    "History",
    "InvariantViolated",
    "LeftBehind",
    "MemoryBroker",
    "Outcomes",
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
