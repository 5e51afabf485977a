"""The reports of handlers to the app's monitor: the times of attempts, and the failures.

Look here for what a monitor receives about handlers. Nothing of this is made without a monitor.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from transport.delivering.ledger import lane_of
from transport.errors import HandlerTimeout
from transport.handling.attempts import Attempts
from transport.handling.observer import Held, Observer
from transport.handling.plan import Plan
from transport.message import AnyBatch, AnyMessage
from transport.probe import Probe

_INTERVAL = 0.1  # seconds between two reports while the handler is busy


class AttemptTimes:
    """The times of one handler's attempts, which it reports several at a time.

    Args:
        handler: the name of the handler.
        now: returns the time in seconds.

    Attributes:
        seconds: of the attempts that have succeeded since the last report. Workers append to it
            inline, because that happens for each message.
        due: the time of the next report, if the handler is busy until then.
    """

    def __init__(self, handler: str, probe: Probe, now: Callable[[], float]) -> None:
        self.seconds: list[float] = []
        self.due = 0.0
        self._handler = handler
        self._probe = probe
        self._now = now

    @trio.lowlevel.enable_ki_protection
    def succeeded(self, start: float) -> None:
        """Note that an attempt that began at `start` has succeeded just now."""
        now = self._now()
        self.seconds.append(now - start)
        if now >= self.due:
            self.report()

    @trio.lowlevel.enable_ki_protection
    def failed(self, start: float, error: Exception) -> None:
        """Report an attempt that began at `start` and has failed just now."""
        outcome = "timeout" if isinstance(error, HandlerTimeout) else "failed"
        self._call(outcome, [self._now() - start])

    @trio.lowlevel.enable_ki_protection
    def report(self) -> None:
        """Report the attempts since the last report, if there are any."""
        if self.seconds:
            self.due = self._now() + _INTERVAL
            seconds = self.seconds[:]
            self.seconds.clear()
            self._call("ok", seconds)

    def _call(self, outcome: str, seconds: list[float]) -> None:
        self._probe(self._probe.sensor.on_attempts, self._handler, outcome, seconds)


class Failures(Observer):
    """An observer that passes the failures of a handler to the monitor of its app."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe

    def on_failed(self, plan: Plan, held: Held, attempts: Attempts, delay: float | None) -> None:
        if delay is not None:
            self._report(plan, held, "retried", attempts)
        elif lane_of(held).ledger.is_shut:
            self._report(plan, held, "void", attempts)
        elif plan.dead_letters == "fail":
            self._report(plan, held, "raised", attempts)

    def on_dead_letter(self, plan: Plan, held: Held, attempts: Attempts) -> None:
        self._report(plan, held, "dead_letter", attempts)

    def on_skipped(self, plan: Plan, held: Held, attempts: Attempts) -> None:
        self._report(plan, held, "skipped", attempts)

    def _report(
        self, plan: Plan, held: AnyMessage | AnyBatch, treatment: str, attempts: Attempts
    ) -> None:
        point = self._probe.sensor.on_handler_failure
        self._probe(point, plan.name, held.tp, treatment, attempts.error)
