"""Checks of arguments: topics, partitions, offsets, messages and settings.

Look here when a call refuses an argument. The checks of numbers, texts and functions are those of
`nurseries.arguments`. No check has side effects.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from nurseries.arguments import (
    async_function,
    choice,
    flag,
    function,
    instance,
    is_number,
    or_none,
    plain_function,
    seconds,
    shown,
    text,
    whole,
    wrong_type,
    wrong_value,
)
from transport.types import TP, Headers, HeadersArg

__all__ = [
    "MOST",
    "MOST_OFFSET",
    "MOST_SECONDS",
    "async_function",
    "choice",
    "data",
    "each_partition",
    "flag",
    "function",
    "headers_of",
    "instance",
    "is_number",
    "metadata_text",
    "milliseconds_of",
    "offset",
    "offsets_of",
    "or_none",
    "plain_function",
    "seconds",
    "setting",
    "shown",
    "some_of",
    "text",
    "time",
    "times_of",
    "topic_name",
    "topic_partition",
    "topics_of",
    "whole",
    "wrong_type",
    "wrong_value",
]

# Kafka's protocol stores sizes, partitions and milliseconds in 32 bits, and offsets in 64.
MOST = 2**31 - 1
MOST_SECONDS = MOST // 1000
MOST_OFFSET = 2**63 - 1
# A message's timestamp, in seconds, must lie before the year 10000. Present times in milliseconds
# are far larger, so this bound detects a wrong unit.
_MOST_TIMESTAMP = 253_402_300_800.0
# A broker with default settings accepts 4096 bytes, of which the library uses some for its notes.
_MOST_METADATA = 3800
_UNITS = (("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9))


def setting(
    check: Callable[..., object], *, optional: bool = False, **bounds: Any
) -> Callable[[object, Any, Any], None]:
    """Return an attrs validator that calls `check` with the name and value of the field.

    Args:
        optional: whether None is allowed too.
        bounds: passed to `check`.
    """

    def validate(_: object, attribute: Any, value: Any) -> None:
        if value is not None or not optional:
            check(attribute.name, value, **bounds)

    return validate


# Topics, partitions and offsets


def topic_name(name: str, value: Any) -> None:
    """Check the type of a topic's name. Only the broker knows whether the topic exists."""
    instance(name, value, str, "a topic's name, a str")


def offset(name: str, value: Any) -> int:
    """Check an offset and return it as an int."""
    return whole(name, value, most=MOST_OFFSET)


def topic_partition(name: str, value: Any) -> TP:
    """Check a partition, a TP or another pair of topic name and number; return it as a TP."""
    match value:
        case (str(topic), number) if type(number) is not str:
            return TP(topic, whole(f"the partition in {name}", number, most=MOST))
        case _:
            raise wrong_type(name, "a TP: a topic's name and a partition's number", value)


def each_partition(name: str, values: Iterable[Any]) -> list[TP]:
    """Check partitions; refuse a single TP, because iterating over it yields its two parts."""
    expected = "partitions, such as [TP('orders', 0)]"
    if isinstance(values, (str, bytes, TP)) or not isinstance(values, Iterable):
        raise wrong_type(name, expected, values)
    return [topic_partition(f"each of {name}", value) for value in values]


def some_of(name: str, values: Collection[Any] | None) -> set[str | TP] | None:
    """Check topic names and partitions, mixed; None stands for all of them.

    A single name or TP is refused, because iterating over it yields its parts.
    """
    if values is None:
        return None
    expected = "a set of topics' names and TPs"
    if isinstance(values, TP):
        raise TypeError(f"{name} must be {expected}, not {values!r}: write {{{values!r}}}")
    if isinstance(values, str):
        raise TypeError(
            f"{name} must be {expected}, not {shown(values)}: write {{{shown(values)}}}"
        )
    if isinstance(values, bytes) or not isinstance(values, Iterable):
        raise wrong_type(name, expected, values)
    checked: set[str | TP] = set()
    for value in values:
        if isinstance(value, str):
            checked.add(value)
        elif isinstance(value, tuple):
            checked.add(topic_partition(f"each of {name}", value))
        else:
            raise wrong_type(f"each of {name}", "a topic's name or a TP", value)
    return checked


