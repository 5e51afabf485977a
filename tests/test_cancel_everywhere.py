"""I7: every public async call, and a whole app, cancelled after each of its steps.

After a cancelled call the app handles all other records, commits them and ends. No record is lost,
no committed offset passes an unhandled record, and no thread and no file is left.
"""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import pytest
import trio

from tests.apps import write
from tests.effort import EVERY
from transport import (
    TP,
    App,
    AppClosed,
    Conductor,
    Consumer,
    Delivery,
    FutureMessage,
    ManyDeliveries,
    Message,
    Producer,
    Topic,
)
from transport.testing import Books, MemoryBroker, Target, cancel_everywhere

ORDERS = [TP("orders", number) for number in range(2)]
RECORDS = 4

Call = Callable[["Calling"], Awaitable[object]]


class Calling:
    """An app acks three messages, makes the call that is cancelled, and handles the rest."""

    settings: ClassVar[dict[str, Any]] = {}

    def __init__(self, call: Call) -> None:
        self.books = Books()
        self.broker = MemoryBroker(on_commit=lambda group, offsets: self.on_commit(offsets))
        self.broker.create_topic("orders", len(ORDERS))
        self.broker.create_topic("bills", 1)
        for tp in ORDERS:
            write(self.broker, tp, RECORDS)
            self.books.on_written(tp, range(RECORDS))
        self._call = call
        self.app: App

    async def play(self, target: Target) -> None:
        with trio.fail_after(1000):
            async with App(
                "group", self.broker, commit_interval=100.0, **self.settings
            ) as self.app:
                self.orders, self.bills = self.app.topic("orders"), self.app.topic("bills")
                self.messages = self.orders.noack()
                for _ in range(3):
                    self.done(await anext(self.messages))
                with target:
                    await self._call(self)
                self.app.consumer.resume_flow()
                self.app.consumer.resume_partitions(ORDERS)
                await self.do_the_rest()

    def done(self, message: Message) -> None:
        self.books.on_done(message.tp, message.offset)
        message.ack()

    async def do_the_rest(self) -> None:
        await self.clean_up()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.handle)
            while self.books.lost:  # noqa: ASYNC110 - no event reports it
                await trio.sleep(1)
            await self.app.consumer.wait_empty()
            nursery.cancel_scope.cancel()

    async def clean_up(self) -> None:
        """Ack the messages that the cancelled call took and did not ack."""
        for message in self.app.consumer.unacked:
            self.done(message)

    async def handle(self) -> None:
        async for message in self.messages:
            self.done(message)

    def on_commit(self, offsets: dict[TP, int]) -> None:
        self.books.on_committed({tp: o for tp, o in offsets.items() if tp.topic == "orders"})

    def check(self) -> None:
        self.books.check_end({tp: self.broker.log(tp).end for tp in ORDERS})
        for tp in self.broker.partitions("bills"):
            log = self.broker.log(tp)
            assert log.stable_end == log.end, "a transaction is still open"


async def takes(scenario: Calling) -> None:
    """Take a message and ack it, without a checkpoint between the two."""
    scenario.done(await anext(scenario.messages))


async def takes_acking(scenario: Calling) -> None:
    messages = aiter(scenario.orders)
    for _ in range(3):
        message = await anext(messages)
        scenario.books.on_done(message.tp, message.offset)


async def takes_a_batch(scenario: Calling) -> None:
    batch = await anext(scenario.orders.batches(2, noack=True))
    for message in batch:
        scenario.done(message)


async def gets_many(scenario: Calling) -> None:
    async for _, message in scenario.app.consumer.getmany(1.0):
        scenario.done(message)


async def waits_for_stopped_flow(scenario: Calling) -> None:
    scenario.app.consumer.stop_flow()
    await scenario.app.consumer.wait_for_stopped_flow()


async def waits_for_a_commit(scenario: Calling) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scenario.app.consumer.commit)
        await scenario.app.consumer.maybe_wait_for_commit_to_finish()


