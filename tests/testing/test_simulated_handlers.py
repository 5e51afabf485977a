"""Simulations of apps with handlers: what is done, what was retried, and what failed."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import find, given, settings
from hypothesis import strategies as st

from tests.effort import SEEDS
from tests.testing.services import QUICK, TOPICS
from transport import JSON, TP, App, Batch, Message, Retry
from transport.drivers.base import Driver
from transport.drivers.memory import MemoryDriver
from transport.testing import (
    Break,
    Crash,
    Done,
    History,
    InvariantViolated,
    MemoryBroker,
    Outcomes,
    Report,
    Start,
    Stop,
    Write,
    simulate,
    slow,
)
from transport.testing.strategies import histories

ORDERS = TP("orders", 0)
BAD = b"bad"
# For days of simulated time: without the work that an idle app does every few seconds.
QUIET = {**QUICK, "commit_interval": 600.0, "stuck_interval": 3600.0}


def billing(fn: Callable[[Message], Any] | None = None, **options: Any) -> Callable[[Driver], App]:
    """Return an app factory with one handler, which fails for records with the key `BAD`."""

    async def bill(order: Message) -> None:
        await trio.sleep(0.3)
        if order.key == BAD:
            raise ValueError("a bad order")

    def make(broker: Driver) -> App:
        app = App("billing", broker=broker, **QUICK)
        given = dict(options)
        if given.get("dead_letters") == "dead":
            given["dead_letters"] = app.topic("dead")
        app.handler(app.topic("orders"), fn or bill, name="bill", **given)
        return app

    return make


def wrote(*keys: bytes | None, events: tuple[Any, ...] = ()) -> History:
    """Return a history in which a member starts, and gets records with these keys."""
    records = [(key, b"value") for key in keys]
    return History(TOPICS, [Start(), Write(ORDERS, records=records), *events])


def played(factory: Any, history: History, **options: Any) -> Report:
    return simulate(factory, topics=TOPICS, history=history, **options)


keys = st.sampled_from([b"a", b"b", None, BAD])
payloads = st.tuples(keys, st.binary(max_size=4))


@pytest.mark.parametrize("order", ["partition", "key", "none"])
@given(histories(TOPICS, most=20, records=payloads), st.integers(0, 1000))
@settings(max_examples=settings.default.max_examples // 4)
def test_handler_loses_nothing(order: str, history: History, seed: int) -> None:
    factory = billing(
        order=order,
        concurrency=5,
        retry=Retry(attempts=2, wait_initial=0.5, wait_jitter=0.5),
        dead_letters="dead",
    )
    report = played(factory, history, seed=seed)
    report.check(all_may_fail=True)
    assert set(report.handled) == {
        (tp, offset) for tp, offsets in report.books.written.items() for offset in offsets
    }
    dead = {(tp, offset) for tp, offset in report.dead_letters}
    assert dead == {place for place in report.handled if key_at(report, place) == BAD}


def key_at(report: Report, place: tuple[TP, int]) -> bytes | None:
    tp, offset = place
    (record,) = report.broker.log(tp).read(offset, 1).records
    return record.key


def test_message_is_done_when_its_handler_has_returned() -> None:
    report = played(billing(), wrote(b"a", b"b"))
    report.check()
    assert report.handled == {(ORDERS, 0): 1, (ORDERS, 1): 1}
    assert report.handlers["bill"].handled == {(ORDERS, 0): 1, (ORDERS, 1): 1}


def test_handler_that_a_crash_interrupts_has_not_done_its_message() -> None:
    report = played(billing(), wrote(b"a", events=(Crash(0, after=0.2),)))
    report.check()
    assert report.handled == {(ORDERS, 0): 1}
    assert report.timeline.entries[-1].at > 5  # handled by the next member, not before the crash


def test_app_factory_with_done_reports_handled_messages_itself() -> None:
    async def service(broker: Driver, done: Done) -> None:
        app = App("billing", broker=broker, **QUICK)

        async def bill(order: Message) -> None:
            await trio.sleep(0.1)
            if order.key == BAD:
                raise ValueError
            done(order)

        app.handler(app.topic("orders"), bill, dead_letters=app.topic("dead"))
        async with app:
            await app.wait_stopped()

    report = played(service, wrote(b"a", BAD))
    report.check()
    assert report.handled == {(ORDERS, 0): 1, (ORDERS, 1): 1}


def test_handler_that_leaves_its_work_to_a_task_is_found_with_done() -> None:
    """The handler returns, so the message is acked, but the work is done later."""

    async def service(broker: Driver, done: Done) -> None:
        app = App("billing", broker=broker, **QUICK)

        async def later(order: Message) -> None:
            await trio.sleep(2)
            done(order)

        async with trio.open_nursery() as nursery:

            async def bill(order: Message) -> None:
                nursery.start_soon(later, order)

            app.handler(app.topic("orders"), bill)
            async with app:
                await app.wait_stopped()

    report = played(service, wrote(b"a", events=(Crash(0, after=1.5),)))
    assert report.violation is not None


def test_async_app_factory_without_done_opens_its_app_itself() -> None:
    async def service(broker: Driver) -> None:
        async with billing()(broker) as app:
            await app.wait_stopped()

    report = played(service, wrote(b"a"))
    report.check()
    assert report.handled == {(ORDERS, 0): 1}


def test_without_a_call_of_done_the_error_says_how_to_report_work() -> None:
    async def service(broker: Driver, done: Done) -> None:
        async with billing()(broker) as app:
            await app.wait_stopped()

    with pytest.raises(InvariantViolated, match="has not called done: call it in the handler"):
        played(service, wrote(b"a")).check()


def test_without_handlers_and_done_the_error_says_how_to_report_work() -> None:
    async def service(broker: Driver) -> None:
        async with App("billing", broker=broker) as app:
            async for _ in app.topic("orders"):
                pass

    with pytest.raises(InvariantViolated, match="give the app factory a second argument, done"):
        played(service, wrote(b"a")).check()


def test_app_with_another_broker_is_refused() -> None:
    report = played(lambda broker: billing()(MemoryDriver()), wrote(b"a"), patience=5.0)
    assert isinstance(report.errors[0], TypeError)
    with pytest.raises(AssertionError, match="an app with another broker"):
        report.check()


def test_record_is_done_when_all_its_handlers_have_finished_it() -> None:
    def make(broker: Driver) -> App:
        app = App("billing", broker=broker, **QUICK)

        async def first(order: Message) -> None:
            await trio.sleep(0.1)

        async def second(order: Message) -> None:
            await trio.sleep(5.0)

        app.handler(app.topic("orders"), first)
        app.handler(app.topic("orders"), second)
        return app

    # The crash comes when the first handler is done, and the second is not.
    report = played(make, wrote(b"a", events=(Crash(0, after=2.0),)))
    report.check()
    assert report.handlers["first"].handled == {(ORDERS, 0): 2}
    assert report.handlers["second"].handled == {(ORDERS, 0): 1}
    assert report.doubled == {(ORDERS, 0): 2}


def test_record_that_one_handler_never_finishes_is_lost() -> None:
    def make(broker: Driver) -> App:
        app = App("billing", broker=broker, **QUICK)

        async def first(order: Message) -> None:
            pass

        async def second(order: Message) -> None:
            await trio.sleep_forever()

        app.handler(app.topic("orders"), first)
        app.handler(app.topic("orders"), second)
        return app

    report = played(make, wrote(b"a"), patience=30.0)
    assert report.lost == [(ORDERS, 0)]


def test_handler_that_ends_after_the_crash_of_its_member_does_not_count() -> None:
    async def bill(order: Message) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)

    report = played(billing(bill), wrote(b"a", events=(Crash(0, after=0.5),)))
    report.check()
    assert report.handled == {(ORDERS, 0): 1}


def test_simulation_ends_when_the_topics_between_handlers_are_handled() -> None:
    def make(broker: Driver) -> App:
        app = App("billing", broker=broker, **QUICK)
        bills = app.topic("bills")

        async def bill(order: Message) -> None:
            await bills.send(value=order.value)

        async def print_bill(bill: Message) -> None:
            await trio.sleep(30)

        app.handler(app.topic("orders"), bill)
        app.handler(bills, print_bill)
        return app

    report = played(make, wrote(*[b"a"] * 5))
    report.check()
    assert report.handlers["print_bill"].handled.total() == 5


# What failed


def test_report_counts_retries_and_dead_letters() -> None:
    retry = Retry(attempts=3, wait_initial=1.0)
    report = played(billing(retry=retry, dead_letters="dead"), wrote(b"a", BAD))
    report.check()
    assert report.retried == {(ORDERS, 1): 2}
    assert report.dead_letters == {(ORDERS, 1): 1}
    assert report.skipped == {}
    assert [(each.offset, each.attempt) for each in report.handlers["bill"].failures] == [
        (1, 1),
        (1, 2),
        (1, 3),
    ]
    assert [record.key for record in report.broker.records("dead")] == [BAD]


def test_report_counts_skipped_and_filtered_messages() -> None:
    factory = billing(dead_letters="skip", filter=lambda message: message.key != b"b")
    report = played(factory, wrote(b"a", b"b", BAD))
    report.check()
    assert report.skipped == {(ORDERS, 2): 1}
    assert report.handlers["bill"].filtered == {(ORDERS, 1): 1}
    assert report.handled == {(ORDERS, 0): 1, (ORDERS, 1): 1, (ORDERS, 2): 1}


def test_failure_that_ends_the_app_is_an_error_of_the_report() -> None:
    report = played(billing(dead_letters="fail"), wrote(BAD), patience=30.0)
    assert isinstance(report.errors[0], ExceptionGroup)
    assert report.handlers["bill"].failures[0].delay is None
    with pytest.raises(InvariantViolated, match=r"lost.*A member failed.*ValueError"):
        report.check()


def test_app_factory_that_fails_is_named_as_the_cause_of_lost_records() -> None:
    def service(broker: Driver) -> App:
        return App("billing", broker=broker, nonsense=5)  # type: ignore[call-arg]

    with pytest.raises(InvariantViolated, match=r"A member failed.*unknown settings: nonsense"):
        played(service, wrote(b"a"), patience=30.0).check()


def test_check_fails_if_a_handler_has_handled_no_record() -> None:
    """As with values that are not the JSON that the handler expects."""

    async def bill(order: Message) -> None:
        order.value["amount"]

    def make(broker: Driver) -> App:
        app = App("billing", broker=broker, **QUICK)
        orders = app.topic("orders", value_type=JSON)
        app.handler(orders, bill, dead_letters=app.topic("dead"))
        return app

    report = played(make, History(TOPICS, [Start(), Write(ORDERS, 3)]))
    with pytest.raises(AssertionError) as raised:
        report.check()
    text = str(raised.value).splitlines()[0]
    assert "the handler bill failed for each of its 3 records, such as orders-0 offset 0" in text
    assert "pass records= to simulate" in text
    assert "TypeError" in text
    report.check(all_may_fail=True)

    payload = json.dumps({"amount": 1}).encode()
    simulate(make, topics=TOPICS, seed=1, records=lambda tp, number: (None, payload)).check()


def test_check_names_the_given_records_if_a_handler_has_handled_none() -> None:
    report = played(billing(dead_letters="skip"), wrote(BAD))
    with pytest.raises(AssertionError, match="check the records= of the simulation"):
        report.check()


def test_days_of_backoff_take_no_time() -> None:
    """The patience is for the work, and does not end while a retry waits."""
    retry = Retry(attempts=60, wait_initial=3600.0, wait_max=3600.0, wait_jitter=0)
    failed = Counter[int]()

    async def bill(order: Message) -> None:
        if failed[order.offset] < 50:
            failed[order.offset] += 1
            raise ValueError("not yet")

    def make(broker: Driver) -> App:
        app = App("billing", broker=broker, **QUIET)
        app.handler(app.topic("orders"), bill, retry=retry)
        return app

    report = played(make, wrote(b"a"))
    report.check()
    assert report.retried == {(ORDERS, 0): 50}
    assert report.timeline.entries[-1].at > 50 * 3600.0


# Payloads


def test_records_have_the_payloads_that_the_function_returns() -> None:
    report = simulate(
        billing(),
        topics=TOPICS,
        history=History(TOPICS, [Write(ORDERS, 2), Write(TP("orders", 1)), Write(ORDERS)]),
        records=lambda tp, number: (
            b"%d" % tp.partition,
            b"value %d" % number,
            {"number": b"%d" % number},
        ),
    )
    report.check()
    assert [
        (record.key, record.value, record.headers) for record in report.broker.records("orders")
    ] == [
        (b"0", b"value 0", (("number", b"0"),)),
        (b"0", b"value 1", (("number", b"1"),)),
        (b"0", b"value 2", (("number", b"2"),)),
        (b"1", b"value 0", (("number", b"0"),)),
    ]


def test_payloads_of_an_event_come_before_the_function() -> None:
    report = played(
        billing(),
        History(TOPICS, [Write(ORDERS, records=[(b"k", b"mine")]), Write(ORDERS)]),
        records=lambda tp, number: (None, b"value %d" % number),
    )
    assert [record.value for record in report.broker.records("orders")] == [b"mine", b"value 0"]


def test_payload_of_a_wrong_type_is_refused() -> None:
    with pytest.raises(TypeError, match="the result of records must be a tuple of key, value"):
        played(billing(), History(TOPICS, [Write(ORDERS)]), records=lambda tp, number: b"value")
    with pytest.raises(TypeError, match="the value of a message for 'orders' must be bytes"):
        Write(ORDERS, records=[(None, "text")])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="count is 3, but there are 1 records"):
        Write(ORDERS, 3, records=[(None, b"value")])


def test_drawn_payloads_shrink_to_the_one_that_fails() -> None:
    def is_failing(history: History) -> bool:
        writes = [event for event in history.events if isinstance(event, Write)]
        return any(key == BAD for write in writes for key, *_ in write.records or ())

    found = find(
        histories(TOPICS, most=10, records=payloads),
        is_failing,
        settings=settings(derandomize=True, database=None),
    )
    assert found.events == (Write(ORDERS, records=[(BAD, b"")]),)
    assert played(billing(dead_letters="skip"), found).skipped == {(ORDERS, 0): 1}


@pytest.mark.parametrize("seed", list(SEEDS)[:3])
def test_same_seed_gives_the_same_delays(seed: int) -> None:
    factory = billing(retry=Retry(attempts=3), dead_letters="skip")
    reports = [
        simulate(factory, topics=TOPICS, seed=seed, records=lambda tp, number: (BAD, b""))
        for _ in range(2)
    ]
    assert str(reports[0].timeline) == str(reports[1].timeline)
    assert reports[0].retried


def test_memory_broker_has_the_records_of_a_report() -> None:
    assert isinstance(played(billing(), wrote(b"a")).broker, MemoryBroker)


# Batches


@given(histories(TOPICS, most=20, records=payloads), st.integers(0, 1000))
@settings(max_examples=settings.default.max_examples // 4)
def test_batch_handler_loses_nothing(history: History, seed: int) -> None:
    def make(broker: Driver) -> App:
        async def bill(orders: Batch) -> None:
            await trio.sleep(0.3)
            if any(order.key == BAD for order in orders):
                raise ValueError("a bad order")

        app = App("billing", broker=broker, **QUICK)
        app.batch_handler(
            app.topic("orders"),
            bill,
            filter=lambda message: message.key != b"b",
            retry=Retry(attempts=2, wait_initial=2.0),
            dead_letters=app.topic("dead"),
        )
        return app

    report = played(make, history, seed=seed)
    report.check(all_may_fail=True)
    places = {(tp, o) for tp, offsets in report.books.written.items() for o in offsets}
    outcomes = report.handlers.get("bill", Outcomes())  # none: no member was started
    assert set(outcomes.dead_letters) == {p for p in places if key_at(report, p) == BAD}
    assert set(outcomes.filtered) == {p for p in places if key_at(report, p) == b"b"}
    assert set(outcomes.handled) == places - set(outcomes.dead_letters) - set(outcomes.filtered)


@pytest.mark.parametrize("seed", SEEDS)
def test_late_commits_undo_no_commit_of_the_next_owner(seed: int) -> None:
    """I2: handlers exceed the bound of a rebalance, and a commit is on its way meanwhile."""

    async def bill(order: Message) -> None:
        await trio.sleep(random.choice([0.0, 1.0, 2 * QUICK["drain_timeout"]]))

    draw = random.Random(seed)
    tps = [TP("orders", number) for number in range(3)]
    events: list[Any] = [Start()]
    for _ in range(25):
        after = draw.uniform(0, 3)
        events.append(
            draw.choice(
                [
                    Start(after=after),
                    Stop(draw.randrange(4), after=after),
                    Write(draw.choice(tps), draw.randint(1, 5), after=after),
                    Break("commit", slow(draw.uniform(0, 9)), after=after),
                ]
            )
        )
    topics = {"orders": 3}
    report = simulate(
        billing(bill, order="key", concurrency=5),
        topics=topics,
        history=History(topics, events),
        seed=seed,
    )
    report.check()
