from __future__ import annotations

import math
import signal
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import assert_checkpoints, assert_no_checkpoints

from nurseries import Node, Service, ServiceError, State, StopTimeout, running
from tests.nurseries.clock import jumping, run
from tests.nurseries.errors import leaves

Hook = Callable[["Noted"], Awaitable[object]]


class Noted(Service):
    """A service that notes the calls of its hooks. The test passes the bodies of the hooks."""

    def __init__(
        self,
        name: str = "service",
        notes: list[str] | None = None,
        *,
        grace: float = 30.0,
        start: Hook | None = None,
        stop: Hook | None = None,
        restart: Hook | None = None,
    ) -> None:
        super().__init__(name, grace=grace)
        self.notes = [] if notes is None else notes
        self._hooks = {"start": start, "stop": stop, "restart": restart}

    def note(self, what: str) -> None:
        self.notes.append(f"{self.name} {what}")

    async def on_start(self) -> None:
        await self._noted("start", super().on_start)

    async def on_stop(self) -> None:
        await self._noted("stop", super().on_stop)

    async def on_restart(self) -> None:
        await self._noted("restart", super().on_restart)

    async def _noted(self, hook: str, default: Callable[[], Awaitable[None]]) -> None:
        self.note(hook)
        given = self._hooks[hook]
        try:
            await (default() if given is None else given(self))
        except BaseException as error:
            # trio may raise Cancelled in groups
            self.note(f"{hook}: {', '.join({type(leaf).__name__ for leaf in leaves(error)})}")
            raise
        self.note(f"{hook} done")


async def sit(service: Noted, name: str = "task") -> None:
    """Sleep, and note when this task is cancelled."""
    try:
        await trio.sleep_forever()
    finally:
        service.note(f"{name} cancelled")


async def forever(*_: object) -> None:
    await trio.sleep_forever()


async def crash(error: BaseException, after: float = 0) -> None:
    await trio.sleep(after)
    raise error


def raising(error: BaseException, after: float = 0) -> Hook:
    async def hook(_: Noted) -> None:
        await crash(error, after)

    return hook


def sleeping(seconds: float) -> Hook:
    async def hook(_: Noted) -> None:
        await trio.sleep(seconds)

    return hook


def adding(*children: Service) -> Hook:
    async def hook(service: Noted) -> None:
        for child in children:
            await service.add_service(child)

    return hook


def spawning(name: str, fn: Callable[..., Awaitable[object]], *args: object) -> Hook:
    async def hook(service: Noted) -> None:
        service.spawn(name, fn, *args)

    return hook


def assert_ended(*services: Service) -> None:
    for service in services:
        assert service.tree() == Node(service.name, State.ENDED)
        assert service.ended.is_set()


# Start


@jumping
async def test_service_is_ready_when_on_start_returns() -> None:
    service = Noted(start=sleeping(5))
    assert service.state is State.IDLE
    async with trio.open_nursery() as nursery:
        assert await nursery.start(service.serve) is service
        assert trio.current_time() == 5
        assert service.state is State.RUNNING
        assert service.notes == ["service start", "service start done"]
        await service.stop()
    assert_ended(service)


@jumping
async def test_default_name_is_the_class_name() -> None:
    class Shop(Service):
        pass

    assert Shop().name == "Shop"
    assert Shop("corner").name == "corner"
    assert Shop().grace == 30


@jumping
async def test_children_start_in_order_each_ready_before_the_next() -> None:
    notes: list[str] = []
    children = [Noted(name, notes, start=sleeping(1)) for name in "abc"]
    async with running(Noted("top", notes, start=adding(*children))) as top:
        assert trio.current_time() == 3
        assert notes == [
            "top start",
            *("a start", "a start done", "b start", "b start done", "c start", "c start done"),
            "top start done",
        ]
        assert [child.name for child in top.tree().children] == ["a", "b", "c"]
    assert_ended(top, *children)


@jumping
async def test_error_in_on_start_is_raised_by_the_start_after_on_stop() -> None:
    error = ValueError("cannot")
    service = Noted(start=raising(error))
    async with trio.open_nursery() as nursery:
        with pytest.RaisesGroup(ValueError) as raised:
            await nursery.start(service.serve)
        assert raised.value.exceptions[0] is error
    assert service.notes[1:] == ["service start: ValueError", "service stop", "service stop done"]
    assert_ended(service)


@jumping
async def test_on_stop_after_an_error_in_on_start_finds_the_children_running() -> None:
    notes: list[str] = []
    child = Noted("child", notes)

    async def start(service: Noted) -> None:
        await service.add_service(child)
        service.spawn("task", sit, service)
        await trio.testing.wait_all_tasks_blocked()
        raise ValueError

    with pytest.RaisesGroup(ValueError):
        await Noted("top", notes, start=start).serve()
    assert notes[3:] == [
        "top start: ValueError",
        *("top stop", "child stop", "child stop done", "top stop done"),
        "top task cancelled",
    ]