async def seeks_back(scenario: Calling) -> None:
    await scenario.app.consumer.seek(ORDERS[0], 0)


async def seeks_to_the_next(scenario: Calling) -> None:
    await scenario.app.consumer.seek(ORDERS[0], 3)


async def seeks_to_the_end(scenario: Calling) -> None:
    consumer = scenario.app.consumer
    try:
        await consumer.seek_to_end()
    finally:  # the rest of the scenario needs all messages
        with trio.CancelScope(shield=True):
            await consumer.seek_to_beginning()


async def subscribes(scenario: Calling) -> None:
    scenario.app.topic("others").noack()
    await scenario.app.conductor.wait_for_subscriptions()


async def maybe_subscribes(scenario: Calling) -> None:
    scenario.app.topic("others").noack()
    await scenario.app.conductor.maybe_wait_for_subscriptions()


async def sends(scenario: Calling) -> None:
    for _ in range(100):  # `send` is a full checkpoint only now and then
        await scenario.bills.send(value=b"value")


async def sends_many(scenario: Calling) -> None:
    many = await scenario.bills.send_many((b"key", b"value") for _ in range(100))
    await many.outcomes()
    await many


async def sends_and_flushes(scenario: Calling) -> None:
    await scenario.bills.send(value=b"value")
    await scenario.app.producer.flush()


async def awaits_a_delivery(scenario: Calling) -> None:
    delivery = await scenario.app.producer.send("bills", b"key", b"value")
    await delivery


async def sends_soon(scenario: Calling) -> None:
    await scenario.bills.send_soon(value=b"value")


async def writes_in_a_transaction(scenario: Calling) -> None:
    producer = scenario.app.producer
    await producer.begin_transaction("id")
    await producer.send("bills", None, b"value", transactional_id="id")
    await producer.commit_transaction("id")
    await producer.maybe_begin_transaction("id")
    await producer.send_and_wait("bills", None, b"value", transactional_id="id")
    await producer.abort_transaction("id")
    await producer.stop_transaction("id")


async def commits_transactions(scenario: Calling) -> None:
    producer = scenario.app.producer
    await producer.begin_transaction("id")
    await producer.send("bills", None, b"value", transactional_id="id")
    await producer.commit_transactions({"id": {TP("bills", 0): 1}}, "another group")
    await producer.stop_transaction("id")


async def fails_a_task(scenario: Calling) -> None:
    with pytest.raises(ZeroDivisionError):
        await scenario.app.consumer.on_task_error(ZeroDivisionError())


async def waits_for_the_stop(scenario: Calling) -> None:
    with trio.move_on_after(1):
        await scenario.app.wait_stopped()


