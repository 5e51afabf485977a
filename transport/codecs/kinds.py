"""Questions about a type: its name in an error, its instances, and the types that it is made of."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Union

_VOWELS = "AEIOUaeiou"
_QUALIFIERS = re.compile(r"([\w<>]+\.)+(?=\w)")  # as of `package.module.function.<locals>.Order`


def named(kind: Any) -> str:
    """Return the name of a type with its article, for the text of an error."""
    if isinstance(kind, type) and not typing.get_args(kind):
        name = kind.__name__
    else:
        name = _QUALIFIERS.sub("", repr(kind))
    return f"{'an' if name[:1] in _VOWELS else 'a'} {name}"


def members_of(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, and otherwise the type itself alone."""
    if typing.get_origin(kind) in (Union, types.UnionType):
        return typing.get_args(kind)
    return (kind,)


def without_none(kind: Any) -> Any:
    """Return T for `T | None`, because None is never encoded. Return other types as they are."""
    members = [member for member in members_of(kind) if member is not type(None)]
    return members[0] if len(members) == 1 else kind


def instances_of(kind: Any) -> tuple[type, ...]:
    """Return the classes to which each value of a type belongs.

    They are not exact: a `list[int]` is checked as a list. Empty: they are not known.
    """
    found: list[type] = []
    for member in members_of(kind):
        if typing.get_origin(member) is Annotated:
            member = typing.get_args(member)[0]
        each = typing.get_origin(member) or member
        if typing.is_typeddict(each):
            each = dict
        if each is float:
            found.append(int)
        if not isinstance(each, type) or getattr(each, "_is_protocol", False):
            return ()
        found.append(each)
    return tuple(found)


def parts_of(kind: Any) -> Iterator[Any]:
    """Yield a type, and the types that its unions and generics are made of."""
    yield kind
    for each in typing.get_args(kind):
        yield from parts_of(each)
