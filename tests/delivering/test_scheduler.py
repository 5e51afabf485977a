"""Whose turn it is: `transport/scheduler.py`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transport.scheduler import RoundRobin


def turns(scheduler: RoundRobin[str], count: int) -> str:
    return "".join(str(scheduler.turn()) for _ in range(count))


def test_each_has_its_turn_in_the_order_in_which_they_came() -> None:
    scheduler: RoundRobin[str] = RoundRobin()
    for item in "bac":
        scheduler.add(item)
    assert turns(scheduler, 7) == "bacbacb"


def test_a_turn_is_of_64_messages_or_as_it_is_asked_for() -> None:
    assert RoundRobin().quantum == 64
    assert RoundRobin(1).quantum == 1


def test_one_that_takes_part_already_keeps_its_place() -> None:
    scheduler: RoundRobin[str] = RoundRobin()
    scheduler.add("a")
    scheduler.add("b")
    assert scheduler.turn() == "a"
    scheduler.add("a")
    assert turns(scheduler, 2) == "ba"


def test_one_that_comes_waits_for_those_who_are_there() -> None:
    scheduler: RoundRobin[str] = RoundRobin()
    scheduler.add("a")
    scheduler.add("b")
    scheduler.turn()
    scheduler.add("c")
    assert turns(scheduler, 3) == "bac"


def test_one_that_is_gone_has_no_turn() -> None:
    scheduler: RoundRobin[str] = RoundRobin()
    for item in "abc":
        scheduler.add(item)
    scheduler.discard("b")
    scheduler.discard("b")
    assert turns(scheduler, 4) == "acac"


def test_without_any_there_is_no_turn() -> None:
    scheduler: RoundRobin[str] = RoundRobin()
    assert scheduler.turn() is None
    scheduler.add("a")
    scheduler.discard("a")
    assert scheduler.turn() is None


@given(st.sets(st.integers(), min_size=1, max_size=20), st.integers(1, 5))
def test_nobody_has_a_second_turn_before_all_had_their_first(items: set[int], rounds: int) -> None:
    scheduler: RoundRobin[int] = RoundRobin()
    for item in items:
        scheduler.add(item)
    for _ in range(rounds):
        assert {scheduler.turn() for _ in items} == items
