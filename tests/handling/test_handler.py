"""A handler: the order of its messages, its concurrency, filters, keys and timeouts.

`test_handler_failures.py` has retries and failures, `test_handler_ends.py` the ways in which a
handler stops, and `test_handler_rebalances.py` revoked partitions.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import trio

from tests.apps import app_on, committed
from tests.effort import SEEDS
from tests.handling.calls import (
    ORDERS,
    Broken,
    Call,
    Calls,
    broker_with,
    check_order,
    committed_to,
    handling,
    put,
)
from tests.lanes import NEVER
from tests.logs import warnings_in
from tests.nurseries.clock import jumping
from tests.nurseries.errors import leaves
from transport import JSON, TP, HandlerTimeout, Message, Retry, RoundRobin
from transport.testing import run

ORDERS_OF = pytest.mark.parametrize("order", ["partition", "key", "none"])


def by_partition(call: Call) -> object:
    return call.tp


def by_key(call: Call) -> object:
    return (call.tp, call.key if call.key is not None else call.offset)


# Orders


@jumping
async def test_messages_of_a_partition_are_handled_one_after_the_other_by_default() -> None:
    broker = broker_with("abc ab c", partitions=2)
    calls = Calls(1.0)
    async with handling(broker, calls, concurrency=10):
        await trio.sleep(20)
    check_order(calls.all, by_partition)
    assert calls.most == 2
    assert Counter(calls.done) == Counter(2 * list(range(8)))


@jumping
async def test_messages_of_a_key_are_handled_one_after_the_other() -> None:
    broker = broker_with("aabacbb", partitions=2)
    calls = Calls(1.0)
    async with handling(broker, calls, order="key", concurrency=10):
        await trio.sleep(4)
    check_order(calls.all, by_key)
    assert calls.most == 6
    assert len(calls.done) == 14
    assert max(call.end or 0.0 for call in calls.all) - calls.all[0].start == 3.0


@jumping
async def test_messages_without_a_key_have_no_order_in_key_order() -> None:
    calls = Calls(1.0)
    async with handling(broker_with("    a"), calls, order="key", concurrency=10):
        await trio.sleep(2)
    assert calls.most == 5


@jumping
async def test_an_empty_key_is_a_key() -> None:
    broker = broker_with()
    log = broker.log(ORDERS)
    for _ in range(3):
        log.append(b"", b"value", (), broker.clock())
    calls = Calls(1.0)
    async with handling(broker, calls, order="key", concurrency=10):
        await trio.sleep(4)
    assert calls.most == 1


@jumping
async def test_messages_begin_in_offset_order_without_an_order_too() -> None:
    calls = Calls(lambda message: 10.0 - message.offset)
    async with handling(broker_with("aaaaaaaa"), calls, order="none", concurrency=4):
        await trio.sleep(30)
    assert calls.begun == list(range(8))
    assert calls.most == 4


@jumping
async def test_one_message_is_handled_at_a_time_by_default() -> None:
    calls = Calls(1.0)
    async with handling(broker_with("ab", partitions=3), calls):
        await trio.sleep(10)
    assert calls.most == 1
    assert len(calls.done) == 6


@pytest.mark.parametrize("concurrency", [1, 2, 7, 100])
@ORDERS_OF
@jumping
async def test_concurrency_is_reached_and_never_exceeded(order: str, concurrency: int) -> None:
    broker = broker_with("abcde" * 4, partitions=6)
    calls = Calls(lambda message: 1.0 + message.offset % 3)
    async with handling(broker, calls, order=order, concurrency=concurrency):
        while len(calls.done) < 120:  # noqa: ASYNC110 - no event reports it
            await trio.sleep(1)
    width = {"partition": 6, "key": 30, "none": 120}[order]
    assert calls.most == min(concurrency, width)


@pytest.mark.parametrize("seed", SEEDS)
def test_each_order_keeps_its_guarantee_at_random(seed: int) -> None:
    draw = random.Random(seed)

    async def play() -> None:
        partitions = draw.randint(1, 4)
        keys = "".join(draw.choices("abcd ", k=draw.randint(1, 60)))
        broker = broker_with(keys, partitions=partitions)
        order, concurrency = draw.choice(["partition", "key", "none"]), draw.randint(1, 8)
        calls = Calls(
            lambda message: draw.choice([0.0, 0.1, 1.0]),
            lambda message, attempt: Broken() if draw.random() < 0.2 else None,
        )
        async with handling(
            broker,
            calls,
            order=order,
            concurrency=concurrency,
            retry=Retry(attempts=100, wait_initial=draw.choice([0, 0.5]), wait_jitter=0.5),
            settings={"buffer_size": draw.choice([1, 2, 10, 1000])},
        ):
            for _ in range(draw.randint(0, 3)):
                await trio.sleep(draw.uniform(0, 5))
                put(broker, "ab ")
            ends = {tp: broker.log(tp).end for tp in broker.partitions("orders")}
            while committed(broker) != ends:  # noqa: ASYNC110 - no event reports it
                await trio.sleep(1)
        if order != "none":
            check_order(calls.all, by_partition if order == "partition" else by_key)
        assert calls.most <= concurrency
        done = Counter((call.tp, call.offset) for call in calls.all if call.outcome == "done")
        assert done == Counter((tp, offset) for tp, end in ends.items() for offset in range(end))

    run(play, seed=seed)


@jumping
async def test_a_handler_on_several_partitions_gives_each_its_turn() -> None:
    """A hot partition must not starve another one."""
    broker = broker_with("", partitions=2)
    hot, cold = TP("orders", 0), TP("orders", 1)
    put(broker, "a" * 5000, hot)
    put(broker, "a", cold)
    calls = Calls(1.0)
    async with handling(broker, calls):
        while len(calls.all) < 1000:  # noqa: ASYNC110 - no event reports it
            await trio.sleep(10)
    place = next(at for at, call in enumerate(calls.all) if call.tp == cold)
    assert place <= 2 * RoundRobin().quantum * 4


@jumping
async def test_a_key_with_many_messages_starves_no_other_key() -> None:
    calls = Calls(1.0)
    async with handling(broker_with("a" * 300 + "b"), calls, order="key", concurrency=1):
        await trio.sleep(400)
    assert calls.begun.index(300) < 300


@jumping
async def test_a_function_that_never_waits_needs_one_worker_and_lets_other_tasks_run() -> None:
    steps = 0

    async def count_steps() -> None:
        nonlocal steps
        while True:
            await trio.lowlevel.checkpoint()
            steps += 1

    async def worker(message: Message) -> None:
        if message.offset == 0:
            nursery.start_soon(count_steps)
        elif message.offset == 9999:
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        async with handling(
            broker_with("abcdefghij" * 1000), worker, order="none", concurrency=100
        ) as app:
            await trio.sleep_forever()
        [handler] = app.handlers
        assert handler.counts.handled == 10_000
    assert steps > 10


# Acks and commits


@jumping
async def test_a_commit_never_passes_a_running_message() -> None:
    """Acks may come out of order. Commits follow I1."""
    broker = broker_with("abcdef")
    calls = Calls(lambda message: 10.0 if message.offset == 2 else 1.0)
    async with handling(broker, calls, order="none", concurrency=6):
        await trio.sleep(5)
        assert calls.running == [2]
        assert committed_to(broker) == 2
        await trio.sleep(10)
        assert committed_to(broker) == 6


@jumping
async def test_a_function_may_ack_its_message_itself() -> None:
    broker = broker_with("ab")

    async def worker(message: Message) -> None:
        async with message:
            pass
        await trio.sleep(5)

    async with handling(broker, worker) as app:
        await trio.sleep(3)
        assert committed_to(broker) == 1
        await trio.sleep(10)
        assert app.consumer.assignment.tally.doubled == 0
    assert committed_to(broker) == 2


@jumping
async def test_a_message_with_another_holder_is_acked_when_that_acks_it() -> None:
    broker = broker_with("a")
    kept = []

    async def worker(message: Message) -> None:
        message.incref()
        kept.append(message)

    async with handling(broker, worker):
        await trio.sleep(5)
        assert committed_to(broker) == 0
        kept[0].ack()
        await trio.sleep(5)
        assert committed_to(broker) == 1


@jumping
async def test_unacked_messages_never_exceed_the_buffer_also_with_parked_ones() -> None:
    """I8."""
    broker = broker_with("a" * 50 + "bcdefg" * 20)
    most = 0

    async def worker(message: Message) -> None:
        nonlocal most
        most = max(most, sum(1 for _ in app.consumer.unacked))
        await trio.sleep(1)

    async with handling(
        broker, worker, order="key", concurrency=8, settings={"buffer_size": 10}
    ) as app:
        await trio.sleep(300)
    assert most == 10
    assert committed_to(broker) == 170


@jumping
async def test_messages_behind_a_busy_key_take_about_half_of_the_buffer() -> None:
    broker = broker_with("a" * 3000)
    async with handling(
        broker,
        Calls(1000.0),
        order="key",
        concurrency=8,
        settings={"buffer_size": 1000, "grace": 1.0},
    ) as app:
        await trio.sleep(10)
        [handler] = app.handlers
        assert handler.running == 1
        assert 500 <= handler.waiting <= 500 + 64


@pytest.mark.parametrize("order", ["key", "none"])
@jumping
async def test_few_messages_are_done_beyond_one_that_is_not_because_a_crash_would_repeat_them(
    order: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Acked messages leave the buffer, so another bound than that of the buffer counts them."""
    broker = broker_with("a" + "bcdefghi" * 500, partitions=2)
    slow = TP("orders", 0)
    calls = Calls(lambda message: 100.0 if message.tp == slow and message.offset == 0 else 0.0)
    async with handling(broker, calls, order=order, concurrency=8, settings={"buffer_size": 100}):
        await trio.sleep(50)
        first, second = (
            sum(call.tp.partition == number for call in calls.all) for number in (0, 1)
        )
        assert 800 < first < 1000
        assert second == 4001
        assert caplog.text.count("offset 0 is not done") == 1
        await trio.sleep(100)
        assert committed_to(broker, slow) == 4001


