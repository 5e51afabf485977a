"""A place in a log, as the options name it: the beginning, the end, an offset, a time or an age."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Collection
from typing import Protocol

import attrs

from transport.command_line.usage import UsageError
from transport.drivers.base import ConsumerClient
from transport.types import TP

_AGE = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>ms|s|m|h|d|w)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_FORMS = "beginning, end, an offset (120), a number before the end (-5), an age (10m), or a time"


class Logs(Protocol):
    """The questions about offsets that places need. An `Admin` answers them."""

    async def beginnings(self, tps: Collection[TP]) -> dict[TP, int]: ...
    async def ends(self, tps: Collection[TP]) -> dict[TP, int]: ...
    async def offsets_at(self, tps: Collection[TP], time: float) -> dict[TP, int]: ...


@attrs.frozen
class LogsOf:
    """The same questions, answered by a consumer's client."""

    client: ConsumerClient

    async def beginnings(self, tps: Collection[TP]) -> dict[TP, int]:
        return await self.client.beginning_offsets(tps)

    async def ends(self, tps: Collection[TP]) -> dict[TP, int]:
        return await self.client.end_offsets(tps)

    async def offsets_at(self, tps: Collection[TP], time: float) -> dict[TP, int]:
        found = await self.client.offsets_for_times(dict.fromkeys(tps, round(time * 1000)))
        return {tp: offset for tp, (offset, _) in found.items()}


@attrs.frozen
class Moment:
    """A place in each log.

    Attributes:
        offset: this offset. Below 0: so many before the end.
        time: the first record since this time, in seconds since 1970.
        is_end: the end, if neither is set; otherwise the beginning.
    """

    offset: int | None = None
    time: float | None = None
    is_end: bool = False

    async def offsets(self, logs: Logs, tps: Collection[TP]) -> dict[TP, int]:
        """Return the offset in each log, within its first offset and its end."""
        beginnings, ends = await logs.beginnings(tps), await logs.ends(tps)
        if self.time is not None:
            found = await logs.offsets_at(tps, self.time)
            wanted = {tp: found.get(tp, ends[tp]) for tp in tps}
        elif self.offset is not None:
            of_end = self.offset < 0
            wanted = {tp: self.offset + (ends[tp] if of_end else 0) for tp in tps}
        else:
            wanted = ends if self.is_end else beginnings
        return {tp: max(beginnings[tp], min(wanted[tp], ends[tp])) for tp in tps}


BEGINNING, END = Moment(), Moment(is_end=True)


def moment_of(option: str, text: str) -> Moment:
    """Return the place that the text of an option names. Raises UsageError."""
    word = text.strip().lower()
    if word in ("beginning", "earliest"):
        return BEGINNING
    if word in ("end", "latest"):
        return END
    if re.fullmatch(r"-?\d+", word):
        return Moment(offset=int(word))
    if (age := seconds_of(word)) is not None:
        return Moment(time=max(0.0, time.time() - age))
    return Moment(time=max(0.0, time_of(option, text, _FORMS)))  # brokers give -1 a meaning


def seconds_of(text: str) -> float | None:
    """Return the seconds of an age such as "10m" or "1.5h"; None: the text is no age."""
    match = _AGE.fullmatch(text)
    return float(match["number"]) * _SECONDS[match["unit"]] if match else None


def time_of(option: str, text: str, forms: str = "a time") -> float:
    """Return seconds since 1970. A time without a zone is in the zone of this machine.

    Raises UsageError.
    """
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise UsageError(
            f"{option} takes {forms} such as 2026-11-27T18:00:00Z, not {text!r}"
        ) from None


def shown_time(seconds: float) -> str:
    """Return a time in the zone of this machine, with milliseconds.

    A producer may have set any number. One beyond the year 9999 stays a number of seconds.
    """
    try:
        moment = datetime.datetime.fromtimestamp(seconds).astimezone()
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.3f}"
    return moment.isoformat(sep=" ", timespec="milliseconds")


def shown_age(seconds: float) -> str:
    """Return a number of seconds in the two largest units, such as "2 h 5 min"."""
    left = round(seconds)
    if left < 60:
        return f"{left} s"
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