@jumping
async def test_errors_of_the_start_and_of_the_stop_after_it_are_both_raised() -> None:
    first, second = ValueError("start"), KeyError("stop")
    with pytest.RaisesGroup(ValueError, KeyError) as raised:
        await Noted(start=raising(first), stop=raising(second)).serve()
    assert set(raised.value.exceptions) == {first, second}


@jumping
async def test_add_service_raises_the_error_of_the_start_of_the_child() -> None:
    caught: list[BaseException] = []
    child = Noted("child", start=raising(ValueError("cannot")))

    async def start(service: Noted) -> None:
        with pytest.RaisesGroup(ValueError) as raised:
            await service.add_service(child)
        caught.append(raised.value)
        assert service.tree().children == ()

    async with running(Noted(start=start)) as service:
        assert service.state is State.RUNNING, "on_start has handled the error"
    assert len(caught) == 1


@jumping
async def test_start_returns_the_value_that_the_task_reports() -> None:
    async def task(
        answer: int, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await trio.sleep(1)
        task_status.started(answer)
        await trio.sleep_forever()

    async with running(Noted()) as service:
        with assert_checkpoints():
            assert await service.start("task", task, 42) == 42
        assert trio.current_time() == 1
        with assert_no_checkpoints():
            service.spawn("other", forever)
        await trio.testing.wait_all_tasks_blocked()
        assert [child.name for child in service.tree().children] == ["task", "other"]


@jumping
async def test_start_of_a_task_that_never_reports_raises_to_its_caller() -> None:
    async def task(*, task_status: trio.TaskStatus[None]) -> None:
        pass

    async with running(Noted()) as service:
        with pytest.raises(RuntimeError, match="without calling task_status"):
            await service.start("task", task)
        assert service.tree().children == ()


@jumping
async def test_second_serve_is_refused_and_the_first_goes_on() -> None:
    async with running(Noted()) as service:
        with pytest.raises(ServiceError, match="service is running already"):
            await service.serve()
        other = Noted("other")
        async with running(other):
            with pytest.raises(ServiceError, match="service is running already"):
                await other.add_service(service)
            assert other.tree().children == ()
        assert service.state is State.RUNNING


@jumping
async def test_an_ended_service_may_be_served_again() -> None:
    child = Noted("child")
    service = Noted(start=adding(child))
    ended = []
    for _ in range(2):
        async with running(service):
            assert not service.ended.is_set()
            assert child.state is State.RUNNING
            ended.append(service.ended)
        assert_ended(service, child)
    assert ended[0] is not ended[1]


@jumping
async def test_ended_event_from_before_the_start_is_set_at_the_end() -> None:
    service = Noted()
    ended = service.ended
    async with running(service):
        assert service.ended is ended
    assert ended.is_set()


@pytest.mark.parametrize("call", ["add_service", "start", "spawn"])
@jumping
async def test_children_are_refused_before_the_start_and_after_the_end(call: str) -> None:
    async def have(service: Noted) -> None:
        if call == "add_service":
            await service.add_service(Noted("child"))
        elif call == "start":
            await service.start("task", forever)
        else:
            service.spawn("task", forever)

    service = Noted()
    with pytest.raises(ServiceError, match="service is idle: it accepts children only from"):
        await have(service)
    async with running(service):
        pass
    with pytest.raises(ServiceError, match="service is ended: it accepts children only from"):
        await have(service)


# Stop


@jumping
async def test_children_stop_in_reverse_order_and_tasks_are_cancelled_last() -> None:
    notes: list[str] = []
    children = [Noted(name, notes, stop=sleeping(1)) for name in "abc"]

    async def start(service: Noted) -> None:
        await adding(*children)(service)
        service.spawn("task", sit, service)

    async with running(Noted("top", notes, start=start)) as top:
        notes.clear()
    assert trio.current_time() == 3
    assert notes == [
        "top stop",
        *("c stop", "c stop done", "b stop", "b stop done", "a stop", "a stop done"),
        "top stop done",
        "top task cancelled",
    ]
    assert_ended(top, *children)


@jumping
async def test_stop_waits_for_the_end() -> None:
    service = Noted(stop=sleeping(7))
    async with trio.open_nursery() as nursery:
        await nursery.start(service.serve)
        with assert_checkpoints():
            await service.stop()
        assert trio.current_time() == 7
        assert_ended(service)
        with assert_checkpoints():
            await service.stop()


@jumping
async def test_stop_of_an_idle_service_returns_at_once_and_changes_nothing() -> None:
    service = Noted()
    with assert_checkpoints():
        await service.stop()
    async with running(service):
        assert service.state is State.RUNNING


@jumping
async def test_cancelled_stop_goes_on() -> None:
    service = Noted(stop=sleeping(5))
    async with trio.open_nursery() as nursery:
        await nursery.start(service.serve)
        with trio.move_on_after(1) as scope:
            await service.stop()
        assert scope.cancelled_caught
        assert service.state is State.STOPPING
        await service.ended.wait()
        assert trio.current_time() == 5


@jumping
async def test_errors_of_the_stop_are_raised_by_serve_and_not_by_stop() -> None:
    error = ValueError("in on_stop")
    service = Noted(stop=raising(error))
    caught: list[BaseException] = []

    async def serve() -> None:
        with pytest.RaisesGroup(ValueError) as raised:
            await service.serve()
        caught.extend(raised.value.exceptions)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await trio.testing.wait_all_tasks_blocked()
        await service.stop()
        assert_ended(service)
    assert caught == [error]


@jumping
async def test_stop_soon_is_not_a_checkpoint() -> None:
    service = Noted()
    async with trio.open_nursery() as nursery:
        await nursery.start(service.serve)
        with assert_no_checkpoints():
            service.stop_soon()
    assert_ended(service)


@jumping
async def test_child_task_may_stop_its_service() -> None:
    async def task(service: Noted) -> None:
        try:
            await service.stop()
        finally:
            service.note("task cancelled")

    service = Noted()
    async with trio.open_nursery() as nursery:
        await nursery.start(service.serve)
        service.spawn("task", task, service)
    assert service.notes[2:] == ["service stop", "service stop done", "service task cancelled"]


@jumping
async def test_stop_during_the_start_cancels_the_start() -> None:
    service = Noted(start=forever)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_after, service, 3)
        assert await nursery.start(service.serve) is service
        assert trio.current_time() == 3
    assert service.notes == [
        *("service start", "service start: Cancelled", "service stop", "service stop done")
    ]


