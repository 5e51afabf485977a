"""The verb `lag`: how far a group is behind, once or again and again."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import trio
from cyclopts import Parameter
from rich.console import Group as Lines
from rich.live import Live
from rich.text import Text

from transport.command_line.connection import Connection
from transport.command_line.group_lag import GroupLag, lag_of
from transport.command_line.lag_rates import Progress, progress
from transport.command_line.moments import shown_age
from transport.command_line.output import (
    Json,
    console,
    is_terminal,
    print_json,
    print_rich,
    table_of,
)
from transport.command_line.usage import UsageError

_COLUMNS = ("TOPIC", "PARTITION", "COMMITTED", "END", "LAG")
_OWNER = ("OWNER", "HOST")
_RATES = ("READ/S", "WRITTEN/S", "CAUGHT UP")


async def lag(
    group: str,
    /,
    *,
    topic: Annotated[tuple[str, ...], Parameter(name=("--topic", "-t"), negative="")] = (),
    watch: Annotated[bool, Parameter(name=("--watch", "-w"), negative="")] = False,
    every: float = 2.0,
    json: Json = False,
    connection: Connection = Connection(),
) -> None:
    """Print how many messages a group is behind, with the owner of each partition.

    Example: kafka-nursery lag billing --watch

    Parameters
    ----------
    group:
        The consumer group.
    topic:
        Only this topic. May be repeated.
    watch:
        Repeat it, with rates and the time to catch up. End it with Ctrl-C.
    every:
        Seconds between two repetitions.
    """
    if not every > 0:
        raise UsageError(f"--every takes seconds above 0, not {every:g}")
    async with connection.admin() as admin:
        if not watch:
            _print(await lag_of(admin, group, topic), None, is_json=json)
            return
        with _screen(is_json=json) as show:
            before: tuple[GroupLag, float] | None = None
            while True:
                found, now = await lag_of(admin, group, topic), trio.current_time()
                show(found, None if before is None else progress(*before, found, now))
                before = found, now
                await trio.sleep(every)  # the interval that the user has chosen


@contextlib.contextmanager
def _screen(*, is_json: bool) -> Iterator[Callable[[GroupLag, Progress | None], None]]:
    """Give a function that shows the lag: on a terminal, always at the same place."""
    if is_json or not is_terminal():
        yield lambda found, rates: _print(found, rates, is_json=is_json)
        return
    with Live(console=console(), auto_refresh=False) as live:
        yield lambda found, rates: live.update(_lines(found, rates), refresh=True)


def _print(found: GroupLag, rates: Progress | None, *, is_json: bool) -> None:
    if is_json:
        print_json(_fields(found, rates))
    else:
        print_rich(_lines(found, rates))
    sys.stdout.flush()


def _fields(found: GroupLag, rates: Progress | None) -> dict[str, Any]:
    rows = []
    for each in found.partitions:
        row: dict[str, Any] = {
            "topic": each.tp.topic,
            "partition": each.tp.partition,
            "committed": each.committed,
            "end": each.end,
            "lag": each.lag,
            "owner": each.owner,
            "host": each.host,
        }
        if rates is not None and (rate := rates.partitions.get(each.tp)) is not None:
            row |= {
                "read_per_second": round(rate.read, 3),
                "written_per_second": round(rate.written, 3),
                "seconds_to_catch_up": rate.seconds_to_catch_up(each.lag),
            }
        rows.append(row)
    return {"group": found.group, "state": found.state, "lag": found.total, "partitions": rows}


def _lines(found: GroupLag, rates: Progress | None) -> Lines:
    head = f"{found.group}  {found.state}  lag {found.total:,}"
    if rates is not None:
        total = rates.total
        head += f"  read {total.read:,.1f}/s  written {total.written:,.1f}/s"
        head += f"  caught up {_in_words(total.seconds_to_catch_up(found.total))}"
    rows = []
    for each in found.partitions:
        row: list[object] = [*each.tp, each.committed, each.end, each.lag]
        if rates is not None:
            rate = rates.partitions.get(each.tp)
            row += (
                [None] * 3
                if rate is None
                else [
                    round(rate.read, 1),
                    round(rate.written, 1),
                    _in_words(rate.seconds_to_catch_up(each.lag)),
                ]
            )
        rows.append([*row, each.owner, each.host])
    columns = (*_COLUMNS, *(() if rates is None else _RATES), *_OWNER)
    return Lines(Text(head, style="bold"), table_of(columns, rows))


def _in_words(seconds: float | None) -> str:
    return "not at this rate" if seconds is None else f"in {shown_age(seconds)}"
