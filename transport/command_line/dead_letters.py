"""The verb `dead-letters`: list, show and redrive the messages whose handler has failed."""

from __future__ import annotations

import collections
import contextlib
import sys
from collections.abc import Collection
from typing import Annotated, Any

from cyclopts import App, Parameter

from transport.command_line.connection import Connection
from transport.command_line.letter import Letter, LetterFilter, checked_place, letter_of
from transport.command_line.moments import BEGINNING, END, Moment
from transport.command_line.output import Json, print_fields, print_json, print_rows
from transport.command_line.progress import counting
from transport.command_line.reader import reading
from transport.command_line.receipts import redriven_letters
from transport.command_line.record_lines import shown
from transport.command_line.redrive import Outcome, Redrive
from transport.command_line.types import Types
from transport.drivers.admin import Admin
from transport.errors import AuthorizationFailed, TransportError
from transport.excerpt import listed

dead_letters = App(
    name="dead-letters", help="List, show and redrive messages whose handler has failed."
)

_COLUMNS = ("letter", "source", "handler", "error", "text", "attempts", "redrives", "redriven")


@dead_letters.command(name="list")
async def list_letters(
    topic: str,
    /,
    *,
    count: Annotated[int, Parameter(name=("--count", "-n"))] = 100,
    filter: LetterFilter = LetterFilter(),
    json: Json = False,
    connection: Connection = Connection(),
) -> None:
    """List the last dead letters of a topic, with the reasons of their failures.

    Example: kafka-nursery dead-letters list orders.dead --error ValueError

    Parameters
    ----------
    topic:
        The dead-letter topic.
    count:
        The most letters: the last ones of those that pass the filter.
    """
    passes = filter.compiled()
    kept: collections.deque[Letter] = collections.deque(maxlen=max(0, count))
    async with connection.admin() as admin:
        described = await admin.topic(topic)
    redriven: Collection[str] | None = None
    with contextlib.suppress(AuthorizationFailed):  # the right to see the receipts may be missing
        redriven = await redriven_letters(connection, described)
    async with reading(connection.reader(), topic, BEGINNING, END) as reader:
        while not reader.is_at_end:
            letters = (letter_of(tp, record) for tp, record in await reader.take())
            kept.extend(each for each in letters if each is not None and passes(each))
    rows = (
        {**each.fields(), "redriven": None if redriven is None else each.place in redriven}
        for each in kept
    )
    print_rows(rows, _COLUMNS, is_json=json)


@dead_letters.command
async def show(
    topic: str,
    letter: str,
    /,
    *,
    types: Types = Types(),
    json: Json = False,
    connection: Connection = Connection(),
) -> None:
    """Show one dead letter: its message, and the error with its stack.

    Example: kafka-nursery dead-letters show orders.dead 0@17

    Parameters
    ----------
    topic:
        The dead-letter topic.
    letter:
        The letter, as list names it: PARTITION@OFFSET.
    """
    partition, offset = checked_place(letter)
    key_type, value_type = types.of(topic)
    span = Moment(offset=offset), Moment(offset=offset + 1)
    async with reading(connection.reader(), topic, *span, [partition]) as reader:
        while not reader.is_at_end:
            for tp, record in await reader.take():
                found = letter_of(tp, record)
                if found is None:
                    raise TransportError(f"{letter} of {topic!r} is no dead letter")
                message = await shown(tp, record, key_type, value_type)
                if json:
                    print_json({**message.as_json(), "dead": found.facts})
                else:
                    _print_letter(found, message.text("key"), message.text("value"))
                return
    raise TransportError(f"{topic!r} has no letter {letter}: it is gone, or was never there")


def _print_letter(letter: Letter, key: str, value: str) -> None:
    facts = dict(letter.facts)
    stack = facts.pop("stack", "")
    print_fields({"letter": letter.place, **facts, "key": key, "value": value})
    for line in stack.splitlines():
        print_fields({"stack": line})


@dead_letters.command
async def redrive(
    topic: str,
    /,
    *,
    filter: LetterFilter = LetterFilter(),
    to: str | None = None,
    dry_run: Annotated[bool, Parameter(name=("--dry-run", "-n"), negative="")] = False,
    json: Json = False,
    connection: Connection = Connection(),
) -> None:
    """Send dead letters back to their source topics, each exactly once.

    Every group that reads a source topic gets these messages again, not only the group whose
    handler has failed. A receipt of each letter goes to the topic TOPIC.redriven, in the same
    transaction. After a crash or an error, run the command again: it skips the letters that have a
    receipt.

    Example: kafka-nursery dead-letters redrive orders.dead --handler bill --dry-run

    Parameters
    ----------
    topic:
        The dead-letter topic.
    to:
        Send all letters to this topic instead of their sources.
    dry_run:
        Print what would be sent, and which groups would read it. Send nothing.
    """
    passes = filter.compiled()
    async with connection.admin() as admin:
        work = Redrive(connection, admin, await admin.topic(topic), passes, to)
        if dry_run:
            outcome = await work.plan()
            readers = await _groups_of(admin, {name for name, _, _ in outcome.chosen})
            _print_outcome(outcome, is_json=json, groups=readers)
            return
        with counting("redrove", topic) as show_count:
            outcome = await work.run(show_count)
    _print_outcome(outcome, is_json=json)


async def _groups_of(admin: Admin, topics: Collection[str]) -> list[str]:
    """Return the groups that have committed offsets of the topics."""
    return [
        each.id
        for each in await admin.groups()
        if any(tp.topic in topics for tp in await admin.committed(each.id))
    ]


def _print_outcome(outcome: Outcome, *, is_json: bool, groups: list[str] | None = None) -> None:
    rows = [
        {"to": target, "handler": handler, "error": error, "letters": number}
        for (target, handler, error), number in sorted(outcome.chosen.items())
    ]
    totals: dict[str, Any] = {
        "letters": outcome.chosen.total(),
        "redriven": outcome.redriven,
        "redriven_before": outcome.before,
    }
    if is_json:
        print_json({**totals, "groups": groups, "reasons": rows})
        return
    if rows:
        print_rows(rows, ("to", "handler", "error", "letters"))
    print_fields({**totals, "groups": listed(groups) if groups else None})
    if groups:
        sys.stdout.flush()
        print("kafka-nursery: each of these groups would get the messages again", file=sys.stderr)
