"""Tests of `Worker`. Its threads wait for events of the test, never for time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
import trio
from outcome import Value
from trio.testing import assert_checkpoints, assert_no_checkpoints, wait_all_tasks_blocked

from nurseries import Call, CallWithdrawn, Worker, WorkerClosed, WorkerStuck

FOREVER = float("inf")
MOMENT = 0.02  # seconds; a held thread does not return in any time


class Held:
    """A blocking call that sets an event when it begins, and ends when it is released."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()

    def __call__(self) -> str:
        self.entered.set()
        self.released.wait()
        return "held"

    async def under_way(self) -> None:
        await trio.to_thread.run_sync(self.entered.wait)


@pytest.fixture
def held() -> Iterator[Held]:
    call = Held()
    yield call
    call.released.set()


@pytest.fixture
def worker() -> Iterator[Worker]:
    """Return a worker, and check after the test that its thread has ended."""
    worker = Worker("of the test")
    yield worker
    assert not worker.alive


async def gone(worker: Worker) -> None:
    """Wait until the thread has ended after its call was released."""
    with trio.fail_after(60):
        while worker.alive:  # noqa: ASYNC110 - after the run nobody is left to set an Event
            await trio.sleep(0.001)


def fail(error: BaseException) -> None:
    raise error


async def test_calls_run_in_order_in_one_thread(worker: Worker) -> None:
    made: list[tuple[int, int]] = []
    async with worker:
        calls = [
            worker.submit(f"call {n}", lambda n=n: made.append((n, threading.get_ident())))
            for n in range(100)
        ]
        for call in calls:
            await call.wait()
    assert [n for n, _ in made] == list(range(100))
    assert len({thread for _, thread in made}) == 1
    assert made[0][1] != threading.get_ident()


async def test_the_thread_has_the_name_of_the_worker(worker: Worker) -> None:
    async with worker:
        assert await worker.call("name", lambda: threading.current_thread().name) == "of the test"


async def test_call_takes_arguments_and_returns_the_value(worker: Worker) -> None:
    async with worker:
        assert await worker.call("sum", lambda a, b: a + b, 1, 2) == 3
        call = worker.submit("divmod", divmod, 7, 2)
        assert call.name == "divmod"
        assert await call.wait() == (3, 1)
        assert call.outcome == Value((3, 1))


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
async def test_error_of_a_call_is_raised_to_its_waiter_and_the_thread_goes_on(
    worker: Worker, error: BaseException
) -> None:
    async with worker:
        with pytest.raises(type(error)) as raised:
            await worker.call("fail", fail, error)
        assert raised.value is error
        assert await worker.call("next", lambda: "fine") == "fine"


async def test_any_number_of_tasks_may_wait_for_one_call(worker: Worker, held: Held) -> None:
    got: list[str] = []

    async def wait(call: Call[str]) -> None:
        got.append(await call.wait())

    async with worker, trio.open_nursery() as nursery:
        call = worker.submit("held", held)
        for _ in range(3):
            nursery.start_soon(wait, call)
        await wait_all_tasks_blocked()
        assert got == []
        held.released.set()
    assert got == ["held"] * 3
    with assert_checkpoints():
        assert await call.wait() == "held", "a later wait returns the value again"


async def test_error_of_a_call_is_raised_to_each_waiter(worker: Worker) -> None:
    error = ValueError("no")
    async with worker:
        call = worker.submit("fail", fail, error)
        for _ in range(2):
            with pytest.raises(ValueError, match="no") as raised:
                await call.wait()
            assert raised.value is error


async def test_call_keeps_its_outcome_after_a_cancelled_wait(worker: Worker, held: Held) -> None:
    async with worker:
        call = worker.submit("held", held)
        await held.under_way()
        with trio.CancelScope() as scope:
            scope.cancel()
            await call.wait()
        assert scope.cancelled_caught
        assert call.outcome is None
        held.released.set()
        await worker.call("after it", lambda: None)
        assert call.outcome == Value("held")