async def _stop_after(service: Service, seconds: float) -> None:
    await trio.sleep(seconds)
    await service.stop()


@jumping
async def test_stop_of_a_child_during_its_start_is_no_error_of_the_parent() -> None:
    child = Noted("child", start=forever)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_after, child, 1)
        async with running(Noted(start=adding(child))) as top:
            assert child.state is State.ENDED
            assert top.tree().children == ()


@jumping
async def test_stop_in_on_start_cancels_it_and_stop_in_on_stop_times_out() -> None:
    async def stop(service: Noted) -> None:
        await service.stop()

    service = Noted(start=stop)
    await service.serve()
    assert service.notes[1] == "service start: Cancelled"

    service = Noted(stop=stop, grace=5)  # on_stop waits for its own end
    with pytest.RaisesGroup(pytest.RaisesGroup(StopTimeout)):
        async with running(service):
            pass
    assert trio.current_time() == 5


@jumping
async def test_tasks_that_have_not_taken_a_step_are_cancelled() -> None:
    async def start(service: Noted) -> None:
        service.spawn("task", forever)
        raise ValueError

    with pytest.RaisesGroup(ValueError):
        await Noted(start=start).serve()

    async def stop(service: Noted) -> None:
        service.spawn("task", sit, service)

    service = Noted(stop=stop)
    async with running(service):
        pass
    assert service.notes[-1] == "service task cancelled"


@jumping
async def test_cancelled_task_cannot_start_others() -> None:
    async def task(service: Noted) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with pytest.raises(ServiceError, match="accepts children only from"):
                service.spawn("another", forever)
            service.note("was refused")

    async with running(Noted()) as service:
        service.spawn("task", task, service)
        await trio.testing.wait_all_tasks_blocked()
    assert service.notes[-1] == "service was refused"


@jumping
async def test_child_that_on_stop_leaves_running_has_the_rest_of_the_grace() -> None:
    notes: list[str] = []
    children = [Noted(name, notes, stop=sleeping(4)) for name in "ab"]
    top = Noted("top", notes, start=adding(*children), stop=sleeping(1), grace=6)
    async with running(top):
        pass
    assert trio.current_time() == 5, "both stop at the same time"
    assert {"a stop done", "b stop done"} <= set(notes)


@jumping
async def test_children_stop_in_order_after_an_error_in_on_stop() -> None:
    error = ValueError("on_stop")
    child = Noted("child", stop=sleeping(1))
    with pytest.RaisesGroup(pytest.RaisesGroup(ValueError)):
        async with running(Noted(start=adding(child), stop=raising(error))):
            pass
    assert child.notes[-1] == "child stop done"


# Grace


