"""`handler_client` calls one handler of an app, and shows what it did."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import trio

from tests.effort import EVERY
from tests.logs import warnings_in
from tests.nurseries.clock import jumping
from tests.testing import enrichment
from tests.testing.enrichment import Order, app, audit, count, dead, enrich, enriched, read_log
from transport import (
    TP,
    App,
    Batch,
    DecodeError,
    HandlerTimeout,
    MemoryBroker,
    Message,
    Monitor,
    Retry,
)
from transport.drivers.kafka import KafkaDriver
from transport.testing import CallTimeout, Result, Target, cancel_everywhere, handler_client

ANNA = Order("anna", 1)


@pytest.fixture(autouse=True)
def no_failures() -> Iterator[None]:
    """Each test begins without failures of the handler."""
    enrichment.failures.clear()
    return


async def call(handler: Any = enrich, **arguments: Any) -> Result:
    async with handler_client(app) as client:
        return await client.call(handler, **arguments)


@jumping
async def test_call_shows_what_the_handler_sent_and_that_the_message_is_acked() -> None:
    result = await call(key="a", value=ANNA, headers={"trace": b"1"})
    assert (result.outcome, result.acked, result.failures) == ("handled", True, ())
    assert [(sent.topic, sent.key, sent.value) for sent in result.sent] == [
        ("events", None, b"begun"),
        ("orders.enriched", "a", Order("anna", 2)),
    ]
    (order,) = result.sent_to(enriched)
    assert (order.raw_key, order.raw_value) == (b"a", b'{"customer":"anna","amount":2}')
    assert order.headers == (("trace", b"1"),)


@jumping
async def test_call_never_connects_to_the_broker_of_the_app() -> None:
    await call(key="a", value=ANNA)
    assert isinstance(app.driver, KafkaDriver)
    assert not app.is_open


@jumping
async def test_calls_of_one_client_are_independent_and_keep_the_records() -> None:
    async with handler_client(app) as client:
        for number in (1, 2, 3):
            result = await client.call(enrich, key="a", value=Order("anna", number))
            assert [sent.value for sent in result.sent_to(enriched)] == [Order("anna", number * 2)]
        assert len(client.broker.records("orders.enriched")) == 3


@jumping
async def test_only_the_called_handler_gets_the_message() -> None:
    """The handler `audit` of the same topic would end the app."""
    result = await call(enrich, value=Order("anna", 5000))
    assert result.outcome == "handled"


@jumping
async def test_concurrent_calls_are_made_one_after_the_other() -> None:
    results: list[Result] = []

    async def call_once(client: Any, amount: int) -> None:
        results.append(await client.call(enrich, value=Order("anna", amount)))

    async with handler_client(app) as client, trio.open_nursery() as nursery:
        for amount in (1, 2, 3):
            nursery.start_soon(call_once, client, amount)
    assert sorted(result.sent_to(enriched)[0].value.amount for result in results) == [2, 4, 6]


@jumping
async def test_filtered_message_is_acked() -> None:
    result = await call(value=Order("anna", 0))
    assert (result.outcome, result.acked, result.sent) == ("filtered", True, ())


# Failures


@jumping
async def test_retries_are_made_at_once_and_show_their_delays() -> None:
    enrichment.failures.extend([OSError("first"), OSError("second")])
    began = trio.current_time()
    result = await call(value=ANNA)
    assert (result.outcome, result.retries, result.acked) == ("handled", 2, True)
    assert [(each.attempt, each.delay) for each in result.failures] == [(1, 600.0), (2, 1200.0)]
    assert [str(each.error) for each in result.failures] == ["first", "second"]
    assert trio.current_time() - began < 60
    assert len([sent for sent in result.sent if sent.topic == "events"]) == 3


@jumping
async def test_dead_letter_is_shown_apart_from_what_was_sent(
    caplog: pytest.LogCaptureFixture,
) -> None:
    enrichment.failures.append(ValueError("no such customer"))
    result = await call(key="a", value=ANNA, headers={"trace": b"1"})
    assert (result.outcome, result.acked, result.retries) == ("dead letter", True, 0)
    (letter,) = result.dead_letters
    assert (letter.topic, letter.raw_value) == (dead.name, b'{"customer":"anna","amount":1}')
    headers = dict(letter.headers)
    assert (headers["trace"], headers["dead.text"]) == (b"1", b"no such customer")
    assert [sent.topic for sent in result.sent] == ["events"]
    assert warnings_in(caplog) == []  # its topic exists


@jumping
async def test_dead_letter_is_told_from_other_messages_by_its_topic_and_headers() -> None:
    own = App("billing", broker="kafka://127.0.0.1:1")
    bills, letters = own.topic("bills"), own.topic("dead")

    async def bill(message: Message) -> None:
        await letters.send(value=b"not a letter")
        await bills.send(value=b"a bill", headers=message.headers)
        raise ValueError

    own.handler(own.topic("orders"), bill, dead_letters=letters)
    async with handler_client(own) as client:
        result = await client.call(bill, value=b"an order", headers={"dead.topic": b"orders"})
    assert [sent.value for sent in result.sent] == [b"not a letter", b"a bill"]
    assert [letter.value for letter in result.dead_letters] == [b"an order"]


@jumping
async def test_bytes_are_sent_as_they_are() -> None:
    result = await call(key=b"a", value=b"{")
    assert result.outcome == "dead letter"
    assert isinstance(result.failures[0].error, DecodeError)
    assert result.dead_letters[0].value == b"{"


@jumping
async def test_timeout_of_the_handler_is_a_failure() -> None:
    result = await call(value=Order("slow", 1))
    assert result.outcome == "dead letter"
    assert isinstance(result.failures[0].error, HandlerTimeout)


@jumping
async def test_error_that_would_end_the_app_is_raised_and_the_next_call_works() -> None:
    async with handler_client(app) as client:
        with pytest.raises(ValueError, match="too much") as raised:
            await client.call(audit, value=Order("anna", 5000))
        assert "in the handler audit, for orders-0 offset 0" in raised.value.__notes__[0]
        assert client.broker.committed("enrichment") == {TP("orders", 0): 0}
        assert (await client.call(audit, value=ANNA)).outcome == "handled"


@jumping
async def test_skipped_message_of_a_pattern() -> None:
    result = await call(read_log, value="bad", topic="logs.web")
    assert (result.outcome, result.acked) == ("skipped", True)


@jumping
async def test_handler_that_does_not_end_is_reported() -> None:
    own = App("billing", broker="kafka://127.0.0.1:1")

    async def hang(message: Message) -> None:
        await trio.sleep_forever()

    own.handler(own.topic("orders"), hang)
    async with handler_client(own) as client:
        with pytest.raises(CallTimeout, match="hang has not finished orders-0 offset 0 within 7 s"):
            await client.call(hang, timeout=7.0)


@jumping
async def test_message_that_the_handler_holds_is_not_acked() -> None:
    own = App("billing", broker="kafka://127.0.0.1:1")

    async def hold(message: Message) -> None:
        message.incref()

    own.handler(own.topic("orders"), hold)
    async with handler_client(own) as client:
        result = await client.call("hold")
    assert (result.outcome, result.acked) == ("handled", False)


# Settings


@pytest.mark.parametrize("mode", ["member", "partition"])
@jumping
async def test_with_transactions_outputs_of_failed_attempts_are_not_shown(mode: Any) -> None:
    own = App("billing", broker="kafka://127.0.0.1:1", transactions=mode)
    bills, failures = own.topic("bills"), [ValueError("first")]

    async def bill(message: Message) -> None:
        await bills.send(value=message.value)
        if failures:
            raise failures.pop()

    own.handler(own.topic("orders"), bill, dead_letters=own.topic("dead"))
    async with handler_client(own) as client:
        failed = await client.call(bill, value=b"one")
        assert (failed.outcome, failed.acked, failed.sent) == ("dead letter", True, ())
        assert failed.dead_letters[0].raw_value == b"one"
        handled = await client.call(bill, value=b"two")
        assert [sent.value for sent in handled.sent] == [b"two"]


@pytest.mark.parametrize(
    "settings", [{}, {"client_only": True}, {"partitions": {("orders", 0): 5}}]
)
@pytest.mark.parametrize("policy", ["earliest", "latest", "error"])
@jumping
async def test_only_the_message_of_the_call_is_handled(policy: Any, settings: Any) -> None:
    """Whatever the start offset of the app is."""
    own = App("billing", broker="kafka://127.0.0.1:1", auto_offset_reset=policy, **settings)
    handled = []

    @own.handler(own.topic("orders"))
    async def bill(message: Message) -> None:
        handled.append(message.value)

    async with handler_client(own) as client:
        for value in (b"one", b"two"):
            assert (await client.call(bill, value=value)).acked
    assert handled == [b"one", b"two"]
    assert own.settings.client.partitions == settings.get("partitions")


@jumping
async def test_app_with_a_monitor_can_be_called_twice() -> None:
    own = App("billing", broker="kafka://127.0.0.1:1", monitor=Monitor())

    @own.handler(own.topic("orders"))
    async def bill(message: Message) -> None:
        pass

    async with handler_client(own) as client:
        for _ in range(2):
            assert (await client.call(bill)).outcome == "handled"


@jumping
async def test_app_without_a_group_can_be_called() -> None:
    own = App("billing", broker="kafka://127.0.0.1:1", client_only=True)

    async def bill(message: Message) -> None:
        if message.value == b"hold":
            message.incref()

    own.handler(own.topic("orders"), bill)
    async with handler_client(own) as client:
        assert (await client.call(bill, value=b"one")).acked
        assert not (await client.call(bill, value=b"hold")).acked


@jumping
async def test_several_errors_are_raised_as_a_group() -> None:
    own = App("billing", broker="kafka://127.0.0.1:1")

    async def fail(message: Message) -> None:
        await trio.sleep(1)
        raise ValueError

    own.handler(own.topic("orders"), fail, order="none", concurrency=2)
    async with handler_client(own) as client:
        with pytest.RaisesGroup(ValueError, ValueError, flatten_subgroups=True):
            await client.call_many(fail, [(None, b"one"), (None, b"two")])


@jumping
async def test_given_broker_has_the_records() -> None:
    broker = MemoryBroker(default_partitions=3)
    async with handler_client(app, broker=broker) as client:
        result = await client.call(enrich, value=ANNA, partition=2, timestamp=5.0)
    assert result.acked
    assert [record.timestamp for record in broker.records("orders")] == [5000]


# Batches


@jumping
async def test_batch_handler_gets_all_messages_without_its_linger() -> None:
    async with handler_client(app) as client:
        began = trio.current_time()
        result = await client.call_many(
            count, [("a", ANNA), ("b", b"{"), {"key": "c", "value": Order("anna", 2)}]
        )
    assert trio.current_time() - began < 60
    assert result.outcomes == ("handled", "dead letter", "handled")
    assert [sent.value for sent in result.sent] == [b"2"]
    with pytest.raises(ValueError, match="there are 3 messages: use outcomes"):
        _ = result.outcome


@jumping
async def test_failures_of_a_batch_name_only_the_messages_that_failed() -> None:
    """A batch that fails is split, which is no retry and has no delay."""
    own = App("billing", broker="kafka://127.0.0.1:1")

    async def fail(batch: Batch) -> None:
        raise ValueError

    own.batch_handler(
        own.topic("orders"),
        fail,
        retry=Retry(attempts=2, wait_initial=600.0, wait_max=600.0, wait_jitter=0),
        dead_letters="skip",
    )
    async with handler_client(own) as client:
        result = await client.call_many(fail, [(None, b"value")] * 4)
    assert result.outcomes == ("skipped",) * 4
    assert [(each.offset, each.delay) for each in result.failures] == [
        *[(0, 0.0), (1, 0.0), (2, 0.0), (3, 0.0)],
        *[(0, 0.0), (1, 0.0)],
        *[(0, 600.0), (0, None), (1, 600.0), (1, None)],
        *[(2, 0.0), (3, 0.0)],
        *[(2, 600.0), (2, None), (3, 600.0), (3, None)],
    ]


@jumping
async def test_batch_handler_gets_a_batch_of_one_message() -> None:
    result = await call(count, value=ANNA)
    assert [sent.value for sent in result.sent] == [b"1"]


# Wrong calls


@jumping
async def test_wrong_calls_are_refused() -> None:
    own = App("billing", broker="kafka://127.0.0.1:1")

    async def bill(message: Message) -> None:
        pass

    own.handler(own.topic("orders", value_type=str), bill)
    own.handler(own.topic("others"), bill, name="second")
    async with handler_client(own) as client:
        with pytest.raises(ValueError, match="handlers 'bill' and 'second' have this function"):
            await client.call(bill)
        with pytest.raises(ValueError, match=r"no handler .*one of its handlers \(bill, second\)"):
            await client.call(enrich)
        with pytest.raises(ValueError, match="'bill' does not read the topic 'others'"):
            await client.call("bill", topic="others")
        with pytest.raises(TypeError, match="the value of a message for 'orders' must be a str"):
            await client.call("bill", value=5)
        with pytest.raises(ValueError, match="there is no message"):
            await client.call_many("bill", [])
        with pytest.raises(TypeError, match="a pair of key and value, or a mapping"):
            await client.call_many("bill", [b"value"])  # type: ignore[list-item]
        result = await client.call("bill", value="tea")
        with pytest.raises(TypeError, match="topic must be a topic object, made by"):
            result.sent_to("bills")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pass topic= with the name of one"):
        await call(read_log, value="line")
    with pytest.raises(TypeError, match="app must be an App"):
        async with handler_client(None):  # type: ignore[arg-type]
            pass


@jumping
async def test_open_app_is_refused() -> None:
    own = App("billing", broker="memory://")

    @own.handler(own.topic("orders"))
    async def bill(message: Message) -> None:
        pass

    async with own, handler_client(own) as client:
        with pytest.raises(RuntimeError, match="the app 'billing' is open"):
            await client.call(bill)


def test_call_works_on_the_real_clock() -> None:
    assert trio.run(lambda: call(value=ANNA)).outcome == "handled"


class CancelledCall:
    """A call that is cancelled at any step leaves the app as it was, and the next call works."""

    def __init__(self) -> None:
        self.result: Result | None = None

    async def play(self, target: Target) -> None:
        async with handler_client(app) as client:
            with target:
                await client.call(enrich, key="a", value=ANNA)
            self.result = await client.call(enrich, key="b", value=ANNA)

    def check(self) -> None:
        assert isinstance(app.driver, KafkaDriver)
        assert self.result is not None
        assert self.result.acked
        assert [sent.key for sent in self.result.sent_to(enriched)] == ["b"]


def test_call_can_be_cancelled_at_each_step() -> None:
    assert cancel_everywhere(CancelledCall, every=EVERY) > 10