def topics_of(name: str, first: Any, others: Collection[Any] = ()) -> set[str | TP] | None:
    """Check topic names and partitions: one argument each, or one collection of all as `first`."""
    if isinstance(first, (str, TP)):
        return some_of(name, [first, *others])
    if isinstance(first, Mapping):
        raise TypeError(
            f"{name} must be topics' names and TPs without offsets, not {shown(first)}: the offset"
            " of each partition follows from the acked messages. Write {*offsets} for its keys"
        )
    if others:
        raise TypeError(
            f"{name} must be topics' names and TPs, or one collection of them, not"
            f" {shown(first)} and {len(others)} more"
        )
    return some_of(name, first)


def metadata_text(name: str, value: Any) -> None:
    """Check the text that is stored with a committed offset."""
    instance(name, value, str, "a str or None")
    if (size := len(_encoded(name, value))) > _MOST_METADATA:
        raise ValueError(
            f"{name} must have at most {_MOST_METADATA:,} bytes in UTF-8, not {size:,}: a broker"
            " refuses more"
        )


def time(name: str, value: Any) -> int:
    """Check a time, in seconds since 1970, and return it in milliseconds."""
    if is_number(value) and 0 <= value < _MOST_TIMESTAMP:  # False for nan
        return round(value * 1000)
    expected = "a number of seconds since 1970, before the year 10000"
    if not is_number(value):
        raise wrong_type(name, expected, value)
    error = wrong_value(name, expected, value)
    for unit, factor in _UNITS:
        if _MOST_TIMESTAMP <= value < _MOST_TIMESTAMP * factor:
            raise ValueError(f"{error}; if it is in {unit}, divide it by {factor:,.0f}")
    raise error


def times_of(name: str, values: Any) -> dict[TP, int]:
    """Check times by partition, in seconds since 1970, and return them in milliseconds."""
    if not isinstance(values, Mapping):
        raise wrong_type(name, "a mapping such as {TP('orders', 0): 1767225600.0}", values)
    checked: dict[TP, int] = {}
    for key, value in values.items():
        tp = topic_partition(f"each key of {name}", key)
        checked[tp] = time(f"the time of {tp} in {name}", value)
    return checked


def offsets_of(name: str, values: Any, *, optional: bool = False) -> dict[TP, Any]:
    """Check offsets by partition.

    Args:
        optional: whether an offset may be None.
    """
    if not isinstance(values, Mapping):
        raise wrong_type(name, "a mapping such as {TP('orders', 0): 42}", values)
    checked: dict[TP, Any] = {}
    for key, value in values.items():
        tp = topic_partition(f"each key of {name}", key)
        if value is None and optional:
            checked[tp] = None
        else:
            checked[tp] = offset(f"the offset of {tp} in {name}", value)
    return checked


# Messages. The text with the topic and the argument is built only for an error, to save time.


def data(name: str, topic: str, value: Any) -> bytes | None:
    """Check a key or a value that no codec encodes, and return it as bytes or None."""
    if value is None or type(value) is bytes:
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise wrong_type(f"the {name} of a message for {topic!r}", "bytes or None", value)


def milliseconds_of(topic: str, timestamp: Any) -> int | None:
    """Check a message's timestamp, in seconds since 1970, and return it in milliseconds."""
    if timestamp is None:
        return None
    if is_number(timestamp) and 0 <= timestamp < _MOST_TIMESTAMP:  # False for nan
        return round(timestamp * 1000)
    return time(f"the timestamp of a message for {topic!r}", timestamp)


def headers_of(topic: str, headers: HeadersArg) -> Headers:
    """Check the headers of a message, and return them as pairs of a name and bytes or None."""
    if headers is None:
        return ()
    what = f"the headers of a message for {topic!r}"
    expected = "pairs, or a mapping, of str to bytes or None"
    if isinstance(headers, (str, bytes)) or not isinstance(headers, Iterable):
        raise wrong_type(what, expected, headers)
    pairs: list[tuple[str, bytes | None]] = []
    for pair in headers.items() if isinstance(headers, Mapping) else headers:
        match pair:
            case (str(name), None | bytes()):
                pairs.append((name, pair[1]))
            case _:
                raise TypeError(f"{what} must be {expected}; one is {shown(pair)}")
        if not name.isascii():
            _encoded(f"each name in {what}", name)
    return pairs


def _encoded(what: str, value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} must be text that UTF-8 can encode, not {shown(value)}") from None