SLOW = Retry(attempts=2, wait_initial=100, wait_max=100, wait_jitter=0)


@jumping
async def test_a_key_that_fails_delays_no_other_key_while_few_messages_wait() -> None:
    """I8 with blocked keys: below the quota."""
    broker = broker_with("a" * 100 + "bcdefghi" * 10)
    calls = Calls(1.0, lambda message, attempt: Broken() if message.key == b"a" else None)
    async with handling(
        broker,
        calls,
        order="key",
        concurrency=8,
        retry=SLOW,
        settings={"buffer_size": 1000, "grace": 1.0},
    ):
        await trio.sleep(20)
        assert len(calls.done) == 80
        assert calls.of(0)[-1].attempt == 1


@jumping
async def test_computed_key_that_fails_is_the_one_that_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with handling(
        broker_with("a" * 1000),
        Calls(fails=lambda message, attempt: Broken()),
        order="key",
        key=lambda message: "computed",
        retry=SLOW,
        settings={"buffer_size": 100},
    ):
        await trio.sleep(5)
        [warning] = warnings_in(caplog)
    assert "such as the key 'computed' at offset 0" in warning


@pytest.mark.parametrize("order", ["partition", "key"])
@jumping
async def test_a_key_that_fails_leaves_the_buffer_to_other_partitions(
    order: str, caplog: pytest.LogCaptureFixture
) -> None:
    """I8 with blocked keys: past the quota, the partition waits, and the key is reported."""
    broker = broker_with("z", partitions=2)
    calls = Calls(0.1, lambda message, attempt: Broken() if message.key == b"a" else None)
    async with handling(
        broker,
        calls,
        order=order,
        concurrency=8,
        retry=SLOW,
        dead_letters="skip",
        settings={"buffer_size": 1000},
    ) as app:
        await trio.sleep(5)
        put(broker, "a" * 2000 + "b" * 100)
        await trio.sleep(20)
        assert len(app.consumer.unacked) <= 500
        put(broker, "bcdefghi" * 4, TP("orders", 1))
        await trio.sleep(40)
        assert len(calls.done) == 34, "the other partition goes on"
        found = warnings_in(caplog)
        if order == "key":
            [warning] = found
            assert "messages of orders-0 wait behind keys whose message has failed" in warning
            assert "such as the key b'a' at offset 1" in warning
        else:
            assert found == []
        caplog.clear()
        calls.fails = lambda message, attempt: None
        await trio.sleep(300)
        assert committed(broker) == {TP("orders", 0): 2101, TP("orders", 1): 33}
        assert warnings_in(caplog) == []
    assert sorted(call.offset for call in calls.all if call.tp == ORDERS) == sorted(
        [1, *range(2101)]
    )