@jumping
async def test_exceeded_grace_is_a_stop_timeout_that_names_the_running_children() -> None:
    child = Noted("child", stop=forever)

    async def start(service: Noted) -> None:
        await service.add_service(child)
        service.spawn("task", forever)

    service = Noted("top", start=start, grace=2)
    with pytest.raises(BaseExceptionGroup) as raised:
        async with running(service):
            pass
    assert trio.current_time() == 2
    assert {str(error) for error in leaves(raised.value)} == {
        "top did not stop within 2 s; still running: child, task",
        "child did not stop within 2 s; still running: its on_stop",
    }
    assert_ended(service, child)


@jumping
async def test_stop_timeout_names_the_hook_if_no_child_runs() -> None:
    with pytest.RaisesGroup(pytest.RaisesGroup(StopTimeout)) as raised:
        async with running(Noted(stop=forever, grace=0.5)):
            pass
    (error,) = leaves(raised.value)
    assert str(error) == "service did not stop within 0.5 s; still running: its on_stop"


@jumping
async def test_grace_of_the_parent_bounds_all_services_below() -> None:
    low = Noted("low", stop=forever, grace=1000)
    middle = Noted("middle", start=adding(low), grace=100)
    top = Noted("top", start=adding(middle), grace=3)
    with pytest.raises(BaseExceptionGroup) as raised:
        async with running(top):
            pass
    assert trio.current_time() == 3
    assert {str(error) for error in leaves(raised.value)} == {
        "top did not stop within 3 s; still running: middle",
        "middle did not stop within 3 s; still running: low",
        "low did not stop within 3 s; still running: its on_stop",
    }
    assert_ended(low, middle, top)


@jumping
async def test_child_with_less_grace_stops_within_its_own() -> None:
    child = Noted("child", stop=forever, grace=1)
    top = Noted("top", start=adding(child), grace=10)
    with pytest.raises(BaseExceptionGroup) as raised:
        async with running(top):
            pass
    assert trio.current_time() == 1
    (error,) = leaves(raised.value)
    assert "child did not stop within 1 s" in str(error)


@jumping
async def test_grace_bounds_a_cancelled_start_that_is_slow_to_end() -> None:
    child = Noted("child", start=forever, stop=sleeping(50), grace=100)
    top = Noted("top", start=adding(child), grace=3)
    with pytest.raises(BaseExceptionGroup), trio.move_on_after(1):
        await top.serve()
    assert trio.current_time() == 4
    assert {"top stop", "child stop"} <= {*top.notes, *child.notes}
    assert_ended(top, child)


@pytest.mark.parametrize("phase", ["stop", "restart", "start"])
@jumping
async def test_child_that_restarts_when_the_grace_ends_has_no_new_grace(phase: str) -> None:
    """The phase of the restart takes 10 s. The parent's on_stop ends after 1 s."""

    async def slow(service: Noted) -> None:
        if service.notes[0] != "child start":
            await trio.sleep(10)

    async def slow_to_stop(service: Noted) -> None:
        if service.notes[0] != "child start":
            await trio.sleep(10 if phase == "stop" or "child restart" in service.notes else 0)
        service.note("has its stop")

    hooks: dict[str, Hook] = {} if phase == "stop" else {phase: slow}
    child = Noted("child", stop=slow_to_stop, grace=1000, **hooks)
    top = Noted("top", start=adding(child), stop=sleeping(1), grace=5)

    async def restart() -> None:
        with pytest.raises(ServiceError, match="ended instead"):
            await child.restart()

    async def serve() -> None:
        try:
            await top.serve()
        except* StopTimeout as group:
            assert phase != "restart"  # in this phase there is nothing to stop
            (error,) = leaves(group)
            assert str(error).startswith("child did not stop within")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await trio.testing.wait_all_tasks_blocked()
        child.notes.clear()
        nursery.start_soon(restart)
        await trio.testing.wait_all_tasks_blocked()
        top.stop_soon()
    assert trio.current_time() == (1 if phase == "restart" else 5)
    assert_ended(top, child)


@jumping
async def test_on_stop_is_called_with_zero_and_with_infinite_grace() -> None:
    service = Noted(grace=0, stop=forever)
    with pytest.RaisesGroup(pytest.RaisesGroup(StopTimeout)):
        async with running(service):
            pass
    assert service.notes[2:] == ["service stop", "service stop: Cancelled"]
    service = Noted(grace=math.inf, stop=sleeping(1000))
    async with running(service):
        pass
    assert service.notes[-1] == "service stop done"


# Crash


@jumping
async def test_crash_cancels_the_siblings_after_on_stop_and_is_raised() -> None:
    notes: list[str] = []
    error = ValueError("crash")

    async def start(service: Noted) -> None:
        service.spawn("sibling", sit, service, "sibling")
        await service.add_service(Noted("child", notes))
        service.spawn("bad", crash, error, 1)

    async def stop(service: Noted) -> None:
        names = [child.name for child in service.tree().children]
        assert names == ["sibling", "child"]
        await trio.sleep(5)
        await service.stop_children()

    service = Noted("top", notes, start=start, stop=stop)
    with pytest.RaisesGroup(ValueError) as raised:
        await service.serve()
    assert raised.value.exceptions[0] is error
    assert trio.current_time() == 6
    assert notes[4:] == [
        *("top stop", "child stop", "child stop done", "top stop done", "top sibling cancelled"),
    ]
    assert_ended(service)


