"""Commits one at a time, each shared by all who want it: `transport/committing/commit_queue.py`."""

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
    """Make a round at once."""


def test_a_round_that_has_not_begun_is_joined_and_widened() -> None:
    rounds = CommitQueue(nothing)
    attempt = rounds.join(["a"])
    assert rounds.join([B0]) is attempt
    assert attempt.topics == {"a", B0}


def test_a_round_of_all_is_of_all_whoever_joins() -> None:
    rounds = CommitQueue(nothing)
    attempt = rounds.join([A0])
    rounds.join(None)
    assert attempt.topics is None
    rounds.join([B0])
    assert attempt.topics is None


@jumping
async def test_a_round_that_is_made_is_not_under_way_any_more() -> None:
    rounds = CommitQueue(nothing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rounds.run)
        await rounds.join(None).wait()
        assert rounds.running is None
        with assert_checkpoints():
            assert await rounds.wait_for_running() is False
        nursery.cancel_scope.cancel()


@jumping
async def test_before_the_first_round_there_is_none_to_wait_for() -> None:
    rounds = CommitQueue(nothing)
    assert rounds.running is None
    assert await rounds.wait_for_running() is False


@jumping
async def test_a_round_that_is_about_to_begin_is_waited_for_as_one_under_way() -> None:
    rounds = CommitQueue(nothing)
    attempt = rounds.join(None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rounds.run)
        assert await rounds.wait_for_running() is True
        assert attempt.ended.is_set()
        nursery.cancel_scope.cancel()


@jumping
async def test_each_round_has_its_outcome_when_what_is_around_it_ends() -> None:
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

    rounds = CommitQueue(make, around=around)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rounds.run)
        with pytest.raises(CommitRefused):
            await rounds.join(None).wait()
        await rounds.join(None).wait()
        nursery.cancel_scope.cancel()
    assert seen == errors


@jumping
async def test_the_end_tells_who_waits_whether_their_round_had_begun() -> None:
    told: list[type[Exception]] = []

    async def make(attempt: CommitAttempt) -> None:
        await trio.sleep_forever()

    async def wait(attempt: CommitAttempt) -> None:
        with pytest.raises(TransportError) as raised:
            await attempt.wait()
        told.append(raised.type)

    rounds = CommitQueue(make)
    async with trio.open_nursery() as waiting:
        with trio.move_on_after(1.0):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rounds.run)
                waiting.start_soon(wait, rounds.join(None))
                await wait_all_tasks_blocked()
                waiting.start_soon(wait, rounds.join(None))
    assert sorted(told, key=str) == [AppClosed, CommitUnknown]
    assert rounds.running is None


@pytest.mark.parametrize("error", [Fenced, ZeroDivisionError])
@jumping
async def test_a_fatal_error_and_one_of_our_own_end_all_rounds(error: type[Exception]) -> None:
    async def make(attempt: CommitAttempt) -> None:
        raise error

    rounds = CommitQueue(make, fatal=(Fenced,))
    attempt = rounds.join(None)
    with pytest.raises(error):
        await rounds.run()
    with pytest.raises(Fenced if error is Fenced else CommitUnknown):
        await attempt.wait()


@jumping
async def test_after_the_end_no_round_is_joined() -> None:
    rounds = CommitQueue(nothing)
    with trio.CancelScope() as scope:
        scope.cancel()
        await rounds.run()
    with pytest.raises(AppClosed):
        rounds.join(None)
