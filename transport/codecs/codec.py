"""`Codec`, a pair of functions that encode and decode, and the types that a topic accepts."""

from __future__ import annotations

import abc
import types
from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar

import attrs

from transport.arguments import function, setting

T = TypeVar("T")
# Covariant, so that the codec of a type also serves for topics where the value may be None.
T_co = TypeVar("T_co", covariant=True)


@attrs.frozen
class Codec(Generic[T_co]):
    """A pair of functions that encode and decode keys or values of one type.

    None stays None without a call (a tombstone).

    Attributes:
        encode: returns the bytes of a value. Raises TypeError or ValueError: it cannot.
        decode: returns the value of bytes. Raises any error: it cannot.
        expected: the type for the texts of errors, with its article, such as "an Order". Empty:
            the errors do not name it.
        instances: the classes whose instances may be encoded. Empty: `encode` checks the value.
        identity: two codecs with equal identities decode alike, so topic objects share what they
            decode. The default is the two functions.
    """

    encode: Callable[[T_co], bytes] = attrs.field(validator=setting(function), eq=False)
    decode: Callable[[bytes], T_co] = attrs.field(validator=setting(function), eq=False)
    expected: str = attrs.field(default="", eq=False, kw_only=True)
    instances: tuple[type, ...] = attrs.field(default=(), eq=False, kw_only=True)
    identity: object = attrs.field(
        default=attrs.Factory(lambda self: (self.encode, self.decode), takes_self=True),
        kw_only=True,
        repr=False,
    )


class TopicType(abc.ABC, Generic[T_co]):
    """A key or value type whose codec depends on the topic, as that of a schema registry does."""

    @abc.abstractmethod
    def codec(self, topic: str, part: str) -> Codec[T_co]:
        """Return the codec for the keys or the values of a topic. Not a checkpoint.

        Args:
            topic: the topic's name, or the text of its pattern.
            part: "key" or "value".
        """


CodecArg: TypeAlias = type[T] | Codec[T] | TopicType[T] | types.UnionType | None
"""The argument `key_type` or `value_type` of a topic with keys or values of this type."""
