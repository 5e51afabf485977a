"""The errors in nested exception groups."""

from __future__ import annotations

from transport.leaves import leaves


def test_leaves_are_the_errors_of_nested_groups_in_order() -> None:
    one, two, three = ValueError("1"), KeyboardInterrupt(), ValueError("3")
    nested = BaseExceptionGroup("outer", [one, BaseExceptionGroup("inner", [two, three])])
    assert list(leaves(nested)) == [one, two, three]


def test_an_error_alone_is_its_own_leaf_and_none_has_no_leaf() -> None:
    error = ValueError("alone")
    assert list(leaves(error)) == [error]
    assert list(leaves(None)) == []
