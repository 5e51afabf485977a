"""The sleep of a producer's network thread: a wake-up that is needed is never left out."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from transport.drivers.kafka.sleep import NOW, Sleep


class Thread:
    """The parts of a producer of the client that `Sleep` uses; the thread runs `during` asleep."""

    def __init__(self) -> None:
        self.woken = 0
        self.during: Callable[[], object] = lambda: None
        self.client = SimpleNamespace(poll=self._poll)
        self._sender = SimpleNamespace(_client=self.client, wakeup=self._wake)

    def sleeps(self, seconds: float | None, during: Callable[[], object]) -> None:
        """Let the thread sleep for this long, and call a function meanwhile."""
        self.during = during
        self.client.poll(timeout_ms=None if seconds is None else seconds * 1000)

    def _poll(self, timeout_ms: float | None, future: Any) -> None:
        self.during()

    def _wake(self) -> None:
        self.woken += 1


@pytest.fixture
def thread() -> Thread:
    return Thread()


@pytest.fixture
def sleep(thread: Thread) -> Sleep:
    return Sleep(thread)


def test_a_thread_that_sleeps_for_too_long_is_woken_once(thread: Thread, sleep: Sleep) -> None:
    def append_twice() -> None:
        for _ in range(2):
            sleep.end_by(time.monotonic() + 5)

    thread.sleeps(60, append_twice)
    assert thread.woken == 1
    thread.sleeps(60, append_twice)
    assert thread.woken == 2


def test_a_thread_that_sleeps_without_end_is_woken(thread: Thread, sleep: Sleep) -> None:
    thread.sleeps(None, lambda: sleep.end_by(time.monotonic() + 1e9))
    assert thread.woken == 1


def test_a_thread_that_wakes_in_time_is_not_woken(thread: Thread, sleep: Sleep) -> None:
    thread.sleeps(2, lambda: sleep.end_by(time.monotonic() + 5))
    assert thread.woken == 0


def test_what_is_due_now_wakes_a_thread_that_sleeps_briefly(thread: Thread, sleep: Sleep) -> None:
    thread.sleeps(0.001, lambda: sleep.end_by(NOW))
    assert thread.woken == 1


def test_an_awake_thread_is_woken_because_it_may_have_checked_its_batches(
    thread: Thread, sleep: Sleep
) -> None:
    sleep.end_by(time.monotonic() + 60)
    thread.sleeps(0.001, lambda: None)
    sleep.end_by(time.monotonic() + 60)
    assert thread.woken == 2


def test_a_sleep_that_ends_with_an_error_has_ended(thread: Thread, sleep: Sleep) -> None:
    def fail() -> None:
        raise OSError("the selector was closed")

    with pytest.raises(OSError, match="the selector"):
        thread.sleeps(1, fail)
    sleep.end_by(time.monotonic() + 60)
    assert thread.woken == 1
