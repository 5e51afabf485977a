"""The functions of handlers with a span around each call."""

from __future__ import annotations

import functools
from typing import Any

import attrs
import trio

from transport.handling.calls import call_in_time
from transport.handling.plan import Plan
from transport.message import AnyBatch, AnyMessage
from transport.tracing import Spans


def traced(plan: Plan, tracing: Spans) -> Plan:
    """Return a plan whose function makes a span around a call of the plan's own function.

    The new function applies the timeout inside of the span, so that the span has its error. The
    returned plan has no timeout.
    """
    fn: Any = plan.fn if plan.timeout is None else functools.partial(call_in_time, plan)
    name, processing = plan.name, tracing.processing

    # A Ctrl-C may interrupt this function as it may interrupt the user's, and ends the app.
    @trio.lowlevel.disable_ki_protection
    async def call(held: AnyMessage | AnyBatch) -> None:
        with processing(held, handler=name):
            await fn(held)

    return attrs.evolve(plan, fn=call, timeout=None)