async def test_call_cancelled_before_its_submission_is_never_made(
    worker: Worker,
) -> None:
    made: list[str] = []
    async with worker:
        with trio.CancelScope() as scope:
            scope.cancel()
            await worker.call("late", made.append, "late")
        assert scope.cancelled_caught
        assert worker.current is None
    assert made == []


async def test_call_cancelled_later_runs_to_its_end(worker: Worker, held: Held) -> None:
    made: list[str] = []

    def call() -> None:
        held()
        made.append("to its end")

    async with worker:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.call, "held", call)
            await held.under_way()
            nursery.cancel_scope.cancel()
        assert made == []
        held.released.set()
    assert made == ["to its end"]


async def test_withdrawn_call_is_never_made(worker: Worker, held: Held) -> None:
    made: list[str] = []
    async with worker:
        worker.submit("held", held)
        await held.under_way()
        waits = worker.submit("waits", made.append, "waits")
        worker.submit("behind it", made.append, "behind it")
        with assert_no_checkpoints():
            assert worker.withdraw(waits)
            assert not worker.withdraw(waits), "a second withdrawal does nothing"
        assert worker.waiting == 1
        with pytest.raises(CallWithdrawn, match="waits"):
            await waits.wait()
        held.released.set()
    assert made == ["behind it"]


async def test_a_call_that_has_begun_cannot_be_withdrawn(worker: Worker, held: Held) -> None:
    async with worker:
        begun = worker.submit("held", held)
        await held.under_way()
        assert not worker.withdraw(begun)
        held.released.set()
        assert await begun.wait() == "held"
        assert not worker.withdraw(begun), "the call has ended"


async def test_call_is_a_checkpoint_and_submit_and_start_are_not(worker: Worker) -> None:
    with assert_no_checkpoints():
        worker.start()
        worker.submit("nothing", lambda: None)
    with assert_checkpoints():
        await worker.call("nothing", lambda: None)
    await worker.stop(FOREVER)


async def test_worker_shows_the_running_call_and_the_number_of_queued_calls(
    worker: Worker, held: Held
) -> None:
    assert (worker.current, worker.waiting) == (None, 0)
    async with worker:
        assert (worker.current, worker.waiting) == (None, 0)
        worker.submit("first", held)
        await held.under_way()
        assert (worker.current, worker.waiting) == ("first", 0)
        worker.submit("second", lambda: None)
        worker.submit("third", lambda: None)
        assert (worker.current, worker.waiting) == ("first", 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.stop, FOREVER)
            await wait_all_tasks_blocked()
            assert (worker.current, worker.waiting) == ("first", 2), "the stop is not a call"
            held.released.set()
    assert (worker.current, worker.waiting) == (None, 0)


async def test_stop_makes_all_submitted_calls_and_joins_the_thread(worker: Worker) -> None:
    made: list[int] = []
    assert not worker.alive
    worker.start()
    assert worker.alive
    for n in range(10):
        worker.submit("append", made.append, n)
    await worker.stop(FOREVER)
    assert made == list(range(10))
    assert not worker.alive


async def test_cancelling_does_not_shorten_the_stop(worker: Worker, held: Held) -> None:
    worker.start()
    call = worker.submit("held", held)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.stop, FOREVER)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
            assert worker.alive
            held.released.set()
    assert not worker.alive
    assert call.outcome == Value("held")


async def test_stop_may_be_called_again_and_concurrently(worker: Worker) -> None:
    worker.start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.stop, FOREVER)
        nursery.start_soon(worker.stop, FOREVER)
    await worker.stop(FOREVER)


async def test_idle_worker_stops_with_a_timeout_of_zero(worker: Worker) -> None:
    worker.start()
    await worker.stop(0)
    assert not worker.alive


