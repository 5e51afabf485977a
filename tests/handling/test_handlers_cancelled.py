"""I7: a program of handlers, cancelled after each of its steps, and with Ctrl-C at any line.

Afterwards another app of the group handles the rest. No record is lost, and no committed offset
passes a record that has neither been handled nor become a dead letter.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

import transport.handling
from tests.effort import EVERY
from tests.handling.calls import DEAD, Broken, broker_with, put
from tests.nurseries.clock import run
from tests.nurseries.ctrl_c import AtLine
from tests.nurseries.errors import leaves
from transport import TP, App, Message, Retry
from transport.testing import Books, MemoryBroker, Target, cancel_everywhere

TPS = [TP("orders", number) for number in range(2)]
KEYS = "aabab c"


class Handling:
    """Two members with handlers: the second joins later and leaves earlier. Some records fail."""

    def __init__(
        self, order: str, assignment: str = "cooperative", timeout: float | None = 5.0
    ) -> None:
        self.books = Books()
        self.broker: MemoryBroker = broker_with(partitions=2)
        self.broker._on_commit = lambda group, offsets: self.on_commit(offsets)
        for tp in TPS:
            put(self.broker, KEYS, tp)
            self.books.on_written(tp, range(len(KEYS)))
        self._order = order
        self._assignment = assignment
        self._timeout = timeout
        self._running: set[object] = set()

    async def play(self, target: Target) -> None:
        with target:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.work, 5.0)
                await trio.sleep(0.7)
                await self.work(1.0)
        await self.do_the_rest()

    def app(self) -> App:
        app = App("group", self.broker, assignment=self._assignment, commit_interval=0.5)  # type: ignore[arg-type]
        app.handler(
            app.topic("orders"),
            self.handle,
            order=self._order,  # type: ignore[arg-type]
            concurrency=3,
            timeout=self._timeout,
            retry=Retry(attempts=2, wait_initial=0.3, wait_jitter=0),
            dead_letters=app.topic("dead"),
        )
        return app

    async def work(self, seconds: float) -> None:
        async with self.app():
            await trio.sleep(seconds)

    async def handle(self, message: Message) -> None:
        group: object = message.tp
        if self._order == "key":
            group = message.tp, message.key or message
        elif self._order == "none":
            group = message
        assert group not in self._running, "two at once"
        self._running.add(group)
        try:
            await trio.sleep(0.2)
        finally:
            self._running.discard(group)
        if message.offset == 2:
            raise Broken
        self.books.on_done(message.tp, message.offset)

    async def do_the_rest(self) -> None:
        with trio.fail_after(600):
            async with self.app():
                while not self.books.is_at_rest({tp: len(KEYS) for tp in TPS}):  # noqa: ASYNC110
                    await trio.sleep(1)  # no event reports it

    def on_commit(self, offsets: dict[TP, int]) -> None:
        """Check the commit. The work on a record is done, too, when its dead letter is written."""
        for letter in self.broker.log(DEAD).read(0, 1 << 30).records:
            found = dict(letter.headers)
            tp = TP("orders", int(found["dead.partition"] or b""))
            if not self.books.done[tp, 2]:
                self.books.on_done(tp, int(found["dead.offset"] or b""))
        self.books.on_committed(offsets)

    def check(self) -> None:
        self.books.check_end({tp: len(KEYS) for tp in TPS})
        assert {place for place in self.books.done if place[1] != 2} == {
            (tp, offset) for tp in TPS for offset in range(len(KEYS)) if offset != 2
        }
        assert not self.broker.group("group").members


@pytest.mark.parametrize("assignment", ["cooperative", "eager"])
@pytest.mark.parametrize("order", ["partition", "key", "none"])
def test_a_cancelled_program_of_handlers_loses_nothing(order: str, assignment: str) -> None:
    assert cancel_everywhere(lambda: Handling(order, assignment), every=EVERY * 2) > 20


FILES = {str(path) for path in Path(str(transport.handling.__file__)).parent.glob("*.py")}


@pytest.mark.parametrize("timeout", [5.0, None])
def test_ctrl_c_at_any_line_of_the_handlers_commits_no_unhandled_message(
    timeout: float | None,
) -> None:
    for number in range(0, 50_000, 7 * EVERY + 2):
        scenario = Handling("key", timeout=timeout)
        at_line = AtLine(number, FILES)
        errors: list[BaseException] = []

        async def play(scenario: Handling = scenario) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(scenario.work, 5.0)
                await trio.sleep(0.7)
                await scenario.work(1.0)

        before = sys.gettrace()
        sys.settrace(at_line)
        try:
            run(play)
        except BaseException as error:  # noqa: BLE001 - this is what is looked at
            errors = leaves(error)
        finally:
            sys.settrace(before)
        assert all(isinstance(error, KeyboardInterrupt) for error in errors), (
            at_line.where,
            errors,
        )
        assert not scenario.broker.group("group").members
        if not at_line.reached:
            break
        assert errors, at_line.where
        run(scenario.do_the_rest)
        scenario.check()
    assert 300 < number < 40_000
