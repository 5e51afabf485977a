"""Tools to test programs that use the transport: no test sleeps, and a seed repeats a whole run.

- `handler_client` calls one handler of an app with a message, and shows what it did.
- `in_memory` gives an app a broker in the process, also the app of a module.
- `simulate` runs an app through crashes, rebalances and lost answers, and counts its work.
- `cancel_everywhere` cancels a call or a whole program at each of its steps.
- `FaultyDriver` stands between an app and its driver, and makes calls fail or take long.
- `run` is `trio.run` on a clock that jumps.
- `transport.testing.strategies` draws histories with Hypothesis.
- `transport.testing.fixtures` has fixtures for pytest.
"""

from transport.drivers.memory import MemoryBroker
from transport.testing.cancelling import LeftBehind, Scenario, Target, cancel_everywhere
from transport.testing.client import HandlerClient, handler_client
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
from transport.testing.handler_call import CallTimeout
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
from transport.testing.replacement import in_memory
from transport.testing.report import Report
from transport.testing.results import Result, Sent
from transport.testing.schedule import Hang, run
from transport.testing.simulation import Done, simulate
from transport.testing.timeline import Entry, Timeline

__all__ = [
    "AddPartitions",
    "Books",
    "Break",
    "CallTimeout",
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
    "HandlerClient",
    "Hang",
    "History",
    "InvariantViolated",
    "LeftBehind",
    "MemoryBroker",
    "Outcomes",
    "Report",
    "Result",
    "Scenario",
    "Script",
    "Sent",
    "Start",
    "Stop",
    "Target",
    "Timeline",
    "Write",
    "WriteAborted",
    "cancel_everywhere",
    "handler_client",
    "in_memory",
    "refused",
    "run",
    "simulate",
    "slow",
    "unanswered",
]
