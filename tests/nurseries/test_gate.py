from __future__ import annotations

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from nurseries import Gate


async def test_exactly_one_event_is_set_at_any_time() -> None:
    gate = Gate()
    for turn in (gate.open, gate.close, gate.close, gate.open, gate.open, gate.close):
        turn()
        assert gate.is_open == gate.opened.is_set() != gate.shut.is_set()


async def test_argument_decides_the_first_state() -> None:
    assert Gate().is_open
    assert Gate(is_open=True).is_open
    assert not Gate(is_open=False).is_open


async def test_repeated_open_or_close_keeps_the_events() -> None:
    gate = Gate()
    opened, shut = gate.opened, gate.shut
    gate.open()
    assert (gate.opened, gate.shut) == (opened, shut)
    gate.close()
    opened, shut = gate.opened, gate.shut
    gate.close()
    assert (gate.opened, gate.shut) == (opened, shut)


async def test_each_change_creates_an_event_for_the_other_state() -> None:
    gate = Gate(is_open=False)
    opened, shut = gate.opened, gate.shut
    gate.open()
    assert opened.is_set()
    assert gate.opened is opened
    assert gate.shut is not shut
    assert shut.is_set(), "an Event stays set for the tasks that hold it"
    gate.close()
    assert gate.opened is not opened
    assert not gate.opened.is_set()


async def test_change_wakes_all_tasks_that_wait_for_the_new_state() -> None:
    gate = Gate(is_open=False)
    woken: list[str] = []

    async def wait(event: trio.Event, name: str) -> None:
        await event.wait()
        woken.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, gate.opened, "open")
        nursery.start_soon(wait, gate.opened, "open")
        await wait_all_tasks_blocked()
        assert woken == []
        gate.open()
        nursery.start_soon(wait, gate.shut, "shut")
        await wait_all_tasks_blocked()
        assert woken == ["open", "open"]
        gate.close()
    assert woken == ["open", "open", "shut"]


async def test_passing_an_open_gate_is_a_checkpoint() -> None:
    with assert_checkpoints():
        await Gate().passed()


async def test_cancelled_passing_changes_nothing() -> None:
    for gate in (Gate(), Gate(is_open=False)):
        was_open = gate.is_open
        with trio.CancelScope() as scope:
            scope.cancel()
            await gate.passed()
        assert scope.cancelled_caught
        assert gate.is_open == was_open


async def test_cancelling_a_waiting_task_does_not_affect_the_others() -> None:
    gate = Gate(is_open=False)
    passed: list[int] = []

    async def go(number: int, scope: trio.CancelScope) -> None:
        with scope:
            await gate.passed()
            passed.append(number)

    scopes = [trio.CancelScope(), trio.CancelScope()]
    async with trio.open_nursery() as nursery:
        for number, scope in enumerate(scopes):
            nursery.start_soon(go, number, scope)
        await wait_all_tasks_blocked()
        scopes[0].cancel()
        await wait_all_tasks_blocked()
        gate.open()
    assert passed == [1]


async def test_a_gate_that_shuts_before_the_woken_task_runs_holds_it() -> None:
    gate = Gate(is_open=False)
    seen: list[bool] = []

    async def go() -> None:
        await gate.passed()
        seen.append(gate.is_open)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go)
        await wait_all_tasks_blocked()
        for _ in range(3):
            gate.open()
            gate.close()
            await wait_all_tasks_blocked()
        assert seen == []
        gate.open()
    assert seen == [True]


async def test_a_gate_that_shuts_during_the_checkpoint_holds_the_task() -> None:
    gate = Gate()
    passed = trio.Event()

    async def go() -> None:
        await gate.passed()
        passed.set()

    class CloseAfterFirstStep(trio.abc.Instrument):
        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            if task.name.endswith("go") and gate.is_open:
                gate.close()

    instrument = CloseAfterFirstStep()
    trio.lowlevel.add_instrument(instrument)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(go)
        await wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(instrument)
        assert not passed.is_set()
        gate.open()
    assert passed.is_set()


@pytest.mark.parametrize("turn", ["open", "close"])
async def test_open_and_close_are_not_checkpoints(turn: str) -> None:
    gate = Gate(is_open=turn == "close")
    with trio.testing.assert_no_checkpoints():
        getattr(gate, turn)()
