"""The verb `tree`: the state of running apps of this user, from their status sockets."""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import trio
from cyclopts import Parameter
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from nurseries import Node
from transport.command_line.output import (
    Json,
    console,
    is_terminal,
    print_json,
    print_rich,
    printable,
    table_of,
)
from transport.command_line.status_rates import StatusRates
from transport.command_line.usage import UsageError
from transport.inspecting.status import Status
from transport.inspecting.status_socket import check_system, status_folder, status_sockets

_TIMEOUT = 5.0  # seconds for an app to answer
_NUMBERED = re.compile(r"(.+) \d+")


class AppNotFound(ValueError):
    """No running app has answered. The text says which socket was tried."""


async def tree(
    app: str | None = None,
    /,
    *,
    watch: Annotated[bool, Parameter(name=("--watch", "-w"), negative="")] = False,
    every: float = 1.0,
    json: Json = False,
) -> None:
    """Print the state of running apps: partitions, handlers, and the tree of tasks.

    An app answers if its setting status_socket is "auto" or a path, as KAFKA_NURSERY_STATUS_SOCKET
    sets it. Only apps of the same user on this machine are found.

    Example: kafka-nursery tree enrichment --watch

    Parameters
    ----------
    app:
        The id of an app, or the path of its socket. By default, all apps in the folder of sockets.
    watch:
        Repeat it, with rates. End it with Ctrl-C.
    every:
        Seconds between two repetitions.
    """
    if not every > 0:
        raise UsageError(f"--every takes seconds above 0, not {every:g}")
    rates = StatusRates()
    with _screen() as live:
        while True:
            found = await _statuses(app)
            rates.add(found)
            if json:
                for status in found:
                    print_json(status)
            elif live is not None and watch:
                live.update(_lines(found, rates), refresh=True)
            else:
                print_rich(_lines(found, rates))
            sys.stdout.flush()
            if not watch:
                return
            await trio.sleep(every)  # the interval that the user has chosen


@contextlib.contextmanager
def _screen() -> Iterator[Live | None]:
    """Give a screen on a terminal."""
    if not is_terminal():
        yield None
        return
    with Live(console=console(), auto_refresh=False, transient=False) as live:
        yield live


async def _statuses(app: str | None) -> list[Status]:
    """Return the statuses of the apps that answer. Raises AppNotFound, or a group of them.

    An app that does not answer must not hide the others: stderr has one line for it. Raises OSError
    if this system has no such sockets.
    """
    check_system()
    is_path = app is not None and "/" in app
    if app is not None and is_path and (found := await _read(Path(app))) is not None:
        return [found]
    statuses, failures = await _read_all(status_sockets())
    wanted = [each for each in statuses if app in (None, each.app)]
    if app is None and wanted:
        for failure in failures:
            print(f"kafka-nursery: {failure}", file=sys.stderr)
    if wanted:
        return wanted
    if failures:
        raise ExceptionGroup("no app has answered", failures)
    if is_path:
        raise AppNotFound(f"no app listens at {app}, and no app of this user has this id")
    which = "no app" if app is None else f"no app {app!r}"
    raise AppNotFound(
        f"{which} of this user has a status socket in {status_folder()}: run it with the"
        ' setting status_socket="auto", or give the path of its socket'
    )


@trio.lowlevel.enable_ki_protection
async def _read_all(paths: Sequence[Path]) -> tuple[list[Status], list[AppNotFound]]:
    """Return the statuses behind sockets, in their order, and the errors of the other ones."""
    answers: dict[Path, Status | AppNotFound | None] = {}

    async def read(path: Path) -> None:
        try:
            answers[path] = await _read(path)
        except AppNotFound as error:
            answers[path] = error

    async with trio.open_nursery() as nursery:
        for path in paths:
            nursery.start_soon(read, path)
    found = [answers[path] for path in paths]
    return (
        [each for each in found if isinstance(each, Status)],
        [each for each in found if isinstance(each, AppNotFound)],
    )


@trio.lowlevel.enable_ki_protection
async def _read(path: Path) -> Status | None:
    """Return the status of the app behind a socket; None: no app listens there, or it has ended.

    Raises AppNotFound: the app does not answer, or no app of this library does.
    """
    try:
        with trio.fail_after(_TIMEOUT):
            async with await trio.open_unix_socket(str(path)) as stream:
                received = b"".join([part async for part in stream])
    except (FileNotFoundError, ConnectionRefusedError, trio.BrokenResourceError):
        return None
    except trio.TooSlowError as error:
        raise AppNotFound(f"the app at {path} does not answer within {_TIMEOUT:g} s") from error
    except OSError as error:
        raise AppNotFound(f"no connection to {path} can be made: {error.strerror}") from error
    if not received:
        return None
    try:
        return msgspec.json.decode(received, type=Status)
    except msgspec.DecodeError as error:
        raise AppNotFound(
            f"the program at {path} sends no status: it is no app of kafka-nursery, or of another"
            f" version of it ({error})"
        ) from error


def _lines(statuses: Sequence[Status], rates: StatusRates) -> Lines:
    return Lines(*(line for status in statuses for line in _of_app(status, rates)))


def _of_app(status: Status, rates: StatusRates) -> Iterator[RenderableType]:
    member = {None: "reads no topic", True: "member", False: "not a member"}[status.is_member]
    head = f"{status.app}  pid {status.pid}  {member}  generation {status.generation}"
    yield Text(printable(f"{head}  {status.in_flight} in flight  {status.client}"), style="bold")
    if status.partitions:
        yield table_of(
            ("PARTITION", "LAG", "COMMITTED", "END", "WAITING", "UNACKED", "ACKED/S", "STATE"),
            [_partition_row(status, at, rates) for at in range(len(status.partitions))],
        )
    if status.handlers:
        yield table_of(
            ("HANDLER", "TOPIC", "RUNNING", "WAITING", "HANDLED", "HANDLED/S", "FAILED", "DEAD"),
            [_handler_row(status, at, rates) for at in range(len(status.handlers))],
        )
    yield _tree(status.tree)


def _partition_row(status: Status, at: int, rates: StatusRates) -> list[Any]:
    each = status.partitions[at]
    return [
        str(each),
        each.lag,
        each.committed,
        each.highwater,
        each.waiting,
        each.unacked,
        rates.of_partition(status, each),
        each.stuck or ("paused" if each.is_paused else ""),
    ]


def _handler_row(status: Status, at: int, rates: StatusRates) -> list[Any]:
    each = status.handlers[at]
    return [
        each.name,
        each.topic,
        f"{each.running}/{each.concurrency}",
        each.waiting,
        each.handled,
        rates.of_handler(status, each),
        each.failed,
        each.dead_letters,
    ]


def _tree(node: Node) -> Tree:
    """Return a tree of rich for a node and all nodes below it."""
    tree = Tree(_label(node, node.name))
    for (name, *_), alike in itertools.groupby(node.children, _likeness):
        group = list(alike)
        if len(group) > 1:
            tree.add(_label(group[0], f"{len(group)} x {name}"))
        else:
            tree.children.append(_tree(group[0]))
    return tree


def _likeness(node: Node) -> tuple[object, ...]:
    """Return what numbered tasks, such as the workers of a handler, have in common."""
    if node.children or (match := _NUMBERED.fullmatch(node.name)) is None:
        return node.name, id(node)
    return match[1], node.state, node.waits_in


def _label(node: Node, name: str) -> Text:
    where = f"  in {' > '.join(node.waits_in[-2:])}" if node.waits_in else ""
    return Text.assemble(printable(name), (f"  {node.state.value}{printable(where)}", "dim"))