@jumping
async def test_crash_of_a_child_service_is_raised_by_the_parent() -> None:
    error = ValueError("crash")
    child = Noted("child", start=spawning("bad", crash, error, 1))
    other = Noted("other")
    top = Noted("top", start=adding(other, child))
    with pytest.raises(ExceptionGroup) as raised:
        await top.serve()
    assert leaves(raised.value) == [error]
    assert leaves(raised.value)[0] is error
    assert child.notes[-1] == "child stop done"
    assert other.notes[-1] == "other stop done"
    assert_ended(top, other, child)


@jumping
async def test_crash_of_a_child_during_the_start_of_the_parent_ends_the_parent() -> None:
    error = ValueError("crash")
    child = Noted("child", start=spawning("bad", crash, error, 1))
    slow = Noted("slow", start=forever)
    top = Noted("top", start=adding(child, slow))
    async with trio.open_nursery() as nursery:
        with pytest.raises(ExceptionGroup) as raised:
            await nursery.start(top.serve)
    assert [*leaves(raised.value)] == [error]
    assert trio.current_time() == 1
    assert top.notes == ["top start", "top start: Cancelled", "top stop", "top stop done"]
    assert slow.notes == ["slow start", "slow start: Cancelled", "slow stop", "slow stop done"]
    assert_ended(top, child, slow)


@jumping
async def test_several_crashes_are_raised_together() -> None:
    errors = {ValueError("a"), KeyError("b"), OSError("c")}

    async def start(service: Noted) -> None:
        for error in errors:
            service.spawn("bad", crash, error, 1)

    async def stop(_: Noted) -> None:
        await trio.sleep(1)
        raise RuntimeError("on_stop")

    with pytest.raises(ExceptionGroup) as raised:
        await Noted(start=start, stop=stop).serve()
    assert {type(error) for error in raised.value.exceptions} == {
        *(ValueError, KeyError, OSError, RuntimeError)
    }
    assert errors < set(raised.value.exceptions)


@jumping
async def test_end_of_a_task_ends_nothing_else() -> None:
    async with running(Noted()) as service:
        service.spawn("short", trio.sleep, 1)
        await trio.sleep(0.5)
        assert [child.name for child in service.tree().children] == ["short"]
        await trio.sleep(1)
        assert service.tree().children == ()
        assert service.state is State.RUNNING


# Cancelling


@jumping
async def test_cancelling_from_outside_stops_in_order() -> None:
    notes: list[str] = []
    child = Noted("child", notes, stop=sleeping(1))

    async def start(service: Noted) -> None:
        await service.add_service(child)
        service.spawn("task", sit, service)

    async def stop(service: Noted) -> None:
        await trio.sleep(2)
        assert [c.name for c in service.tree().children] == ["child", "task"]
        await service.stop_children()

    service = Noted("top", notes, start=start, stop=stop)
    with trio.move_on_after(10) as scope:
        await service.serve()
    assert scope.cancelled_caught
    assert trio.current_time() == 13
    assert notes[4:] == [
        *("top stop", "child stop", "child stop done", "top stop done", "top task cancelled"),
    ]
    assert_ended(service, child)


@jumping
async def test_second_cancel_changes_nothing() -> None:
    service = Noted(stop=sleeping(5))
    with trio.CancelScope() as outer, trio.CancelScope() as inner:
        async with trio.open_nursery() as nursery:
            await nursery.start(service.serve)
            inner.cancel()
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            inner.cancel()
            nursery.cancel_scope.cancel()
            outer.cancel()
            service.stop_soon()
    assert trio.current_time() == 5
    assert service.notes[2:] == ["service stop", "service stop done"]
    assert_ended(service)


@jumping
async def test_cancelling_during_the_start_reaches_the_lowest_start() -> None:
    notes: list[str] = []
    low = Noted("low", notes, start=forever)
    middle = Noted("middle", notes, start=adding(low))
    top = Noted("top", notes, start=adding(middle))
    with trio.move_on_after(2) as scope:
        await top.serve()
    assert scope.cancelled_caught
    assert trio.current_time() == 2
    assert notes[3:] == [
        f"{name} {what}"
        for name in ("low", "middle", "top")
        for what in ("start: Cancelled", "stop", "stop done")
    ]
    assert_ended(top, middle, low)


@jumping
async def test_child_whose_start_ignores_the_cancel_still_ends() -> None:
    async def deaf(_: Noted) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)

    child = Noted("child", start=deaf)
    with trio.move_on_after(1) as scope:
        await Noted(start=adding(child)).serve()
    assert scope.cancelled_caught
    assert trio.current_time() == 5
    assert_ended(child)


