"""Commits one at a time, each shared by all who want it: `transport/rounds.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from tests.nurseries.clock import jumping
from transport.errors import AppClosed, CommitRefused
from transport.rounds import Round, Rounds
from transport.types import TP

A0, B0 = TP("a", 0), TP("b", 0)


async def nothing(round_: Round) -> None:
    """Make a round at once."""


def test_a_round_that_has_not_begun_is_joined_and_widened() -> None:
    rounds = Rounds(nothing)
    round_ = rounds.join(["a"])
    assert rounds.join([B0]) is round_
    assert round_.topics == {"a", B0}


def test_a_round_of_all_is_of_all_whoever_joins() -> None:
    rounds = Rounds(nothing)
    round_ = rounds.join([A0])
    rounds.join(None)
    assert round_.topics is None
    rounds.join([B0])
    assert round_.topics is None


@jumping
async def test_a_round_that_is_made_is_not_under_way_any_more() -> None:
    rounds = Rounds(nothing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rounds.run)
        await rounds.join(None).wait()
        assert rounds.running is None
        assert not await rounds.wait_for_running()
        nursery.cancel_scope.cancel()


@jumping
async def test_each_round_has_its_outcome_when_what_is_around_it_ends() -> None:
    seen: list[object] = []

    @contextmanager
    def around(round_: Round) -> Iterator[None]:
        assert not round_.ended.is_set()
        yield
        assert round_.ended.is_set()
        seen.append(round_.error)

    errors: list[CommitRefused | None] = [CommitRefused("no"), None]

    async def make(round_: Round) -> None:
        if (error := errors[len(seen)]) is not None:
            raise error

    rounds = Rounds(make, around=around)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rounds.run)
        with pytest.raises(CommitRefused):
            await rounds.join(None).wait()
        await rounds.join(None).wait()
        nursery.cancel_scope.cancel()
    assert seen == errors


@jumping
async def test_after_the_end_no_round_is_joined() -> None:
    rounds = Rounds(nothing)
    with trio.CancelScope() as scope:
        scope.cancel()
        await rounds.run()
    with pytest.raises(AppClosed):
        rounds.join(None)
