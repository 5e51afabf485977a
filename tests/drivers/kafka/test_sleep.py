"""The sleep of a producer's network thread: each necessary wake-up is sent."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from transport.drivers.kafka.sleep import NOW, Sleep


class Thread:
    """A network thread and its client. While the thread sleeps, it calls `during`."""

    def __init__(self) -> None:
        self.woken = 0
        self.during: Callable[[], object] = lambda: None
        self.client = SimpleNamespace(_net=SimpleNamespace(poll=self._poll), wakeup=self._wake)

    def sleeps(self, seconds: float | None, during: Callable[[], object]) -> None:
        """Let the thread sleep for this long, and call a function meanwhile."""
        self.during = during
        self.client._net.poll(timeout_ms=None if seconds is None else seconds * 1000)

    def _poll(self, timeout_ms: float | None, future: Any) -> None:
        self.during()

    def _wake(self) -> None:
        self.woken += 1


@pytest.fixture
def thread() -> Thread:
    return Thread()


@pytest.fixture
def sleep(thread: Thread) -> Sleep:
    return Sleep(thread.client)


def due_in(seconds: float) -> float:
    return time.monotonic() + seconds


def test_thread_that_sleeps_for_too_long_is_woken_once(thread: Thread, sleep: Sleep) -> None:
    def append_twice() -> None:
        for _ in range(2):
            sleep.end_by(due_in(5))

    thread.sleeps(60, append_twice)
    assert thread.woken == 1
    thread.sleeps(60, append_twice)
    assert thread.woken == 2


def test_thread_that_sleeps_without_end_is_woken(thread: Thread, sleep: Sleep) -> None:
    thread.sleeps(None, lambda: sleep.end_by(due_in(1e9)))
    assert thread.woken == 1


def test_thread_that_wakes_in_time_is_not_woken(thread: Thread, sleep: Sleep) -> None:
    thread.sleeps(2, lambda: sleep.end_by(due_in(5)))
    assert thread.woken == 0


def test_due_now_ends_even_a_short_sleep(thread: Thread, sleep: Sleep) -> None:
    thread.sleeps(0.001, lambda: sleep.end_by(NOW))
    assert thread.woken == 1


def test_awake_thread_is_woken_once_before_its_next_sleep(thread: Thread, sleep: Sleep) -> None:
    """An awake thread may have checked its batches already. The wake-up ends its next sleep."""
    thread.sleeps(0.001, lambda: None)
    sleep.end_by(due_in(60))
    sleep.end_by(due_in(60))
    assert thread.woken == 1
    thread.sleeps(0.001, lambda: None)
    sleep.end_by(due_in(60))
    assert thread.woken == 2


def test_thread_counts_as_awake_after_poll_has_failed(thread: Thread, sleep: Sleep) -> None:
    def fail() -> None:
        raise OSError("the selector was closed")

    with pytest.raises(OSError, match="the selector"):
        thread.sleeps(1, fail)
    sleep.end_by(due_in(60))
    assert thread.woken == 1
