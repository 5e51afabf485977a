"""`Books`: when the committed offsets of a group may go back (I2)."""

from __future__ import annotations

import pytest

from transport.testing.invariants import Books, InvariantViolated
from transport.types import TP

ORDERS = TP("orders", 0)


def books_after(*events: tuple[str, int]) -> Books:
    """Return books after these events, in this order."""
    books = Books()
    for kind, offset in events:
        if kind == "seek":
            books.on_sought(ORDERS, offset)
        else:
            books.on_committed({ORDERS: offset})
    return books


def test_commit_that_goes_back_without_a_seek_is_a_violation() -> None:
    books = books_after(("commit", 5))
    with pytest.raises(InvariantViolated, match="I2: orders-0 was committed at 5, and now at 4"):
        books.on_committed({ORDERS: 4})


def test_only_the_commit_after_a_seek_may_go_back() -> None:
    books = books_after(("commit", 5), ("seek", 1), ("commit", 1), ("commit", 3))
    with pytest.raises(InvariantViolated):
        books.on_committed({ORDERS: 2})


def test_one_commit_may_be_in_flight_during_a_seek() -> None:
    books = books_after(("commit", 5), ("seek", 1), ("commit", 6), ("commit", 1))
    assert books.committed == {ORDERS: 1}


def test_second_commit_in_flight_during_a_seek_is_a_violation() -> None:
    books = books_after(("commit", 5), ("seek", 1), ("commit", 6), ("commit", 7))
    with pytest.raises(InvariantViolated):
        books.on_committed({ORDERS: 1})
