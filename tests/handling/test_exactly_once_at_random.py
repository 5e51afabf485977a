"""I9 with handlers in random histories: each record has its results or its dead letter, once.

Attempts fail at random, before or after they have sent messages. Half of the histories are those of
`transport.testing.simulate`. The others are those of tests/committing, where the app's own commits,
pauses and seeks disturb the handlers, too.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import attrs
import pytest
import trio

from tests.apps import committed
from tests.committing.test_exactly_once_at_random import ORDERS, RESULTS, TIMEOUT, Failed, History
from tests.effort import SEEDS
from transport import TP, App, Batch, Fenced, Message, Retry, Topic, TransactionFailed
from transport.drivers.base import Driver
from transport.handling.attempts import Attempts
from transport.handling.observer import Observer
from transport.handling.plan import Plan
from transport.testing import Done, run, simulate

MODES = pytest.mark.parametrize("mode", ["member", "partition"])
DEAD = TP("dead", 0)
ATTEMPTS = 6


class Broken(Exception):
    """The failure of an attempt."""


def is_bad(tp: TP, offset: int) -> bool:
    """Return whether all attempts to handle a record fail."""
    return (tp.partition + offset) % 7 == 3


@attrs.define
class Work:
    """The work on a record: it sends up to three results, and may fail at any point.

    The first attempts fail at random. After them, those for a record that is not bad succeed.
    """

    draw: random.Random
    fails: Counter[tuple[TP, int]] = attrs.field(factory=Counter)

    async def do(self, message: Message, results: Topic) -> None:
        place = message.tp, message.offset
        fails_after = self._fails_after(place)
        for number, value in enumerate(results_of(*place)):
            if number == fails_after:
                break
            if self.draw.random() < 0.3:
                results.send_soon(value=value, source=message)
            else:
                await results.send(value=value, source=message)
            if self.draw.random() < 0.3:
                await trio.sleep(self.draw.random() / 4)
        if fails_after is not None:
            raise Broken(place)

    def _fails_after(self, place: tuple[TP, int]) -> int | None:
        """Return the number of results after which an attempt fails; None: it succeeds."""
        if not is_bad(*place):
            if self.fails[place] >= 3 or self.draw.random() < 0.7:
                return None
            self.fails[place] += 1
        return self.draw.randrange(4)


def results_of(tp: TP, offset: int) -> list[bytes]:
    return [b"%d %d %d" % (tp.partition, offset, n) for n in range(offset % 4)]


def wanted(places: set[tuple[TP, int]]) -> Counter[bytes | None]:
    """Return the results of all records, and the number of dead letters as b"dead"."""
    values: Counter[bytes | None] = Counter()
    for place in places:
        values.update([b"dead"] if is_bad(*place) else results_of(*place))
    return values


class ReportsDone(Observer):
    """Reports messages with a dead letter to a simulation as done."""

    def __init__(self, done: Done) -> None:
        self._done = done

    def on_dead_letter(self, plan: Plan, held: Message | Batch, attempts: Attempts) -> None:
        assert isinstance(held, Message)
        self._done(held)


def options_of(draw: random.Random) -> dict[str, Any]:
    """Return random options of a handler of messages."""
    return {
        "order": draw.choice(["partition", "key", "none"]),
        "concurrency": draw.choice([1, 3, 20]),
        "timeout": draw.choice([None, 30.0]),
        "filter": draw.choice([None, lambda message: True]),
        "retry": Retry(
            attempts=ATTEMPTS,
            wait_initial=draw.choice([0.0, 0.1, 2.0]),
            wait_max=2.0,
            random=draw.random,
        ),
    }


# Simulations


@MODES
@pytest.mark.parametrize("seed", SEEDS[: len(SEEDS) // 4])
def test_each_record_has_its_results_or_its_dead_letter_once_in_simulations(
    seed: int, mode: str
) -> None:
    draw = random.Random(seed)
    work = Work(draw)

    async def service(broker: Driver, done: Done) -> None:
        settings: dict[str, Any] = {"session_timeout": 6.0, "drain_timeout": 5.0}
        app = App(
            "billing",
            broker=broker,
            transactions=mode,
            transaction_timeout=TIMEOUT,
            commit_interval=draw.choice([0.3, 1.0]),
            commit_timeout=5.0,
            **settings,
        )
        results = app.topic("results")

        async def handle(message: Message) -> None:
            await work.do(message, results)
            done(message)

        app.handler(app.topic("orders"), handle, dead_letters=app.topic("dead"), **options_of(draw))
        app.handlers.observers.append(ReportsDone(done))
        async with app:
            await trio.sleep_forever()

    report = simulate(service, topics={"orders": 2}, outputs={"results": 2, "dead": 1}, seed=seed)
    report.check()
    places = {(tp, offset) for tp, offsets in report.books.written.items() for offset in offsets}
    values = wanted(places)
    dead = values.pop(b"dead", 0)
    letters = Counter(b"%d" % offset for tp, offset in places if is_bad(tp, offset))
    assert letters.total() == dead
    assert report.outputs == values + letters, report.timeline


# Histories with commits, pauses and seeks


@attrs.define
class Handled(History):
    """A history in which handlers do the work."""

    work: Work = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.work = Work(self.draw)
        self.broker.create_topic("dead", 1)

    def check(self) -> None:
        seen: Counter[bytes | None] = Counter()
        for tp in [*RESULTS, DEAD]:
            log = self.broker.log(tp)
            assert log.stable_end == log.end, "a transaction was never ended"
            for record in log.read(0, 1 << 30, committed=True).records:
                seen[b"dead" if tp == DEAD else record.value] += 1
        assert seen == wanted(self.produced)

    def add_handler(self, app: App) -> None:
        results, orders, dead = app.topic("results"), app.topic("orders"), app.topic("dead")

        async def handle(message: Message) -> None:
            await self.work.do(message, results)
            if self.draw.random() < 0.01:
                await trio.sleep(8.0)  # past the bound of a barrier

        async def handle_batch(batch: Batch) -> None:
            for message in batch:
                await self.work.do(message, results)

        options = options_of(self.draw)
        if self.draw.random() < 0.7:
            app.handler(orders, handle, dead_letters=dead, **options)
            return
        del options["order"]
        options["max_size"] = self.draw.choice([1, 3, 10])
        app.batch_handler(orders, handle_batch, dead_letters=dead, **options)

    async def live(self, name: str) -> None:
        app = self.app(
            commit_interval=self.draw.choice([0.3, 1.0, 5.0]),
            buffer_size=self.draw.choice([1, 4, 100]),
        )
        self.add_handler(app)
        try:
            async with app, trio.open_nursery() as nursery:
                nursery.start_soon(self.meddle, app)
                await trio.sleep(self.draw.uniform(0.5, 14))
                await self.go(app)
                nursery.cancel_scope.cancel()
        except* (Failed, Fenced, TransactionFailed):
            pass

    async def do_the_rest(self) -> None:
        ends = {tp: self.broker.log(tp).end for tp in ORDERS}
        app = self.app(commit_interval=0.5)
        self.add_handler(app)
        with trio.fail_after(900):
            async with app:
                nothing = dict.fromkeys(ORDERS, 0)
                while nothing | committed(self.broker) != ends:  # noqa: ASYNC110 - no event reports it
                    await trio.sleep(1)
        await trio.sleep(TIMEOUT)
        self.broker.transactions.expire(trio.current_time())


@pytest.mark.parametrize("assignment", ["cooperative", "eager"])
@MODES
@pytest.mark.parametrize("seed", SEEDS[: len(SEEDS) // 4])
def test_each_record_has_its_results_or_its_dead_letter_once_in_random_histories(
    seed: int, mode: str, assignment: str
) -> None:
    run(Handled(random.Random(seed), mode, assignment).play, seed=seed)