async def test_calls_before_the_start_and_after_the_stop_are_refused(worker: Worker) -> None:
    with pytest.raises(WorkerClosed, match="'of the test' takes no calls"):
        worker.submit("early", lambda: None)
    async with worker:
        pass
    with pytest.raises(WorkerClosed, match="takes no calls"):
        worker.submit("late", lambda: None)
    with pytest.raises(WorkerClosed, match="takes no calls"):
        await worker.call("late", lambda: None)


async def test_calls_during_the_stop_are_refused(worker: Worker, held: Held) -> None:
    worker.start()
    worker.submit("held", held)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.stop, FOREVER)
        await wait_all_tasks_blocked()
        with pytest.raises(WorkerClosed):
            worker.submit("late", lambda: None)
        held.released.set()


async def test_second_start_is_refused(worker: Worker) -> None:
    async with worker:
        with pytest.raises(WorkerClosed, match="started before"):
            worker.start()
    with pytest.raises(WorkerClosed, match="started before"):
        worker.start()


async def test_a_stop_before_the_start_changes_nothing(worker: Worker) -> None:
    await worker.stop(0)
    async with worker:
        assert worker.alive
        assert await worker.call("one", lambda: 1) == 1


async def test_worker_can_start_after_its_thread_failed_to_start(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            trio.lowlevel, "start_thread_soon", lambda *args: fail(RuntimeError("no thread"))
        )
        with pytest.raises(RuntimeError, match="no thread"):
            worker.start()
    await worker.stop(FOREVER)
    async with worker:
        pass


async def test_stuck_thread_is_abandoned_and_its_calls_fail(worker: Worker, held: Held) -> None:
    made: list[str] = []
    worker.start()
    stuck = worker.submit("fetch", held)
    queued = [worker.submit("queued", made.append, "made") for _ in range(3)]
    await held.under_way()
    with pytest.raises(WorkerStuck, match="'of the test' is stuck in 'fetch'") as raised:
        await worker.stop(MOMENT)
    assert worker.alive
    assert (worker.current, worker.waiting) == (None, 0)
    for call in (stuck, *queued):
        with pytest.raises(WorkerStuck) as failed:
            await call.wait()
        assert failed.value is raised.value
    with pytest.raises(WorkerStuck, match="stuck in 'fetch'"):
        await worker.stop(0)

    held.released.set()  # the thread returns from the call
    await gone(worker)
    assert made == [], "calls that were reported as failed are never made"
    with pytest.raises(WorkerStuck):
        await stuck.wait()
    await worker.stop(FOREVER)


async def test_stuck_thread_fails_the_tasks_that_already_wait(worker: Worker, held: Held) -> None:
    failed: list[str] = []

    async def wait() -> None:
        with contextlib.suppress(WorkerStuck):
            await worker.call("held", held)
            return
        failed.append("the waiting task")

    worker.start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await held.under_way()
        with pytest.raises(WorkerStuck):
            await worker.stop(MOMENT)
    assert failed == ["the waiting task"]
    held.released.set()
    await gone(worker)


def test_thread_that_outlives_the_run_ends_with_its_call(
    worker: Worker, held: Held, capfd: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        worker.start()
        worker.submit("held", held)
        await held.under_way()
        with pytest.raises(WorkerStuck):
            await worker.stop(MOMENT)

    trio.run(main)
    assert worker.alive
    held.released.set()
    trio.run(gone, worker)
    assert capfd.readouterr() == ("", ""), "the thread prints nothing"


async def test_end_of_the_block_joins_the_thread_after_an_error_and_a_cancel(
    held: Held,
) -> None:
    with pytest.raises(ValueError, match="in the block"):
        async with Worker("one") as one:
            raise ValueError("in the block")
    assert not one.alive
    with trio.CancelScope() as scope:
        async with Worker("two") as two:
            call = two.submit("last", lambda: "made")
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert not two.alive
    assert call.outcome == Value("made")