@jumping
async def test_a_bounded_number_of_messages_is_handled_beyond_one_that_is_not_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A crash repeats all of them. Acked messages leave the buffer, but none is committed."""
    broker = broker_with("a" + "bcde" * 100, partitions=2)
    calls = Calls(fails=lambda message, attempt: Broken() if message.offset == 0 else None)
    async with handling(
        broker, calls, order="key", concurrency=4, retry=SLOW, settings={"buffer_size": 20}
    ):
        await trio.sleep(50)
        for tp in broker.partitions("orders"):
            begun = [call.offset for call in calls.all if call.tp == tp]
            assert 160 <= max(begun) <= 160 + 64 + 1
            assert committed_to(broker, tp) == 0
        assert sum("a crash would repeat" in text for text in warnings_in(caplog)) == 2
        calls.fails = lambda message, attempt: None
        await trio.sleep(100)
        assert committed(broker) == dict.fromkeys(broker.partitions("orders"), 401)


@jumping
async def test_messages_are_taken_again_when_another_holder_acks_the_oldest_one() -> None:
    broker = broker_with("abcdefghij" * 30)
    kept: list[Message] = []

    async def worker(message: Message) -> None:
        if message.offset == 0:
            message.incref()
            kept.append(message)

    async with handling(
        broker, worker, order="none", concurrency=2, settings={"buffer_size": 10}
    ) as app:
        await trio.sleep(20)
        [handler] = app.handlers
        assert 80 <= handler.counts.handled < 90
        kept[0].ack()
        await trio.sleep(20)
        assert committed_to(broker) == 300


# Filters


@jumping
async def test_a_message_that_the_filter_refuses_is_acked_without_a_call() -> None:
    broker = broker_with("abab")
    calls = Calls()
    async with handling(broker, calls, filter=lambda message: message.key == b"b"):
        await trio.sleep(5)
        assert committed_to(broker) == 4
    assert calls.done == [1, 3]


@jumping
async def test_a_refused_message_is_acked_at_once_also_behind_its_busy_key() -> None:
    broker = broker_with("aaaa")
    calls = Calls(100.0)
    async with handling(
        broker, calls, order="key", concurrency=2, filter=lambda message: message.offset == 0
    ) as app:
        await trio.sleep(5)
        [handler] = app.handlers
        assert handler.counts.filtered == 3
        assert [message.offset for message in app.consumer.unacked] == [0]


@pytest.mark.parametrize(("result", "passes"), [(1, True), ("", False), (None, False)])
@jumping
async def test_the_filter_may_return_any_value(result: object, passes: bool) -> None:
    calls = Calls()
    async with handling(broker_with("a"), calls, filter=lambda message: result):
        await trio.sleep(1)
    assert calls.done == [0] * passes


@jumping
async def test_a_filter_sees_decoded_messages_and_none_that_cannot_be_decoded() -> None:
    """A pitfall of others: a record that cannot be decoded arrives as null and is filtered out."""
    broker = broker_with("a", value=b"{no json")
    put(broker, "b", value=b'{"amount": 5}')
    seen = []

    def large(message: Message) -> bool:
        seen.append(message.value)
        return True

    app = app_on(broker)
    calls = Calls()
    app.handler(
        app.topic("orders", value_type=JSON), calls, filter=large, dead_letters=app.topic("dead")
    )
    async with app:
        await trio.sleep(1)
    assert seen == [{"amount": 5}]
    assert [call.value for call in calls.all] == [{"amount": 5}]
    assert broker.log(TP("dead", 0)).end == 1


@pytest.mark.parametrize("order", ["partition", "key"])
@jumping
async def test_a_message_whose_filter_raises_fails_in_its_turn_and_is_not_retried(
    order: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_with("aaa")
    calls = Calls(10.0)

    def filter_out(message: Message) -> bool:
        if message.offset == 1:
            raise Broken("the filter")
        return True

    async with handling(
        broker,
        calls,
        order=order,
        concurrency=3,
        filter=filter_out,
        dead_letters="skip",
        retry=Retry(attempts=5),
    ):
        await trio.sleep(5)
        assert warnings_in(caplog) == [], "it waits for the message before it"
        await trio.sleep(10)
        assert calls.begun == [0, 2]
        await trio.sleep(10)
    assert calls.done == [0, 2]
    assert warnings_in(caplog) == [
        "group: handler worker skips orders-0 offset 1, which failed at attempt 1:"
        " Broken('the filter')"
    ]
    assert committed_to(broker) == 3


# Keys


@jumping
async def test_a_key_function_decides_which_messages_wait_for_each_other() -> None:
    calls = Calls(1.0)
    async with handling(
        broker_with("abcdef"),
        calls,
        order="key",
        concurrency=10,
        key=lambda message: message.offset % 2,
    ):
        await trio.sleep(4)
    check_order(calls.all, lambda call: call.offset % 2)
    assert calls.most == 2
    assert len(calls.done) == 6


@jumping
async def test_a_key_function_that_returns_none_gives_no_order() -> None:
    calls = Calls(1.0)
    async with handling(
        broker_with("aaaa"), calls, order="key", concurrency=10, key=lambda message: None
    ):
        await trio.sleep(2)
    assert calls.most == 4


@jumping
async def test_a_key_function_gets_the_decoded_message() -> None:
    broker = broker_with("ab", value=b'{"customer": 7}')
    app = app_on(broker)
    calls = Calls(1.0)
    app.handler(
        app.topic("orders", key_type=str, value_type=JSON),
        calls,
        order="key",
        concurrency=10,
        key=lambda message: message.value["customer"],
    )
    async with app:
        await trio.sleep(4)
    assert calls.most == 1
    assert [call.key for call in calls.all] == ["a", "b"]


@jumping
async def test_the_same_computed_key_in_two_partitions_is_two_keys() -> None:
    calls = Calls(1.0)
    async with handling(
        broker_with("ab", partitions=2), calls, order="key", concurrency=10, key=lambda m: "one"
    ):
        await trio.sleep(4)
    check_order(calls.all, by_partition)
    assert calls.most == 2


@pytest.mark.parametrize(
    ("key", "error"),
    [(lambda message: 1 / 0, "builtins.ZeroDivisionError"), (lambda m: [1], "builtins.TypeError")],
)
@jumping
async def test_a_message_without_a_usable_computed_key_fails_in_the_order_of_its_own_key(
    key: Any, error: str
) -> None:
    broker = broker_with("aab")
    calls = Calls(10.0)
    async with handling(
        broker,
        calls,
        order="key",
        concurrency=5,
        key=lambda message: key(message) if message.offset == 1 else message.key,
        dead_letters="dead",
        retry=Retry(attempts=5),
    ):
        await trio.sleep(5)
        assert broker.log(TP("dead", 0)).end == 0
        await trio.sleep(10)
    assert calls.done == [0, 2]
    [letter] = broker.log(TP("dead", 0)).read(0, 1 << 20).records
    assert dict(letter.headers)["dead.error"] == error.encode()
    assert dict(letter.headers)["dead.attempts"] == b"1"
    assert committed_to(broker) == 3


# Types


@jumping
async def test_the_order_of_keys_is_that_of_their_bytes_and_the_function_gets_decoded_ones() -> (
    None
):
    broker = broker_with("1")
    log = broker.log(ORDERS)
    log.append(b"01", b"2", (), broker.clock())
    log.append(b"1", b"3", (), broker.clock())
    app = app_on(broker)
    calls = Calls(1.0)
    app.handler(
        app.topic("orders", key_type=JSON), calls, order="key", concurrency=5, dead_letters="skip"
    )
    async with app:
        await trio.sleep(5)
    assert [call.key for call in calls.all] == [1, 1]
    assert calls.most == 1


@jumping
async def test_a_retry_gets_the_message_as_it_was() -> None:
    """A failed attempt may have changed the decoded value."""
    broker = broker_with("a", value=b'{"items": [1]}')
    app = app_on(broker)
    seen = []

    async def worker(message: Message) -> None:
        seen.append(list(message.value["items"]))
        message.value["items"].clear()
        message.value, message.key = None, None
        if len(seen) < 3:
            raise Broken

    app.handler(
        app.topic("orders", key_type=str, value_type=JSON),
        worker,
        retry=Retry(attempts=3, wait_initial=0, wait_jitter=0),
    )
    async with app:
        await trio.sleep(5)
    assert seen == [[1], [1], [1]]


# Timeouts


@jumping
async def test_an_attempt_that_takes_too_long_is_cancelled_and_fails() -> None:
    broker = broker_with("ab")
    calls = Calls(lambda message: 1000.0 if message.offset == 0 else 1.0)
    with pytest.raises(BaseExceptionGroup) as raised:
        async with handling(broker, calls, timeout=5.0):
            await trio.sleep_forever()
    [error] = leaves(raised.value)
    assert isinstance(error, HandlerTimeout)
    assert str(error) == (
        "the handler worker did not end within its timeout of 5 s, for <Message orders-0 0 unacked>"
    )
    [call] = calls.all
    assert call.end == call.start + 5
    assert committed_to(broker) == 0


@pytest.mark.parametrize("on", [HandlerTimeout, TimeoutError, Exception])
@jumping
async def test_a_timeout_is_retried_like_other_failures(on: type[Exception]) -> None:
    calls = Calls(lambda message: 1000.0 if len(calls.all) < 3 else 1.0)
    retry = Retry(attempts=3, wait_initial=2.0, wait_exp_base=1, wait_jitter=0, on=on)
    async with handling(broker_with("a"), calls, timeout=5.0, retry=retry):
        await trio.sleep(60)
    start = calls.all[0].start
    assert calls.starts(0) == [start, start + 7, start + 14]
    assert [call.outcome for call in calls.all] == ["cancelled", "cancelled", "done"]


@jumping
async def test_a_timeout_is_not_retried_if_it_is_not_among_the_errors() -> None:
    broker = broker_with("a")
    calls = Calls(1000.0)
    retry = Retry(attempts=3, on=ValueError)
    async with handling(broker, calls, timeout=5.0, retry=retry, dead_letters="dead"):
        await trio.sleep(60)
    assert len(calls.all) == 1
    [letter] = broker.log(TP("dead", 0)).read(0, 1 << 20).records
    assert dict(letter.headers)["dead.error"] == b"transport.errors.HandlerTimeout"


@jumping
async def test_a_function_that_returns_at_the_very_deadline_has_succeeded() -> None:
    """A race: success at the timeout."""
    broker = broker_with("ab")

    async def worker(message: Message) -> None:
        await trio.sleep(1)
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(4.0 + message.offset)  # to the deadline, and then past it
        assert trio.current_effective_deadline() <= trio.current_time()

    async with handling(broker, worker, timeout=5.0) as app:
        await trio.sleep(60)
        [handler] = app.handlers
        assert (handler.counts.handled, handler.counts.failed) == (2, 0)
    assert committed_to(broker) == 2


@jumping
async def test_the_timeout_does_not_count_the_time_before_the_attempt() -> None:
    calls = Calls(4.0)
    async with handling(broker_with("aaaaa"), calls, timeout=5.0):
        await trio.sleep(60)
    assert calls.done == [0, 1, 2, 3, 4]


@jumping
async def test_an_error_while_a_function_is_cancelled_by_its_timeout_is_the_failure() -> None:
    async def worker(message: Message) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Broken

    with pytest.raises(BaseExceptionGroup) as raised:
        async with handling(broker_with("a"), worker, timeout=5.0):
            await trio.sleep_forever()
    assert [type(error) for error in leaves(raised.value)] == [Broken]


@jumping
async def test_a_timeout_of_the_function_itself_is_its_own_failure() -> None:
    async def worker(message: Message) -> None:
        with trio.fail_after(1):
            await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as raised:
        async with handling(broker_with("a"), worker, timeout=5.0):
            await trio.sleep_forever()
    assert [type(error) for error in leaves(raised.value)] == [trio.TooSlowError]


@pytest.mark.parametrize(("timeout", "warnings"), [(30.0, 1), (10.0, 0), (5.0, 0)])
@jumping
async def test_a_timeout_beyond_the_bound_of_a_rebalance_is_a_warning(
    timeout: float, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with handling(broker_with(), Calls(), timeout=timeout, settings={"drain_timeout": 10.0}):
        await trio.sleep(1)
    found = warnings_in(caplog)
    assert len(found) == warnings
    assert all("may take 30 s for a message, but a rebalance waits only 10 s" in w for w in found)


@jumping
async def test_commits_are_made_while_a_message_waits_or_runs() -> None:
    broker = broker_with("ab")
    calls = Calls(lambda message: 0.0 if message.offset == 0 else 1000.0)
    async with handling(broker, calls, settings={"commit_interval": NEVER, "grace": 1.0}) as app:
        await trio.sleep(5)
        await app.consumer.commit()
        assert committed_to(broker) == 1
