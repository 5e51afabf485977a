"""`transport/backoff.py`: the waits between tries, and the time after which no try is made."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.nurseries.clock import jumping
from transport.backoff import Backoff


@jumping
async def test_each_wait_doubles_up_to_the_longest() -> None:
    backoff = Backoff(longest=0.1)
    waits = []
    for _ in range(5):
        before = trio.current_time()
        await backoff.wait()
        waits.append(trio.current_time() - before)
    assert waits == pytest.approx([0.02, 0.04, 0.08, 0.1, 0.1])


@jumping
async def test_a_backoff_is_spent_when_the_next_try_would_come_after_the_patience() -> None:
    await trio.sleep(5)
    backoff = Backoff(longest=0.02, patience=0.05)
    tries = 1
    while not backoff.is_spent:
        await backoff.wait()
        tries += 1
    assert tries == 3  # at 0, 0.02 and 0.04 s


@jumping
async def test_a_try_at_the_end_of_the_patience_is_made() -> None:
    assert not Backoff(longest=1, patience=0.02).is_spent
    assert Backoff(longest=1, patience=0.019).is_spent


@jumping
async def test_a_backoff_without_patience_is_never_spent() -> None:
    backoff = Backoff(longest=100.0)
    for _ in range(30):
        await backoff.wait()
    assert not backoff.is_spent
