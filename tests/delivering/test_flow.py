"""The switch for delivery, and paused partitions: `transport/delivering/flow.py`."""

from __future__ import annotations

from transport.delivering.flow import Flow
from transport.types import TP

A0, A1 = TP("a", 0), TP("a", 1)


def test_flow_is_active_from_the_start() -> None:
    flow = Flow()
    assert flow.active
    assert flow.gate.is_open
    assert flow.paused == set()


def test_active_is_true_exactly_while_the_gate_is_open() -> None:
    flow = Flow()
    for turn, active in ((flow.stop, False), (flow.stop, False), (flow.resume, True)):
        turn()
        assert flow.active == flow.gate.is_open == active


def test_pauses_of_unassigned_partitions_are_ignored_and_counted() -> None:
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


def test_forget_removes_the_pause_of_a_partition() -> None:
    flow = Flow()
    flow.pause([A0, A1], {A0, A1})
    flow.forget([A0])
    assert flow.paused == {A1}