@jumping
async def test_start_that_outlives_the_service_raises_to_its_caller() -> None:
    service, child = Noted(), Noted("child", start=forever)

    async def outsider() -> None:
        with pytest.raises(ServiceError, match="child was cancelled before it had started"):
            await service.add_service(child)
        service.note("outsider has the error")

    async with trio.open_nursery() as nursery, running(service):
        nursery.start_soon(outsider)
        await trio.testing.wait_all_tasks_blocked()

        async def task(*, task_status: trio.TaskStatus[None]) -> None:
            await trio.sleep_forever()

        service.spawn("insider", service.start, "slow", task)
        await trio.testing.wait_all_tasks_blocked()
        # This on_stop does not stop the child, so both starts run until the children are cancelled.
        service._hooks["stop"] = sleeping(1)
    assert service.notes[-1] == "service outsider has the error"
    assert_ended(service, child)


# Restart


@jumping
async def test_restart_calls_the_hooks_in_order_and_returns_when_the_service_runs() -> None:
    child = Noted("child")

    async def between(service: Noted) -> None:
        assert service.tree() == Node("service", State.STARTING)
        with pytest.raises(ServiceError, match="accepts children only from"):
            service.spawn("task", forever)
        await trio.sleep(2)

    service = Noted(start=adding(child), stop=None, restart=between)
    async with running(service):
        service.notes.clear()
        ended = service.ended
        with assert_checkpoints():
            await service.restart()
        assert trio.current_time() == 2
        assert service.state is State.RUNNING
        assert service.notes == [
            f"service {what}"
            for hook in ("stop", "restart", "start")
            for what in (hook, f"{hook} done")
        ]
        assert [c.name for c in service.tree().children] == ["child"]
        assert service.ended is ended
        assert not ended.is_set()
        await service.restart()
        assert service.state is State.RUNNING
    assert child.notes.count("child start") == child.notes.count("child stop done") == 3


@jumping
async def test_concurrent_callers_share_one_restart() -> None:
    service = Noted(stop=sleeping(1))
    async with running(service), trio.open_nursery() as nursery:
        nursery.start_soon(service.restart)
        nursery.start_soon(service.restart)
        await trio.sleep(0.5)
        nursery.start_soon(service.restart)
    assert service.notes.count("service restart") == 1


@jumping
async def test_child_task_may_restart_its_service() -> None:
    service = Noted()
    async with running(service):
        service.spawn("task", service.restart)
        await trio.testing.wait_all_tasks_blocked()
        assert service.state is State.RUNNING
        assert service.notes.count("service start done") == 2


@jumping
async def test_cancelled_restart_goes_on() -> None:
    service = Noted(stop=sleeping(2))
    async with running(service):
        with trio.move_on_after(1) as scope:
            await service.restart()
        assert scope.cancelled_caught
        await trio.sleep(2)
        assert service.state is State.RUNNING
        assert service.notes.count("service start done") == 2


@pytest.mark.parametrize("phase", ["stop", "restart", "start"])
@jumping
async def test_stop_during_a_restart_takes_precedence(phase: str) -> None:
    async def slow_if_again(service: Noted) -> None:
        if service.notes[0] != "service start":
            await trio.sleep(10)

    service = Noted(**{phase: slow_if_again})
    async with trio.open_nursery() as nursery:
        await nursery.start(service.serve)
        service.notes.clear()

        async def ask() -> None:
            with pytest.raises(ServiceError, match="ended instead of restarting"):
                await service.restart()

        nursery.start_soon(ask)
        await trio.sleep(1)
        await service.stop()
        assert trio.current_time() == (10 if phase == "stop" else 1)
        assert_ended(service)
    assert "service start done" not in service.notes
    assert service.notes[-1] == (
        "service restart: Cancelled" if phase == "restart" else "service stop done"
    )


@jumping
async def test_restart_after_a_stop_is_refused() -> None:
    service = Noted(stop=sleeping(1))
    async with trio.open_nursery() as nursery:
        await nursery.start(service.serve)
        service.stop_soon()
        with pytest.raises(ServiceError, match="was asked to stop"):
            await service.restart()
        await trio.sleep(0.5)
        with pytest.raises(ServiceError, match="is stopping, not running"):
            await service.restart()
    with pytest.raises(ServiceError, match="is ended, not running"):
        await service.restart()
    assert "service restart" not in service.notes


