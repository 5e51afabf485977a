"""The order of turns: `transport/scheduler.py`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transport.scheduler import RoundRobin


def turns(scheduler: RoundRobin[str], count: int) -> str:
    return "".join(str(scheduler.turn()) for _ in range(count))


def test_items_take_turns_in_the_order_in_which_they_were_added() -> None:
    scheduler: RoundRobin[str] = RoundRobin()
    for item in "bac":
        scheduler.add(item)
    assert turns(scheduler, 7) == "bacbacb"


def test_quantum_is_64_or_as_given() -> None:
    assert RoundRobin().quantum == 64
    assert RoundRobin(1).quantum == 1


def test_item_that_is_added_again_keeps_its_place() -> None:
    scheduler: RoundRobin[str] = RoundRobin()
    scheduler.add("a")
    scheduler.add("b")
    assert scheduler.turn() == "a"
    scheduler.add("a")
    assert turns(scheduler, 2) == "ba"


def test_new_item_has_its_turn_after_the_present_ones() -> None:
    scheduler: RoundRobin[str] = RoundRobin()
    scheduler.add("a")
    scheduler.add("b")
    scheduler.turn()
    scheduler.add("c")
    assert turns(scheduler, 3) == "bac"


def test_discarded_item_has_no_turn() -> None:
    scheduler: RoundRobin[str] = RoundRobin()
    for item in "abc":
        scheduler.add(item)
    scheduler.discard("b")
    scheduler.discard("b")
    assert turns(scheduler, 4) == "acac"


def test_turn_returns_none_without_items() -> None:
    scheduler: RoundRobin[str] = RoundRobin()
    assert scheduler.turn() is None
    scheduler.add("a")
    scheduler.discard("a")
    assert scheduler.turn() is None


@given(st.sets(st.integers(), min_size=1, max_size=20), st.integers(1, 5))
def test_no_item_has_a_second_turn_before_all_had_their_first(items: set[int], rounds: int) -> None:
    scheduler: RoundRobin[int] = RoundRobin()
    for item in items:
        scheduler.add(item)
    for _ in range(rounds):
        assert {scheduler.turn() for _ in items} == items
