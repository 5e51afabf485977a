"""Failures of a handler: retries, the last resort, and errors that are no failures."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.apps import app_on, committed
from tests.handling.calls import (
    Broken,
    Calls,
    broker_with,
    check_order,
    committed_to,
    fails_at,
    handling,
    put,
)
from tests.logs import warnings_in
from tests.nurseries.clock import jumping
from tests.nurseries.errors import leaves
from transport import TP, Batch, Message, Retry, StuckCase
from transport.drivers.memory import MemoryBroker

EACH_ORDER = pytest.mark.parametrize("order", ["partition", "key", "none"])


def steady(attempts: int, seconds: float, **options: Any) -> Retry:
    """Return a Retry with the same delay before each attempt."""
    return Retry(
        attempts=attempts,
        wait_initial=seconds,
        wait_max=seconds,
        wait_jitter=0,
        wait_exp_base=1,
        **options,
    )


def letters(broker: MemoryBroker) -> int:
    return broker.log(TP("dead", 0)).end


# Retries


@EACH_ORDER
@jumping
async def test_a_failed_message_is_retried_after_exactly_its_delay(order: str) -> None:
    """A pitfall of others: a retry delay of 1 s takes 3.2 s, or 10 s."""
    calls = Calls(fails=fails_at(0, attempts=4))
    retry = Retry(attempts=5, wait_initial=1.0, wait_max=3.0, wait_jitter=0)
    async with handling(
        broker_with("abc"), calls, order=order, concurrency=3, retry=retry, timeout=100
    ):
        await trio.sleep(30)
    start = calls.starts(0)[0]
    assert calls.starts(0) == [start, start + 1, start + 3, start + 6, start + 9]
    assert sorted(calls.done) == [0, 1, 2]


@jumping
async def test_many_retries_each_begin_at_their_own_time() -> None:
    broker = broker_with("abcdefghij" * 5)
    calls = Calls(fails=lambda message, attempt: Broken() if attempt == 1 else None)
    delays = iter([(number * 37 % 50) / 50 for number in range(50)])
    retry = Retry(
        attempts=2, wait_initial=1, wait_max=10, wait_jitter=1, random=lambda: next(delays)
    )
    async with handling(broker, calls, order="none", concurrency=50, retry=retry):
        await trio.sleep(30)
    waits = sorted(calls.starts(number)[1] - calls.starts(number)[0] for number in range(50))
    assert waits == pytest.approx([1 + number / 50 for number in range(50)])


@jumping
async def test_a_key_waits_for_the_retry_of_its_message_and_other_keys_go_on() -> None:
    broker = broker_with("aabaab")
    calls = Calls(fails=fails_at(0, attempts=1))
    async with handling(broker, calls, order="key", concurrency=1, retry=steady(2, 60)) as app:
        await trio.sleep(30)
        assert calls.done == [2, 5]
        [handler] = app.handlers
        assert (handler.running, handler.waiting) == (0, 4)
        assert committed_to(broker) == 0
        await trio.sleep(60)
    assert calls.begun == [0, 2, 5, 0, 1, 3, 4]
    assert committed_to(broker) == 6
    check_order(calls.all, lambda call: call.key)


@jumping
async def test_a_partition_waits_for_the_retry_of_its_message_and_other_partitions_go_on() -> None:
    broker = broker_with("ab", partitions=2)
    first = TP("orders", 0)

    def fails(message: Message, attempt: int) -> BaseException | None:
        return Broken() if message.tp == first and attempt == 1 and message.offset == 0 else None

    calls = Calls(fails=fails)
    async with handling(broker, calls, concurrency=1, retry=steady(2, 60)):
        await trio.sleep(30)
        assert [(call.tp.partition, call.offset) for call in calls.all if call.tp != first] == [
            (1, 0),
            (1, 1),
        ]
        assert [call.offset for call in calls.all if call.tp == first] == [0]
        await trio.sleep(60)
    check_order(calls.all, lambda call: call.tp)
    assert committed(broker) == {TP("orders", 0): 2, TP("orders", 1): 2}


@jumping
async def test_later_messages_overtake_a_retry_without_an_order() -> None:
    broker = broker_with("aaa")
    calls = Calls(fails=fails_at(0, attempts=1))
    async with handling(broker, calls, order="none", concurrency=1, retry=steady(2, 60)):
        await trio.sleep(90)
    assert calls.begun == [0, 1, 2, 0]


@jumping
async def test_a_waiting_retry_occupies_no_worker() -> None:
    broker = broker_with("abcdefgh")
    calls = Calls(fails=fails_at(0, 1, 2, 3, attempts=1))
    async with handling(broker, calls, order="key", concurrency=1, retry=steady(2, 60)):
        await trio.sleep(30)
        assert calls.done == [4, 5, 6, 7]


@jumping
async def test_only_as_many_attempts_are_made_as_allowed() -> None:
    broker = broker_with("a")
    calls = Calls(fails=fails_at(0))
    async with handling(broker, calls, retry=steady(3, 1), dead_letters="skip") as app:
        await trio.sleep(30)
        [handler] = app.handlers
        assert handler.counts.failed == 3
    assert [call.attempt for call in calls.all] == [1, 2, 3]


@jumping
async def test_an_error_that_is_not_among_the_retried_ones_is_final() -> None:
    broker = broker_with("ab")
    calls = Calls(
        fails=lambda message, attempt: KeyError() if message.offset == 0 else ValueError()
    )
    async with handling(
        broker, calls, retry=steady(3, 1, on=(ValueError, OSError)), dead_letters="skip"
    ):
        await trio.sleep(30)
    assert calls.begun == [0, 1, 1, 1]


@jumping
async def test_the_last_error_decides_whether_another_attempt_follows() -> None:
    calls = Calls(fails=lambda message, attempt: ValueError() if attempt < 3 else KeyError())
    async with handling(
        broker_with("a"), calls, retry=steady(9, 1, on=ValueError), dead_letters="skip"
    ):
        await trio.sleep(30)
    assert len(calls.all) == 3


@jumping
async def test_a_group_of_errors_is_retried_only_if_each_of_them_is() -> None:
    groups = [
        ExceptionGroup("", [OSError(), OSError()]),
        ExceptionGroup("", [OSError(), KeyError()]),
    ]
    calls = Calls(fails=lambda message, attempt: groups[message.offset])
    async with handling(
        broker_with("ab"), calls, retry=steady(2, 1, on=OSError), dead_letters="skip"
    ):
        await trio.sleep(30)
    assert calls.begun == [0, 0, 1]


@jumping
async def test_an_error_of_the_function_that_classifies_errors_ends_the_app() -> None:
    def retried(error: Exception) -> bool:
        raise KeyError("no such class")

    with pytest.raises(BaseExceptionGroup) as raised:
        async with handling(
            broker_with("a"), Calls(fails=fails_at(0)), retry=steady(2, 1, on=retried)
        ):
            await trio.sleep_forever()
    [error] = leaves(raised.value)
    assert str(error) == "'no such class'"
    assert "for orders-0 offset 0" in error.__notes__[0]


@jumping
async def test_a_message_that_always_fails_has_finite_attempts_and_the_others_are_handled() -> None:
    """A pitfall of others: records that always fail fill the buffer, and fetching stops."""
    broker = broker_with("abcdefghij" * 20)
    calls = Calls(fails=lambda message, attempt: Broken() if message.offset % 2 else None)
    async with handling(
        broker,
        calls,
        order="key",
        concurrency=5,
        retry=steady(3, 1),
        dead_letters="dead",
        settings={"buffer_size": 8},
    ):
        await trio.sleep(500)
    assert sorted(calls.done) == list(range(0, 200, 2))
    assert letters(broker) == 100
    assert committed_to(broker) == 200


@jumping
async def test_waiting_retries_count_in_the_buffer() -> None:
    """A pitfall of others: the queue of retries grows until memory ends."""
    broker = broker_with("abcdefghij" * 20)
    calls = Calls(fails=lambda message, attempt: Broken())
    async with handling(
        broker,
        calls,
        order="none",
        concurrency=5,
        retry=steady(2, 100),
        dead_letters="skip",
        settings={"buffer_size": 16},
    ) as app:
        await trio.sleep(50)
        [handler] = app.handlers
        assert handler.waiting == len(calls.all) == len(app.consumer.unacked)
        assert 8 <= handler.waiting <= 16


@jumping
async def test_a_later_success_does_not_commit_past_a_failed_message() -> None:
    """A pitfall of others: a later success commits past a failed or running message."""
    broker = broker_with("abcd")
    calls = Calls(fails=fails_at(1, attempts=1))
    async with handling(broker, calls, order="key", concurrency=4, retry=steady(2, 60)):
        await trio.sleep(30)
        assert calls.done == [0, 2, 3]
        assert committed_to(broker) == 1
        await trio.sleep(60)
        assert committed_to(broker) == 4


@jumping
async def test_a_retry_never_seeks() -> None:
    """A pitfall of others: a later seek overrides an earlier one, and messages are lost."""
    broker = broker_with("abcabc", partitions=2)
    calls = Calls(fails=fails_at(0, 1, 2, attempts=2))
    async with handling(broker, calls, order="key", concurrency=4, retry=steady(3, 5)) as app:
        epochs = {message.epoch for message in app.consumer.unacked}
        await trio.sleep(60)
        epochs |= {ledger.epoch for ledger in app.consumer.assignment.values()}
        assert len(epochs) == 2
        assert app.consumer.assignment.tally.stale == 0
    assert sorted(calls.done) == sorted([*range(6), *range(6)])


@jumping
async def test_slow_handlers_and_retries_evict_no_member() -> None:
    """A pitfall of others: slow handlers or a backoff exceed the poll interval."""
    broker = broker_with("ab")
    calls = Calls(lambda m: 500.0, fails=fails_at(0, attempts=2))
    async with handling(
        broker,
        calls,
        order="key",
        retry=steady(3, 400),
        settings={
            "max_poll_interval": 60.0,
            "session_timeout": 10.0,
            "stuck_ack_timeout": 1e5,
            "commit_livelock_soft_timeout": 1e5,
        },
    ) as app:
        [generation] = {ledger.generation for ledger in app.consumer.assignment.values()} or {1}
        await trio.sleep(3500)
        assert {ledger.generation for ledger in app.consumer.assignment.values()} == {generation}
    assert sorted(calls.done) == [0, 1]
    assert committed_to(broker) == 2


# The last resort


@pytest.mark.parametrize("attempts", [1, 3])
@jumping
async def test_the_app_ends_with_the_very_error_of_the_last_attempt(attempts: int) -> None:
    errors = [Broken(f"attempt {number}") for number in (1, 2, 3)]
    calls = Calls(fails=lambda message, attempt: errors[attempt - 1])
    broker = broker_with("a")
    with pytest.raises(BaseExceptionGroup) as raised:
        async with handling(broker, calls, retry=steady(attempts, 1)):
            await trio.sleep_forever()
    [error] = leaves(raised.value)
    assert error is errors[attempts - 1]
    assert error.__notes__ == [f"in the handler worker, for orders-0 offset 0, attempt {attempts}"]
    assert committed_to(broker) == 0


@jumping
async def test_a_failure_that_ends_the_app_cancels_all_running_messages_at_once() -> None:
    broker = broker_with("abc")
    other = Calls(1000.0)
    app = app_on(broker)
    app.handler(app.topic("orders"), other, name="other", order="none", concurrency=3)
    app.handler(app.topic("orders"), Calls(5.0, fails=fails_at(0)), name="worker")
    start = trio.current_time()
    with pytest.raises(BaseExceptionGroup) as raised:
        async with app:
            await trio.sleep_forever()
    assert [type(error) for error in leaves(raised.value)] == [Broken]
    assert [call.outcome for call in other.all] == ["cancelled"] * 3
    assert {call.end for call in other.all} == {other.all[0].start + 5}
    assert trio.current_time() - start < 10
    assert committed_to(broker) == 0


@jumping
async def test_messages_that_were_done_before_the_failure_are_committed() -> None:
    broker = broker_with("abc")
    with pytest.raises(BaseExceptionGroup):
        async with handling(broker, Calls(fails=fails_at(2)), settings={"commit_interval": 1000.0}):
            await trio.sleep_forever()
    assert committed_to(broker) == 2


@jumping
async def test_a_skipped_message_is_acked_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    broker = broker_with("abc")
    calls = Calls(fails=fails_at(1))
    async with handling(broker, calls, dead_letters="skip", retry=steady(3, 1)) as app:
        await trio.sleep(10)
        [handler] = app.handlers
        assert handler.counts.skipped == 1
    assert calls.done == [0, 2]
    assert committed_to(broker) == 3
    assert warnings_in(caplog) == [
        "group: handler worker skips orders-0 offset 1, which failed at attempt 3:"
        " Broken('offset 1, attempt 3')"
    ]


@jumping
async def test_the_text_of_a_warning_about_a_skipped_message_is_bounded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = Calls(fails=lambda message, attempt: Broken("x" * 10_000))
    async with handling(broker_with("a"), calls, dead_letters="skip"):
        await trio.sleep(10)
    [warning] = warnings_in(caplog)
    assert len(warning) < 1000


@EACH_ORDER
@jumping
async def test_a_message_given_up_blocks_nothing_after_it(order: str) -> None:
    broker = broker_with("aaaa")
    calls = Calls(fails=fails_at(0, 2))
    async with handling(broker, calls, order=order, dead_letters="dead", retry=steady(2, 1)):
        await trio.sleep(10)
    assert sorted(calls.done) == [1, 3]
    assert letters(broker) == 2
    assert committed_to(broker) == 4


@jumping
async def test_the_handlers_of_one_topic_fail_apart_from_each_other() -> None:
    broker = broker_with("ab")
    good, bad = Calls(), Calls(fails=fails_at(0))
    app = app_on(broker)
    app.handler(app.topic("orders"), good, name="good")
    app.handler(
        app.topic("orders"), bad, name="bad", retry=steady(2, 60), dead_letters=app.topic("dead")
    )
    async with app:
        await trio.sleep(30)
        assert good.done == [0, 1]
        assert committed_to(broker) == 0
        await trio.sleep(60)
    assert bad.done == [1]
    assert letters(broker) == 1
    assert committed_to(broker) == 2


# What is no failure


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
@jumping
async def test_an_error_that_is_no_exception_ends_the_app_without_a_retry_or_a_letter(
    kind: type[BaseException],
) -> None:
    broker = broker_with("a")
    calls = Calls(fails=lambda message, attempt: kind())
    with pytest.raises(BaseExceptionGroup) as raised:
        async with handling(broker, calls, dead_letters="dead", retry=steady(3, 1)):
            await trio.sleep_forever()
    assert [type(error) for error in leaves(raised.value)] == [kind]
    assert len(calls.all) == 1
    assert letters(broker) == 0
    assert committed_to(broker) == 0


@jumping
async def test_a_ctrl_c_in_a_nursery_of_the_function_is_no_failure() -> None:
    async def worker(message: Message) -> None:
        async def interrupt() -> None:
            raise KeyboardInterrupt

        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt)
            nursery.start_soon(trio.sleep_forever)

    broker = broker_with("a")
    with pytest.raises(BaseExceptionGroup) as raised:
        async with handling(broker, worker, dead_letters="dead", retry=steady(3, 1)):
            await trio.sleep_forever()
    assert [type(error) for error in leaves(raised.value)] == [KeyboardInterrupt]
    assert letters(broker) == 0


@pytest.mark.parametrize("timeout", [None, 100.0])
@jumping
async def test_a_cancelled_function_is_no_failure(timeout: float | None) -> None:
    broker = broker_with("ab")
    calls = Calls(1000.0)
    async with handling(
        broker,
        calls,
        order="none",
        concurrency=2,
        dead_letters="dead",
        retry=steady(3, 1),
        timeout=timeout,
        settings={"grace": 4.0},
    ) as app:
        await trio.sleep(10)
        [handler] = app.handlers
    assert [call.outcome for call in calls.all] == ["cancelled", "cancelled"]
    assert (handler.counts.failed, letters(broker), committed_to(broker)) == (0, 0, 0)


@jumping
async def test_a_cancel_of_a_scope_of_the_function_itself_is_a_success() -> None:
    async def worker(message: Message) -> None:
        with trio.move_on_after(1):
            await trio.sleep_forever()

    broker = broker_with("ab")
    async with handling(broker, worker, timeout=50):
        await trio.sleep(10)
    assert committed_to(broker) == 2


@jumping
async def test_an_error_in_a_nursery_of_the_function_is_a_failure_with_all_errors() -> None:
    async def worker(message: Message) -> None:
        async def fail() -> None:
            raise Broken

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(trio.sleep_forever)

    broker = broker_with("a")
    async with handling(broker, worker, dead_letters="dead", retry=steady(2, 1, on=Broken)) as app:
        await trio.sleep(10)
        [handler] = app.handlers
        assert handler.counts.failed == 2
    [record] = broker.log(TP("dead", 0)).read(0, 1 << 20).records
    assert dict(record.headers)["dead.error"] == b"builtins.ExceptionGroup"
    assert b"Broken" in (dict(record.headers)["dead.stack"] or b"")


@jumping
async def test_a_message_that_the_function_has_acked_before_it_failed_is_retried() -> None:
    broker = broker_with("a")

    async def worker(message: Message) -> None:
        message.ack()
        raise Broken

    async with handling(broker, worker, dead_letters="dead", retry=steady(3, 1)) as app:
        await trio.sleep(10)
        [handler] = app.handlers
        assert handler.counts.failed == 3
    assert letters(broker) == 1
    assert committed_to(broker) == 1


@jumping
async def test_retries_of_old_messages_and_new_messages_are_both_handled() -> None:
    """A storm of failures ends, and the backlog is worked off."""
    broker = broker_with("abcdefgh" * 10)
    outage = True
    calls = Calls(0.1, fails=lambda message, attempt: Broken() if outage else None)
    async with handling(
        broker,
        calls,
        order="key",
        concurrency=8,
        retry=steady(100, 5),
        settings={"buffer_size": 40},
    ):
        await trio.sleep(60)
        put(broker, "abcdefgh" * 10)
        outage = False
        await trio.sleep(60)
    assert sorted(calls.done) == list(range(160))
    check_order(calls.all, lambda call: call.key)
    assert committed_to(broker) == 160


# A function that acks by itself


@pytest.mark.parametrize("is_batch", [False, True])
@jumping
async def test_an_error_after_all_acks_of_the_function_is_not_lost(is_batch: bool) -> None:
    broker = broker_with("aa")
    app = app_on(broker)
    add = app.batch_handler if is_batch else app.handler

    @add(app.topic("orders"))
    async def worker(held: Any) -> None:
        held.ack()
        raise Broken

    with pytest.raises(ExceptionGroup) as raised:
        async with app:
            await trio.sleep(10)
    [error] = leaves(raised.value)
    assert type(error) is Broken
    assert error.__notes__ == ["in the handler worker, for orders-0 offset 0, attempt 1"]


@jumping
async def test_an_error_after_all_acks_of_a_batch_makes_dead_letters() -> None:
    broker = broker_with("aa")
    app = app_on(broker)

    @app.batch_handler(
        app.topic("orders"), retry=steady(2, 1), dead_letters=app.topic("dead"), max_size=2
    )
    async def worker(batch: Batch) -> None:
        batch.ack()
        raise Broken

    async with app:
        await trio.sleep(10)
        [handler] = app.handlers
    assert (handler.counts.failed, handler.counts.dead_letters) == (2, 2)
    assert letters(broker) == 2
    assert committed_to(broker) == 2


# Stuck messages

STUCK = {"stuck_ack_timeout": 60.0, "stuck_interval": 5.0, "grace": 1.0}


@EACH_ORDER
@jumping
async def test_a_message_that_waits_for_its_retry_is_not_stuck_and_an_attempt_that_hangs_is(
    order: str, caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_with("aa")
    calls = Calls(
        lambda message: 0.0 if len(calls.of(0)) == 1 else 500.0, fails=fails_at(0, attempts=1)
    )
    async with handling(
        broker, calls, order=order, retry=steady(3, 300), settings=STUCK, concurrency=2
    ) as app:
        await trio.sleep(299)
        assert app.consumer.stuck == ()
        assert warnings_in(caplog) == []
        await trio.sleep(55)
        assert app.consumer.stuck == (), "the second attempt has begun 54 s ago"
        await trio.sleep(20)
        [stuck] = app.consumer.stuck
        assert (stuck.case, stuck.offset, stuck.since) == (StuckCase.NOT_ACKED, 0, 300.0)


@jumping
async def test_a_message_that_waits_in_one_handler_is_stuck_in_another_one_that_hangs() -> None:
    broker = broker_with("a")
    app = app_on(broker, **STUCK)
    failing, hanging = Calls(fails=fails_at(0)), Calls(1000.0)
    for name, calls in (("failing", failing), ("hanging", hanging)):
        app.handler(app.topic("orders"), calls, name=name, retry=steady(3, 300))
    async with app:
        await trio.sleep(80)
        [stuck] = app.consumer.stuck
        assert (stuck.case, stuck.offset) == (StuckCase.NOT_ACKED, 0)


@jumping
async def test_a_batch_that_waits_for_its_retry_is_not_stuck() -> None:
    broker = broker_with("aaa")
    app = app_on(broker, **STUCK)

    async def worker(batch: Batch) -> None:
        raise Broken

    app.batch_handler(app.topic("orders"), worker, retry=steady(3, 300), dead_letters="skip")
    async with app:
        await trio.sleep(250)
        assert app.consumer.stuck == ()