@pytest.mark.parametrize("hook", ["stop", "restart", "start"])
@jumping
async def test_failed_restart_is_raised_to_its_caller_and_by_serve(hook: str) -> None:
    async def fail_if_again(service: Noted) -> None:
        if service.notes[0] != "service start":
            raise ValueError(hook)

    service = Noted(**{hook: fail_if_again})

    async def serve() -> None:
        with pytest.RaisesGroup(ValueError):
            await service.serve()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await trio.testing.wait_all_tasks_blocked()
        service.notes.clear()
        with pytest.raises(ServiceError, match="ended instead of restarting"):
            await service.restart()
        assert_ended(service)
    service._hooks = dict.fromkeys(service._hooks)
    async with running(service):
        pass
    assert service.notes[-1] == "service stop done", "no restart is pending"


@jumping
async def test_cancelling_during_a_restart_ends_the_service() -> None:
    for hook in ("stop", "restart"):
        service = Noted(**{hook: sleeping(1)})

        async def ask(service: Noted = service) -> None:
            with pytest.raises(ServiceError):
                await service.restart()

        async with trio.open_nursery() as outside, trio.open_nursery() as nursery:
            await nursery.start(service.serve)
            outside.start_soon(ask)
            await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
        assert_ended(service)
        assert service.notes.count("service start") == 1


# running


@jumping
async def test_the_block_is_cancelled_when_the_service_crashes() -> None:
    error = ValueError("crash")
    service = Noted()

    async def block() -> None:
        async with running(service):
            service.spawn("bad", crash, error, 1)
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        await block()
    assert leaves(raised.value) == [error]
    assert service.notes[2:] == ["service stop", "service stop done"]
    assert_ended(service)


@jumping
async def test_the_block_is_cancelled_before_any_stop_after_a_crash_below() -> None:
    error = ValueError("crash")
    child = Noted("child", start=spawning("bad", crash, error, 1), stop=sleeping(3))
    service = Noted(start=adding(child), stop=sleeping(3))
    cancelled_at: list[float] = []

    async def block() -> None:
        async with running(service):
            try:
                await trio.sleep_forever()
            finally:
                cancelled_at.append(trio.current_time())

    with pytest.raises(ExceptionGroup):
        await block()
    assert cancelled_at == [1]
    assert trio.current_time() >= 4


@jumping
async def test_a_restart_does_not_cancel_the_block() -> None:
    service = Noted()
    async with running(service):
        await service.restart()
        await trio.sleep(1)


@jumping
async def test_error_of_the_block_is_raised_with_the_error_of_on_stop() -> None:
    error, other = ValueError("block"), KeyError("on_stop")
    service = Noted(stop=raising(other, after=1))
    with pytest.raises(ExceptionGroup) as raised:
        async with running(service):
            raise error
    assert set(leaves(raised.value)) == {error, other}
    assert_ended(service)


@jumping
async def test_service_stops_in_order_after_its_block_was_cancelled() -> None:
    service = Noted(stop=sleeping(1))
    with trio.move_on_after(1) as scope:
        async with running(service):
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)
                assert service.state is State.RUNNING
    assert scope.cancelled_caught
    assert trio.current_time() == 3
    assert service.notes[-1] == "service stop done"
    assert_ended(service)


@jumping
async def test_block_does_not_run_after_a_failed_or_cancelled_start() -> None:
    service = Noted(start=raising(ValueError("cannot")))
    with pytest.RaisesGroup(pytest.RaisesGroup(ValueError)):
        async with running(service):
            raise AssertionError("not reached")
    service = Noted(start=forever)
    with trio.move_on_after(1) as scope:
        async with running(service):
            raise AssertionError("not reached")
    assert scope.cancelled_caught
    assert service.notes[2:] == ["service stop", "service stop done"]


@jumping
async def test_block_goes_on_after_a_stop_and_its_end_ends_a_stuck_restart() -> None:
    async with running(Noted()) as service:
        await service.stop()
        await trio.sleep(1)
    assert_ended(service)

    async def stuck_if_again(service: Noted) -> None:
        if len(service.notes) > 1:
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery, running(Noted(start=stuck_if_again)) as service:

        async def ask(service: Noted = service) -> None:
            with pytest.raises(ServiceError):
                await service.restart()

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert service.state is State.STARTING
    assert_ended(service)


# Tree


