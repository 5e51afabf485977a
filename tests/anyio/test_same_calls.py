"""Each call of the trio side has a call with the same arguments for the tasks of asyncio.

The calls of a class are those that the reference shows.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import transport
from transport import anyio

REFERENCE = Path(__file__).parent.parent.parent / "docs" / "reference"
PAIRS = {
    "App": anyio.AioApp,
    "Topic": anyio.AioTopic,
    "Consumer": anyio.AioConsumer,
    "Producer": anyio.AioProducer,
    "Conductor": anyio.AioConductor,
    "Delivery": anyio.AioDelivery,
    "ManyDeliveries": anyio.AioManyDeliveries,
    "FutureMessage": anyio.AioFutureMessage,
}
A_HOOK = "a hook, which a subclass overrides and the trio run calls"
A_PART = "part of the work of the trio run, which makes the call itself"
TRIO_EVENT = "an event of trio: wait_for_stopped_flow and flow_active say the same"
TRIO_CLOCK = "takes a time of trio's clock: verify_all_partitions_active finds more"
ONLY_ON_TRIO = {
    "App": {
        "Transport": A_HOOK,
        "driver": A_PART,
        "on_partitions_assigned": A_HOOK,
        "on_partitions_revoked": A_HOOK,
        "run": "begins a trio run of its own",
        "transaction_group": A_HOOK,
    },
    "Consumer": {
        "can_resume_flow": TRIO_EVENT,
        "consumer_stopped_errors": A_PART,
        "not_waiting_next_records": TRIO_EVENT,
        "on_buffer_drop": A_PART,
        "on_buffer_full": A_PART,
        "on_ended": A_HOOK,
        "on_init_dependencies": A_HOOK,
        "on_partitions_assigned": A_PART,
        "on_partitions_lost": A_PART,
        "on_partitions_revoked": A_PART,
        "on_restart": A_HOOK,
        "on_start": A_HOOK,
        "on_stop": A_HOOK,
        "suspend_flow": TRIO_EVENT,
        "verify_event_path": TRIO_CLOCK,
        "verify_recovery_event_path": TRIO_CLOCK,
    },
    "Producer": {
        "on_start": A_HOOK,
        "on_stop": A_HOOK,
        "send_soon": "its FutureMessage is awaited in trio: Topic.send_soon gives one for asyncio",
    },
    "Conductor": {
        "label": A_PART,
        "on_client_only_start": A_HOOK,
        "on_message": A_HOOK,
        "on_partitions_assigned": A_HOOK,
        "on_records": A_HOOK,
        "shortlabel": A_PART,
    },
    "Delivery": dict.fromkeys(
        ("gives_way", "hurry", "on_end", "outgoing", "size", "was_seen"), A_PART
    ),
}


def calls_of(name: str) -> Iterator[str]:
    """Return the public names of a class that its section of the reference does not hide."""
    pages = "\n".join(page.read_text() for page in REFERENCE.glob("*.md"))
    section = re.search(rf"^::: transport\.{name}\n((?: .*\n|)*)", pages, re.MULTILINE)
    assert section is not None
    hidden = set(re.findall(r'"!\^(\w+)\$"', section[1]))
    for call in vars(getattr(transport, name)):
        if not call.startswith("_") and call not in hidden:
            yield call


def arguments_of(call: Any) -> list[str]:
    """Return the arguments, without the difference between a topic object and one of asyncio."""
    return [
        str(parameter).replace("Aio", "")
        for parameter in inspect.signature(call).parameters.values()
    ]


@pytest.mark.parametrize("name", PAIRS)
def test_each_call_of_the_trio_side_has_one_for_asyncio(name: str) -> None:
    only_on_trio = ONLY_ON_TRIO.get(name, {})
    calls = set(calls_of(name))
    assert set(only_on_trio) <= calls, "these names are no calls of the class"
    missing = [
        call for call in calls if call not in only_on_trio and not hasattr(PAIRS[name], call)
    ]
    assert not missing, f"add them to {PAIRS[name].__name__}, or say here why not"


@pytest.mark.parametrize("name", PAIRS)
def test_the_calls_of_both_sides_have_the_same_arguments(name: str) -> None:
    for call in calls_of(name):
        one, other = (getattr(cls, call, None) for cls in (getattr(transport, name), PAIRS[name]))
        if other is None:
            continue
        if inspect.isfunction(one):
            assert arguments_of(one) == arguments_of(other), call
            assert inspect.iscoroutinefunction(one) == inspect.iscoroutinefunction(other), call
        else:
            assert not inspect.isfunction(other), call
