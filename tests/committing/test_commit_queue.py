"""Commits, one at a time, each shared by its callers: `transport/committing/commit_queue.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.nurseries.clock import jumping
from transport.committing.commit_queue import CommitAttempt, CommitQueue
from transport.errors import AppClosed, CommitRefused, CommitUnknown, Fenced, TransportError
from transport.types import TP

A0, B0 = TP("a", 0), TP("b", 0)


async def nothing(attempt: CommitAttempt) -> None:
    """Make an attempt at once."""


def test_caller_joins_and_widens_an_attempt_that_has_not_begun() -> None:
    queue = CommitQueue(nothing)
    attempt = queue.join(["a"])
    assert queue.join([B0]) is attempt
    assert attempt.topics == {"a", B0}


def test_attempt_for_all_topics_stays_for_all_when_others_join() -> None:
    queue = CommitQueue(nothing)
    attempt = queue.join([A0])
    queue.join(None)
    assert attempt.topics is None
    queue.join([B0])
    assert attempt.topics is None


@jumping
async def test_ended_attempt_is_not_in_flight() -> None:
    queue = CommitQueue(nothing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.run)
        await queue.join(None).wait()
        assert queue.running is None
        with assert_checkpoints():
            assert await queue.wait_for_running() is False
        nursery.cancel_scope.cancel()


@jumping
async def test_wait_for_running_returns_false_before_the_first_attempt() -> None:
    queue = CommitQueue(nothing)
    assert queue.running is None
    assert await queue.wait_for_running() is False


@jumping
async def test_wait_for_running_waits_for_an_attempt_that_has_not_begun() -> None:
    queue = CommitQueue(nothing)
    attempt = queue.join(None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.run)
        assert await queue.wait_for_running() is True
        assert attempt.ended.is_set()
        nursery.cancel_scope.cancel()


@jumping
async def test_attempt_has_its_outcome_when_the_block_around_it_ends() -> None:
    seen: list[object] = []

    @contextmanager
    def around(attempt: CommitAttempt) -> Iterator[None]:
        assert not attempt.ended.is_set()
        yield
        assert attempt.ended.is_set()
        seen.append(attempt.error)

    errors: list[CommitRefused | None] = [CommitRefused("no"), None]

    async def make(attempt: CommitAttempt) -> None:
        if (error := errors[len(seen)]) is not None:
            raise error

    queue = CommitQueue(make, around=around)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.run)
        with pytest.raises(CommitRefused):
            await queue.join(None).wait()
        await queue.join(None).wait()
        nursery.cancel_scope.cancel()
    assert seen == errors


@jumping
async def test_end_raises_commit_unknown_if_the_attempt_had_begun_else_app_closed() -> None:
    told: list[type[Exception]] = []

    async def make(attempt: CommitAttempt) -> None:
        await trio.sleep_forever()

    async def wait(attempt: CommitAttempt) -> None:
        with pytest.raises(TransportError) as raised:
            await attempt.wait()
        told.append(raised.type)

    queue = CommitQueue(make)
    async with trio.open_nursery() as waiting:
        with trio.move_on_after(1.0):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(queue.run)
                waiting.start_soon(wait, queue.join(None))
                await wait_all_tasks_blocked()
                waiting.start_soon(wait, queue.join(None))
    assert sorted(told, key=str) == [AppClosed, CommitUnknown]
    assert queue.running is None


@pytest.mark.parametrize("error", [Fenced, ZeroDivisionError])
@jumping
async def test_fatal_and_unexpected_errors_end_the_queue(error: type[Exception]) -> None:
    async def make(attempt: CommitAttempt) -> None:
        raise error

    queue = CommitQueue(make, fatal=(Fenced,))
    attempt = queue.join(None)
    with pytest.raises(error):
        await queue.run()
    with pytest.raises(Fenced if error is Fenced else CommitUnknown):
        await attempt.wait()


@jumping
async def test_join_raises_app_closed_after_the_end() -> None:
    queue = CommitQueue(nothing)
    with trio.CancelScope() as scope:
        scope.cancel()
        await queue.run()
    with pytest.raises(AppClosed):
        queue.join(None)