@jumping
async def test_the_tree_shows_names_states_and_where_each_waits() -> None:
    seen: dict[str, Node] = {}

    async def read() -> None:
        await trio.sleep_forever()

    async def looped(service: Noted) -> None:
        seen["from within"] = service.tree()
        await read()

    child = Noted("child")

    async def start(service: Noted) -> None:
        await service.add_service(child)
        service.spawn("reader", looped, service)
        await connect()

    async def connect() -> None:
        await trio.sleep(1)

    async def stop(_: Noted) -> None:
        await flush()

    async def flush() -> None:
        await trio.sleep(1)

    here = "test_the_tree_shows_names_states_and_where_each_waits.<locals>."
    top = Noted("top", start=start, stop=stop)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(top.serve)
        await trio.sleep(0.5)
        reader = Node("reader", State.RUNNING, (f"{here}looped", f"{here}read"))
        below = (Node("child", State.RUNNING), reader)
        hook = ("Noted.on_start", "Noted._noted", f"{here}start", f"{here}connect")
        assert top.tree() == Node("top", State.STARTING, hook, below)
        await trio.sleep(1)
        assert top.tree() == Node("top", State.RUNNING, (), below)
        assert list(top.tree().lines()) == [
            "top  running",
            "    child  running",
            f"    reader  running  in {here}looped > {here}read",
        ]
        top.stop_soon()
        await trio.sleep(0.5)
        hook = ("Noted.on_stop", "Noted._noted", f"{here}stop", f"{here}flush")
        assert top.tree() == Node("top", State.STOPPING, hook, below)
    assert seen["from within"].children[1] == Node("reader", State.RUNNING), (
        "the task runs at this moment"
    )
    assert_ended(top, child)


@jumping
async def test_ended_tasks_are_not_in_the_tree() -> None:
    async def brief(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()

    async with running(Noted()) as service:
        for n in range(10):
            service.spawn("spawned", trio.sleep, n)
            await service.start("started", brief)
            child = await service.add_service(Noted("child"))
            await child.stop()
        await trio.sleep(20)
        assert service.tree() == Node("service", State.RUNNING)
        assert service._children == []


def test_the_tree_can_be_read_before_and_after_a_run() -> None:
    service = Noted()
    assert service.tree() == Node("service", State.IDLE)

    async def main() -> None:
        async with running(service):
            pass

    run(main)
    assert service.tree() == Node("service", State.ENDED)


# Ctrl-C


def _interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


async def _interrupted(service: Noted) -> None:
    _interrupt()
    service.note("went on after Ctrl-C")
    await trio.sleep_forever()


@pytest.mark.parametrize("where", ["start", "stop", "restart", "task", "block", "child"])
@pytest.mark.parametrize("served", ["running", "serve"])
def test_ctrl_c_interrupts_the_users_code_and_stops_in_order(where: str, served: str) -> None:
    notes: list[str] = []
    child = Noted("child", notes, start=_interrupted if where == "child" else None)

    async def start(service: Noted) -> None:
        service.spawn("task", sit, service)
        await service.add_service(child)
        if where == "task":
            service.spawn("bad", _interrupted, service)
        elif where == "start":
            await _interrupted(service)

    async def stop(service: Noted) -> None:
        if where == "stop":
            await _interrupted(service)
        await service.stop_children()

    service = Noted(
        "top", notes, start=start, stop=stop, restart=_interrupted if where == "restart" else None
    )

    async def go() -> None:
        if where == "restart":
            with pytest.raises(ServiceError):
                await service.restart()
        if where == "block":
            _interrupt()
        service.stop_soon()

    async def main() -> None:
        if served == "running":
            async with running(service):
                await go()
        else:
            async with trio.open_nursery() as nursery:
                await nursery.start(service.serve)
                await go()

    with pytest.raises(BaseExceptionGroup) as raised:
        run(main)
    assert {type(error) for error in leaves(raised.value)} == {KeyboardInterrupt}
    assert not any("went on" in note for note in notes)
    assert "top stop" in notes
    assert notes.count("child stop done") == notes.count("child start") > 0
    assert_ended(service, child)


@jumping
async def test_time_left_is_the_rest_of_the_grace() -> None:
    left: list[float] = []

    class Slow(Service):
        async def on_stop(self) -> None:
            left.append(self.time_left)
            await trio.sleep(4.0)
            left.append(self.time_left)
            with trio.CancelScope(shield=True):
                await trio.sleep(8.0)
            left.append(self.time_left)

    async with running(Slow(grace=10.0)):
        pass
    assert left == pytest.approx([10.0, 6.0, 0.0])


@pytest.mark.parametrize("how", ["stopped", "crashed", "restart failed", "stopped in a restart"])
@jumping
async def test_on_ended_is_called_once_after_the_last_life(how: str) -> None:
    class Ending(Noted):
        def on_ended(self) -> None:
            self.note("ended")
            assert not self.ended.is_set()

    async def restart(self: Noted) -> None:
        if how == "restart failed":
            raise OSError(how)
        if how == "stopped in a restart":
            self.stop_soon()

    service = Ending(restart=restart)

    async def live() -> None:
        async with running(service):
            await service.restart() if "restart" in how else None
            if how == "crashed":
                service.spawn("crash", _raise, OSError(how))
                await trio.sleep_forever()

    if how == "stopped":
        await live()
    else:
        with pytest.raises(ExceptionGroup):
            await live()
    assert service.notes.count("service ended") == 1
    assert service.notes[-1] == "service ended"


async def _raise(error: Exception) -> None:
    raise error
