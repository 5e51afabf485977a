"""Ctrl-C at any line of the transport: no offset is committed past an unhandled message."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import trio

import nurseries
import transport
from tests.apps import app_on, broker_with, committed, write
from tests.nurseries.clock import run
from tests.nurseries.ctrl_c import AtLine
from tests.nurseries.errors import leaves
from transport import TP, App
from transport.drivers.memory import MemoryBroker

ORDERS = [TP("orders", number) for number in range(2)]
RECORDS = 6
ROOT = Path(transport.__file__).parent
# The packages whose state a KeyboardInterrupt must not split, beside the modules of `transport`.
PACKAGES = ("consuming", "delivering", "committing", "producing", "monitoring")
CORE = {
    str(path)
    for folder in (ROOT, *(ROOT / package for package in PACKAGES))
    for path in folder.glob("*.py")
}


class Scenario:
    """An app that handles, acks, commits, seeks and sends, and goes through two rebalances."""

    def __init__(self) -> None:
        self.broker: MemoryBroker = broker_with(*ORDERS, records=RECORDS)
        self.done: set[tuple[TP, int]] = set()

    async def play(self) -> None:
        async with app_on(self.broker, commit_interval=0.5) as app:
            await self.handle(app, 5)
            await app.consumer.commit()
            tp = min(app.consumer.assignment)
            await app.consumer.seek(tp, 1)
            async with app_on(self.broker) as other:
                other.topic("orders").noack()
                await trio.sleep(1)
                for each in ORDERS:
                    write(self.broker, each, 4)  # records for whichever partition the app has
                await self.handle(app, 2)
            await trio.sleep(1)
            await app.topic("bills").send_and_wait(value=b"value")
            await app.consumer.wait_empty()

    async def handle(self, app: App, count: int) -> None:
        async for batch in app.topic("orders").batches(2, noack=True):
            async with batch:
                await trio.sleep(0.1)
                self.done.update((message.tp, message.offset) for message in batch)
            count -= 1
            if not count:
                break

    def check(self) -> None:
        for tp, offset in committed(self.broker).items():
            assert all((tp, before) in self.done for before in range(offset)), (tp, offset)
        assert not self.broker.group("group").members


def test_ctrl_c_at_any_line_commits_no_unhandled_message() -> None:
    for number in range(0, 50_000, 13):  # each line is run often enough to be hit
        scenario = Scenario()
        at_line = AtLine(number, CORE)
        errors: list[BaseException] = []
        before = sys.gettrace()
        sys.settrace(at_line)
        try:
            run(scenario.play)
        except BaseException as error:  # noqa: BLE001 - this is what is looked at
            errors = leaves(error)
        finally:
            sys.settrace(before)
        assert all(isinstance(error, KeyboardInterrupt) for error in errors), (
            at_line.where,
            errors,
        )
        scenario.check()
        if not at_line.reached:
            break
        assert errors, at_line.where
    assert 500 < number < 40_000


# Programs, the testing kit, and code that runs in asyncio: there the caller cleans up after Ctrl-C.
_PROGRAMS = {"__main__.py", "demo.py", "simulation.py", "faults.py", "handler_call.py"}
_SCOPES = {"CancelScope", "move_on_after", "move_on_at", "fail_after", "fail_at", "open_nursery"}


def opens_a_scope(node: ast.AST) -> bool:
    """Return whether a `with` statement of the function itself opens a cancel scope or nursery."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(child, ast.With | ast.AsyncWith):
            for item in child.items:
                call = item.context_expr
                named = call.func if isinstance(call, ast.Call) else call
                if isinstance(named, ast.Attribute) and named.attr in _SCOPES:
                    return True
        if opens_a_scope(child):
            return True
    return False


def unprotected_scopes() -> Iterator[str]:
    for package in (transport, nurseries):
        folder = Path(str(package.__file__)).parent
        for path in sorted(folder.rglob("*.py")):
            if path.name in _PROGRAMS or path.parent.name == "anyio":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if (
                    isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                    and opens_a_scope(node)
                    and not any(
                        ast.unparse(each).endswith("enable_ki_protection")
                        for each in node.decorator_list
                    )
                ):
                    yield f"{path.relative_to(folder.parent)}, {node.name}"


def test_functions_that_open_a_scope_are_protected_from_ctrl_c() -> None:
    """Python calls no `__exit__` if Ctrl-C comes between the body of a `with` and that call.

    The scope then stays open, and trio reports an internal error.
    """
    assert not list(unprotected_scopes())
