"""Apps of handlers in random histories: nothing is lost, and each key keeps its order.

Members start, stop and crash, answers of the broker are lost, and handlers fail at random. A seed
determines the whole history.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Hashable

import attrs
import pytest
import trio

from tests.effort import SEEDS
from tests.handling.calls import Broken
from transport import TP, App, Message, Retry
from transport.drivers.base import Driver
from transport.testing import Report, simulate
from transport.types import Record

KEYS = [b"a", b"b", b"c", b"d", None]


def payload(tp: TP, number: int) -> tuple[bytes | None, bytes]:
    return KEYS[number * 7 % 11 % 5], b"%d" % number


def source_of(letter: Record) -> tuple[TP, int]:
    """Return the place of the message of a dead letter."""
    found = {name: (value or b"").decode() for name, value in letter.headers}
    return TP(found["dead.topic"], int(found["dead.partition"])), int(found["dead.offset"])


@attrs.define
class Service:
    """One service of the group, whose handlers fail at random.

    Attributes:
        handled: how often the function has returned for each record.
        running: by member, partition and key: the offset that runs now.
        last: by member, partition, epoch and key: the last offset that has begun.
        most: the most calls at once in one member.
    """

    draw: random.Random
    order: str
    assignment: str = attrs.field()
    concurrency: int = 20
    handled: Counter[tuple[TP, int]] = attrs.field(factory=Counter)
    running: dict[Hashable, int] = attrs.field(factory=dict)
    last: dict[Hashable, int] = attrs.field(factory=dict)
    at_once: defaultdict[str, int] = attrs.field(factory=lambda: defaultdict(int))
    most: int = 0
    members: int = 0

    @assignment.default
    def _draw_assignment(self) -> str:
        return self.draw.choice(["cooperative", "eager"])

    def app(self, broker: Driver) -> App:
        self.members += 1
        member = f"member {self.members}"
        draw = self.draw
        app = App(
            "service",
            broker,
            commit_interval=draw.choice([0.3, 1.0, 5.0]),
            buffer_size=draw.choice([1, 4, 30, 1000]),
            assignment=self.assignment,  # type: ignore[arg-type]
            session_timeout=6.0,
            grace=10.0,
        )
        app.handler(
            app.topic("orders"),
            lambda message: self.handle(member, message),
            name="worker",
            order=self.order,  # type: ignore[arg-type]
            concurrency=self.concurrency,
            timeout=draw.choice([None, 2.0]),
            retry=Retry(attempts=3, wait_initial=0.2, wait_max=2.0, random=draw.random),
            dead_letters=app.topic("dead"),
            filter=draw.choice([None, lambda message: message.offset % 5]),
        )
        return app

    def group(self, message: Message) -> Hashable:
        """Return what must be handled one after the other: a partition, a key or nothing."""
        if self.order == "partition":
            return message.tp
        is_ordered = self.order == "key" and message.key is not None
        return (message.tp, message.key if is_ordered else message)

    async def handle(self, member: str, message: Message) -> None:
        group = self.group(message)
        assert (member, group) not in self.running, "two at once"
        in_epoch = (member, message.epoch, group)
        assert message.offset >= self.last.get(in_epoch, -1), "out of order"
        self.last[in_epoch] = message.offset
        self.running[member, group] = message.offset
        self.at_once[member] += 1
        self.most = max(self.most, self.at_once[member])
        try:
            await trio.sleep(self.draw.choice([0.0, 0.1, 0.5, 3.0]))
        finally:
            del self.running[member, group]
            self.at_once[member] -= 1
        if message.offset % 7 == 3 or self.draw.random() < 0.1:
            raise Broken(message.value)
        self.handled[message.tp, message.offset] += 1

    def check(self, report: Report) -> None:
        report.check()
        assert self.most <= self.concurrency
        buried = {source_of(record) for record in report.broker.records("dead")}
        for tp, offsets in report.books.written.items():
            for offset in offsets:
                is_handled = (tp, offset) in self.handled or (tp, offset) in buried
                assert is_handled or offset % 5 == 0, "a record was acked and not handled"


@pytest.mark.parametrize("seed", SEEDS)
def test_handlers_lose_nothing_and_keep_their_order_in_random_histories(seed: int) -> None:
    service = Service(random.Random(seed), ["key", "partition", "none"][seed % 3])
    report = simulate(
        service.app, topics={"orders": 3}, outputs={"dead": 2}, seed=seed, records=payload
    )
    service.check(report)


def test_these_histories_have_failures_retries_and_concurrency() -> None:
    """Histories in which nothing happens would prove nothing."""
    letters = retries = most = doubled = 0
    for seed in range(6):
        service = Service(random.Random(seed), "key")
        report = simulate(
            service.app, topics={"orders": 3}, outputs={"dead": 2}, seed=seed, records=payload
        )
        letters += sum(report.dead_letters.values())
        retries += sum(report.retried.values())
        doubled += len(report.doubled)
        most = max(most, service.most)
    assert letters > 20
    assert retries > 50
    assert doubled > 0
    assert most >= 5