CALLS: dict[str, Call] = {
    "App.wait_stopped": waits_for_the_stop,
    "Topic.__aiter__": takes_acking,
    "Topic.noack": takes,
    "Topic.batches": takes_a_batch,
    "Topic.send": sends,
    "Topic.send_and_wait": lambda scenario: scenario.bills.send_and_wait(value=b"value"),
    "Topic.send_many": sends_many,
    "Topic.send_soon": sends_soon,
    "Delivery.wait": awaits_a_delivery,
    "FutureMessage.wait": sends_soon,
    "ManyDeliveries.outcomes": sends_many,
    "ManyDeliveries.wait": sends_many,
    "Producer.send": sends,
    "Producer.send_and_wait": lambda scenario: scenario.app.producer.send_and_wait(
        "bills", None, b"value"
    ),
    "Producer.flush": sends_and_flushes,
    "Producer.create_topic": lambda scenario: scenario.app.producer.create_topic("new", 2),
    "Producer.begin_transaction": writes_in_a_transaction,
    "Producer.maybe_begin_transaction": writes_in_a_transaction,
    "Producer.commit_transaction": writes_in_a_transaction,
    "Producer.abort_transaction": writes_in_a_transaction,
    "Producer.stop_transaction": writes_in_a_transaction,
    "Producer.commit_transactions": commits_transactions,
    "Conductor.commit": lambda scenario: scenario.app.conductor.commit({"orders"}),
    "Conductor.wait_for_subscriptions": subscribes,
    "Conductor.maybe_wait_for_subscriptions": maybe_subscribes,
    "Conductor.on_client_only_start": lambda scenario: (
        scenario.app.conductor.on_client_only_start()
    ),
    "Consumer.getmany": gets_many,
    "Consumer.commit": lambda scenario: scenario.app.consumer.commit(metadata="a text"),
    "Consumer.force_commit": lambda scenario: scenario.app.consumer.force_commit(),
    "Consumer.commit_and_end_transactions": lambda scenario: (
        scenario.app.consumer.commit_and_end_transactions()
    ),
    "Consumer.maybe_wait_for_commit_to_finish": waits_for_a_commit,
    "Consumer.wait_empty": lambda scenario: scenario.app.consumer.wait_empty(),
    "Consumer.seek": seeks_back,
    "Consumer.seek_to_committed": lambda scenario: scenario.app.consumer.seek_to_committed(),
    "Consumer.seek_to_beginning": lambda scenario: scenario.app.consumer.seek_to_beginning(),
    "Consumer.seek_to_end": seeks_to_the_end,
    "Consumer.seek_to_time": lambda scenario: scenario.app.consumer.seek_to_time(0.0),
    "Consumer.position": lambda scenario: scenario.app.consumer.position(ORDERS[0]),
    "Consumer.committed": lambda scenario: scenario.app.consumer.committed(ORDERS),
    "Consumer.committed_metadata": lambda scenario: scenario.app.consumer.committed_metadata(
        ORDERS
    ),
    "Consumer.beginning_offsets": lambda scenario: scenario.app.consumer.beginning_offsets(ORDERS),
    "Consumer.end_offsets": lambda scenario: scenario.app.consumer.end_offsets(ORDERS),
    "Consumer.offsets_for_times": lambda scenario: scenario.app.consumer.offsets_for_times(
        dict.fromkeys(ORDERS, 0.0)
    ),
    "Consumer.topics": lambda scenario: scenario.app.consumer.topics(),
    "Consumer.partitions": lambda scenario: scenario.app.consumer.partitions("orders"),
    "Consumer.perform_seek": lambda scenario: scenario.app.consumer.perform_seek(),
    "Consumer.wait_for_stopped_flow": waits_for_stopped_flow,
    "Consumer.on_task_error": fails_a_task,
    "Consumer.verify_all_partitions_active": lambda scenario: (
        scenario.app.consumer.verify_all_partitions_active()
    ),
    "Consumer.restart": lambda scenario: scenario.app.consumer.restart(),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_app_goes_on_after_a_cancelled_call(name: str) -> None:
    assert cancel_everywhere(lambda: Calling(CALLS[name])) > 0


# Only the app's tree and its handlers call these. They are cancelled with the whole app, below, and
# in tests/handling.
OF_THE_TREE = {
    *("redo", "isolate", "addressed_many_loaded", "wait_until_ended"),
    *("add_service", "start", "stop", "serve", "stop_children"),
    *("on_start", "on_stop", "on_restart", "kill", "send_while", "restart"),
    "send_many_while",
    *("on_partitions_assigned", "on_partitions_revoked", "on_partitions_lost"),
    "on_topics_replaced",
    *("wait_for_change", "wait_for_patterns", "wait_until_wanted", "ask_partitions"),
}
PUBLIC = (App, Topic, Producer, Delivery, ManyDeliveries, FutureMessage, Consumer, Conductor)


def test_no_public_call_is_left_out() -> None:
    calls = {
        f"{cls.__name__}.{name}"
        for cls in PUBLIC
        for name, method in inspect.getmembers(cls, inspect.iscoroutinefunction)
        if not name.startswith("_") and name not in OF_THE_TREE
    }
    assert calls <= CALLS.keys()


# With transactions


class InTransaction(Calling):
    """The same in transactions: sent messages and offsets are committed together."""

    def __init__(self, call: Call, mode: str) -> None:
        super().__init__(call)
        self.settings = {**self.settings, "transactions": mode}

    def done(self, message: Message) -> None:
        value = b"%d-%d" % (message.partition, message.offset)
        self.bills.send_soon(value=value, source=message)
        super().done(message)

    async def clean_up(self) -> None:
        """Undo what the cancelled call sent for messages that it did not ack."""
        with contextlib.suppress(AppClosed):  # during a restart no message is unacked
            await self.app.consumer.seek_to_committed()

    def check(self) -> None:
        super().check()
        results = Counter(record.value for record in self.broker.records("bills"))
        assert results == Counter(
            b"%d-%d" % (tp.partition, offset) for tp in ORDERS for offset in range(RECORDS)
        )


async def takes_sends_and_acks(scenario: Calling) -> None:
    """Take, send and ack in three steps, as a handler does."""
    async for message in scenario.messages:
        value = b"%d-%d" % (message.partition, message.offset)
        await scenario.bills.send_and_wait(value=value)
        scenario.books.on_done(message.tp, message.offset)
        message.ack()
        if len(scenario.books.done) == 6:
            return


IN_TRANSACTION: dict[str, Call] = {
    "TransactionManager.send": takes_sends_and_acks,
    "TransactionManager.flush": lambda scenario: scenario.app.consumer.transactions.flush(),
    "Consumer.commit": lambda scenario: scenario.app.consumer.commit(),
    "Consumer.commit_and_end_transactions": lambda scenario: (
        scenario.app.consumer.commit_and_end_transactions()
    ),
    "Consumer.seek": seeks_to_the_next,
    "Consumer.commit with metadata": lambda scenario: scenario.app.consumer.commit(
        metadata="a text"
    ),
    "Consumer.seek_to_committed": lambda scenario: scenario.app.consumer.seek_to_committed(),
    "Consumer.wait_empty": lambda scenario: scenario.app.consumer.wait_empty(),
    "Consumer.restart": lambda scenario: scenario.app.consumer.restart(),
}


@pytest.mark.parametrize("mode", ["member", "partition"])
@pytest.mark.parametrize("name", IN_TRANSACTION)
def test_an_app_goes_on_after_a_cancelled_call_in_a_transaction(name: str, mode: str) -> None:
    assert cancel_everywhere(lambda: InTransaction(IN_TRANSACTION[name], mode)) > 0


# A whole app


class Working:
    """Two members: the second joins later and leaves earlier, with rebalances and commits."""

    def __init__(self, assignment: str, mode: str | None) -> None:
        self.books = Books()
        self.broker = MemoryBroker(
            on_commit=lambda group, offsets: self.books.on_committed(offsets)
        )
        self.broker.create_topic("orders", len(ORDERS))
        for tp in ORDERS:
            write(self.broker, tp, RECORDS)
            self.books.on_written(tp, range(RECORDS))
        self._settings = {"assignment": assignment, "transactions": mode, "commit_interval": 0.5}

    async def play(self, target: Target) -> None:
        with target:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.work, 6.0)
                await trio.sleep(1.0)
                await self.work(2.0)
                await trio.sleep(1.0)

    async def work(self, seconds: float) -> None:
        async with App("group", self.broker, **self._settings) as app:
            with trio.move_on_after(seconds):
                async for message in app.topic("orders"):
                    await trio.sleep(0.3)
                    with trio.CancelScope(shield=True):  # the work is done whole or not at all
                        await app.topic("bills").send(value=b"value")
                    self.books.on_done(message.tp, message.offset)

    def check(self) -> None:
        assert not self.broker.group("group").members


@pytest.mark.parametrize("mode", [None, "member", "partition"])
@pytest.mark.parametrize("assignment", ["cooperative", "eager"])
def test_a_cancelled_app_leaves_its_group(assignment: str, mode: str | None) -> None:
    assert cancel_everywhere(lambda: Working(assignment, mode), every=EVERY) > 20
