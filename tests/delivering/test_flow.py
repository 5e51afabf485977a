"""What of a consumer's partitions may move: `transport/delivering/flow.py`."""

from __future__ import annotations

from transport.delivering.flow import Flow
from transport.types import TP

A0, A1 = TP("a", 0), TP("a", 1)


def test_flow_is_active_from_the_start() -> None:
    flow = Flow()
    assert flow.active
    assert flow.gate.is_open
    assert flow.paused == set()


def test_the_gate_and_the_plain_value_say_the_same() -> None:
    flow = Flow()
    for turn, active in ((flow.stop, False), (flow.stop, False), (flow.resume, True)):
        turn()
        assert flow.active == flow.gate.is_open == active


def test_only_assigned_partitions_are_paused_the_others_are_counted() -> None:
    flow = Flow()
    flow.pause([A0, A1], {A0})
    assert flow.paused == {A0}
    assert flow.ignored == 1
    flow.unpause([A0, A1], {A0})
    assert flow.paused == set()
    assert flow.ignored == 2


def test_a_second_pause_changes_nothing() -> None:
    flow = Flow()
    flow.pause([A0, A0], {A0})
    flow.unpause([A0], {A0})
    flow.unpause([A0], {A0})
    assert flow.paused == set()
    assert flow.ignored == 0


def test_a_pause_does_not_outlive_the_assignment() -> None:
    flow = Flow()
    flow.pause([A0, A1], {A0, A1})
    flow.forget([A0])
    assert flow.paused == {A1}
