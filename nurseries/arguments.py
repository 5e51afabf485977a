"""Checks of arguments, to be made before a call changes anything. No I/O.

Each check raises an error that names the argument, the expected value and the given value. A value
of a wrong type raises a TypeError, a value out of range a ValueError. A bool does not count as a
number.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import reprlib
from collections.abc import Callable
from typing import Any, SupportsIndex, TypeGuard, cast

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60


def shown(value: object) -> str:
    """Return the repr of a value, cut to a length that fits into an error."""
    try:
        return _short.repr(value)
    except Exception:  # noqa: BLE001 - whatever the repr of a foreign object raises
        return f"an object of type {type(value).__name__}"


def wrong_type(name: str, expected: str, value: object) -> TypeError:
    """Return the error for a value of a wrong type."""
    if value is None:
        return TypeError(f"{name} must be {expected}, not None")
    return TypeError(f"{name} must be {expected}, not {shown(value)} ({type(value).__name__})")


def wrong_value(name: str, expected: str, value: object) -> ValueError:
    """Return the error for a value that is out of range."""
    return ValueError(f"{name} must be {expected}, not {shown(value)}")


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is an int or a float. A bool does not count."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def seconds(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    most: float | None = None,
    finite: bool = True,
) -> None:
    """Check a duration.

    Args:
        least: the smallest value. None: any value above 0.
        most: the largest value. None: no limit.
        finite: whether infinity is refused.
    """
    low = "more than 0" if least is None else f"{least:g} or more"
    expected = f"a {'finite ' if finite else ''}number of seconds, {low}"
    if most is not None:
        expected += f" and at most {most:,g}" if most < 1e6 else f" and at most {most:,.0f}"
    if not is_number(value):
        raise wrong_type(name, expected, value)
    is_enough = value > 0 if least is None else value >= least  # False for nan
    if not is_enough or (finite and value == math.inf) or (most is not None and value > most):
        raise wrong_value(name, expected, value)


def whole(name: str, value: Any, *, least: int = 0, most: int | None = None) -> int:
    """Check a whole number and return it as an int.

    Args:
        least: the smallest value.
        most: the largest value. None: no limit.
    """
    if type(value) is not int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise wrong_type(name, f"a whole number, {least} or more", value)
        value = operator.index(cast(SupportsIndex, value))
    if value < least:
        raise wrong_value(name, f"a whole number, {least} or more", value)
    if most is not None and value > most:
        raise wrong_value(name, f"a whole number, {most} or less", value)
    return int(value)


def text(name: str, value: Any) -> None:
    """Check a str that is not empty."""
    if not isinstance(value, str):
        raise wrong_type(name, "a str", value)
    if not value:
        raise wrong_value(name, "a str that is not empty", value)


def flag(name: str, value: Any) -> None:
    """Check a bool."""
    if not isinstance(value, bool):
        raise wrong_type(name, "True or False", value)


def function(name: str, value: Any, expected: str = "a function") -> None:
    """Check that a value can be called."""
    if not callable(value):
        raise wrong_type(name, expected, value)


def plain_function(name: str, value: Any, expected: str = "a function") -> None:
    """Check that a value can be called and is not an async function.

    An async function would seem to work: the coroutine that it returns counts as a true value.
    """
    function(name, value, expected)
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(value.__call__):
        raise wrong_type(name, f"{expected} that is not async", value)


def async_function(name: str, value: Any, expected: str) -> None:
    """Check that a value is an async function of one argument.

    Partial functions, bound methods and functions with a `__wrapped__` async function are, too.
    Lambdas and other objects are accepted, because only a call shows what they return.
    """
    function(name, value, expected)
    called = value
    while isinstance(called, functools.partial):
        called = called.func
    if inspect.isfunction(called) or inspect.ismethod(called):
        called = inspect.unwrap(called)
        is_lambda = called.__name__ == "<lambda>"
        is_async = is_lambda or inspect.iscoroutinefunction(called)
    else:
        is_async = not isinstance(called, type)
    if not is_async:
        raise wrong_type(name, f"{expected}, made with `async def` and without `yield`", value)
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return  # not a function of Python
    try:
        signature.bind(None)
    except TypeError as error:
        raise TypeError(
            f"{name} must be {expected}, its only argument, not {shown(value)}: {error}"
        ) from None


def instance(name: str, value: Any, kind: type | tuple[type, ...], expected: str) -> None:
    """Check the type of a value."""
    if not isinstance(value, kind):
        raise wrong_type(name, expected, value)


def choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Check that a value is one of the choices."""
    like = [each for each in choices if _is_like(value, each)]
    if value not in like:
        expected = f"one of {', '.join(repr(each) for each in choices)}"
        raise (wrong_value if like else wrong_type)(name, expected, value)


def _is_like(value: object, other: object) -> bool:
    """Return whether two values have the same type. True is not 1."""
    return isinstance(value, type(other)) and isinstance(value, bool) == isinstance(other, bool)


def or_none(check: Callable[..., object], name: str, value: Any, **bounds: Any) -> None:
    """Run a check unless the value is None."""
    if value is not None:
        check(name, value, **bounds)
