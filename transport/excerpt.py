"""Excerpts of texts and lists from outside, short enough for an error or a log line.

A key may have a megabyte, an error of a codec may quote all of it, and a pattern may match ten
thousand topics. Look here for how errors show such values. Nothing here knows trio or Kafka.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby, islice

from transport.types import TP

_MOST_CHARACTERS = 200
_MOST_NAMES = 20


def excerpt(text: str, most: int = _MOST_CHARACTERS) -> str:
    """Return at most `most` characters of a text, with its length, as one printable line."""
    part = text[:most]
    if not part.isprintable():
        part = part.encode("unicode_escape").decode("ascii")[:most]
    return part if len(text) <= most else f"{part}... ({len(text)} characters)"


def excerpt_of(value: object) -> str:
    """Return the `repr` of a value, cut. Long bytes and texts are cut before their `repr`."""
    if isinstance(value, (bytes, bytearray, str)) and len(value) > _MOST_CHARACTERS:
        return f"{value[:_MOST_CHARACTERS]!r}... (length {len(value)})"
    return excerpt(repr(value))


def excerpt_of_error(error: BaseException) -> str:
    """Return the class and text of an error, cut. A UnicodeError's `repr` holds all its input."""
    if isinstance(error, UnicodeError):
        return excerpt(f"{type(error).__name__}: {error}")
    return excerpt(repr(error))


def listed(names: Iterable[object]) -> str:
    """Return names joined by commas: at most the first 20, and the number of the others."""
    every = list(names)
    shown = ", ".join(excerpt(str(name)) for name in islice(every, _MOST_NAMES))
    left = len(every) - _MOST_NAMES
    return shown if left <= 0 else f"{shown} and {left} more"


def ranges(tps: Iterable[TP]) -> str:
    """Return partitions as compact ranges, cut: `orders[0-3,7], users-0`."""
    by_topic: dict[str, list[int]] = {}
    for tp in sorted(set(tps)):
        by_topic.setdefault(tp.topic, []).append(tp.partition)
    return listed(
        f"{topic}[{_runs(numbers)}]" if len(numbers) > 1 else f"{topic}-{numbers[0]}"
        for topic, numbers in by_topic.items()
    )


def _runs(numbers: list[int]) -> str:
    """Return ascending numbers as runs of consecutive ones: `0-3,7`."""
    runs = [
        [number for _, number in run]
        for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    ]
    shown = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs[:_MOST_NAMES]]
    left = sum(map(len, runs[_MOST_NAMES:]))
    return ",".join(shown) + (f" and {left} more" if left else "")
