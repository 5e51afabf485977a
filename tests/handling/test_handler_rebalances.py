"""Handlers and partitions that are revoked, lost, sought, and assigned again."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio

from tests.apps import A_WHILE, app_on, committed, evict_all
from tests.handling.calls import (
    ORDERS,
    Broken,
    Call,
    Calls,
    broker_with,
    check_order,
    committed_to,
    fails_at,
    handling,
    put,
)
from tests.handling.test_handler_failures import steady
from tests.lanes import NEVER
from tests.logs import warnings_in
from tests.nurseries.clock import jumping
from tests.scripted import fails, replace
from transport import TP, CommitRefused, CommitUnknown, Message, RebalanceInProgress
from transport.drivers.memory import MemoryBroker

BOTH = [TP("orders", 0), TP("orders", 1)]
EACH_ORDER = pytest.mark.parametrize("order", ["partition", "key", "none"])
# A drain of a revoked partition may take so long, in these tests.
BOUND: dict[str, Any] = {"drain_timeout": 10.0}


def overlaps(calls: list[Call], by_key: bool) -> bool:
    """Return whether two calls of one partition, or of one key of it, ran at once."""
    return any(
        one is not other
        and one.tp == other.tp
        and (one.key == other.key or not by_key)
        and one.start < (float("inf") if other.end is None else other.end)
        and other.start < (float("inf") if one.end is None else one.end)
        for one in calls
        for other in calls
    )


class Guest:
    """A second member of the group, which is in it within `async with`. It handles nothing."""

    def __init__(self, broker: MemoryBroker, **settings: Any) -> None:
        self.app = app_on(broker, **settings)

    async def __aenter__(self) -> TP:
        """Join, and return the partition that the guest has got."""
        await self.app.__aenter__()
        self.app.topic("orders").noack()
        while not self.app.consumer.assignment:  # noqa: ASYNC110 - no event reports it
            await trio.sleep(0.1)
        [tp] = self.app.consumer.assignment
        return tp

    async def __aexit__(self, *exc: Any) -> None:
        await self.app.__aexit__(*exc)


# Revoked partitions


@EACH_ORDER
@jumping
async def test_a_drain_waits_for_running_messages_only(order: str) -> None:
    """A pitfall of others: a retry that a revoke orphans hangs the drain."""
    broker = broker_with("abcabc", partitions=2)
    calls = Calls(2.0, fails=fails_at(0, 1))
    async with handling(
        broker, calls, order=order, concurrency=4, retry=steady(9, 1000), settings=BOUND
    ) as app:
        await trio.sleep(3)
        start = trio.current_time()
        async with Guest(broker) as gone:
            assert trio.current_time() - start < 3, "it waited for no retry"
            [left] = app.consumer.assignment
            revoked = [call for call in calls.all if call.tp == gone]
            assert all(call.outcome in ("done", "failed") for call in revoked)
            begun = len(revoked)
            await trio.sleep(5)
            assert sum(call.tp == gone for call in calls.all) == begun
            assert left != gone


@EACH_ORDER
@jumping
async def test_parked_messages_of_a_revoked_partition_are_handled_by_the_next_owner(
    order: str,
) -> None:
    broker = broker_with("aabbcc" * 3, partitions=2)
    first, second = Calls(1.0), Calls(1.0)
    options: dict[str, Any] = {"order": order, "concurrency": 2, "settings": BOUND}
    async with handling(broker, first, **options):
        await trio.sleep(3)
        async with handling(broker, second, **options):
            await trio.sleep(A_WHILE)
    everything = first.all + second.all
    done = Counter((call.tp, call.offset) for call in everything if call.outcome == "done")
    assert set(done) == {(tp, offset) for tp in BOTH for offset in range(18)}
    if order == "partition":
        assert max(done.values()) == 1, "no message is handled twice"
    if order != "none":
        assert not overlaps(everything, order == "key")
    assert committed(broker) == {tp: 18 for tp in BOTH}


@jumping
async def test_a_revoke_leaves_the_retries_of_other_partitions() -> None:
    broker = broker_with("abc", partitions=2)
    calls = Calls(fails=lambda message, attempt: Broken() if attempt == 1 else None)
    async with handling(
        broker, calls, order="key", concurrency=2, retry=steady(2, 10), settings=BOUND
    ):
        await trio.sleep(5)
        async with Guest(broker) as gone:
            await trio.sleep(A_WHILE)
            left = [call for call in calls.all if call.tp != gone]
            assert sorted(call.offset for call in left if call.attempt == 2) == [0, 1, 2]
            assert not any(call.attempt == 2 for call in calls.all if call.tp == gone)


@jumping
async def test_a_message_that_fails_during_the_drain_is_given_back_at_once() -> None:
    broker = broker_with("a", partitions=2)
    calls = Calls(5.0, fails=lambda message, attempt: Broken())
    async with handling(
        broker, calls, order="key", concurrency=2, retry=steady(99, 3), settings=BOUND
    ) as app:
        await trio.sleep(1)
        start = trio.current_time()
        async with Guest(broker) as gone:
            assert trio.current_time() - start < 6
            await trio.sleep(A_WHILE)
            assert [call.attempt for call in calls.all if call.tp == gone] == [1]
            assert app.consumer.assignment.tally.stale == 0
            assert committed(broker).get(gone, 0) == 0


@jumping
async def test_a_retry_that_becomes_due_at_the_revoke_does_not_begin() -> None:
    """A race: a retry is due when its partition is revoked."""
    broker = broker_with("ab", partitions=2)
    calls = Calls(fails=fails_at(0))
    async with handling(
        broker, calls, order="key", concurrency=2, retry=steady(99, 0.5), settings=BOUND
    ):
        await trio.sleep(10)
        async with Guest(broker) as gone:
            begun = sum(call.tp == gone for call in calls.all)
            await trio.sleep(10)
            assert sum(call.tp == gone for call in calls.all) == begun
    assert begun > 10


@jumping
async def test_a_revoked_partition_gives_back_its_load() -> None:
    """A pitfall of others: stale records of revoked partitions count as load."""
    broker = broker_with("a" * 40, partitions=2)
    calls = Calls(1.0)
    async with handling(
        broker,
        calls,
        order="key",
        concurrency=1,
        settings={"buffer_size": 20, **BOUND},
    ) as app:
        await trio.sleep(3)
        [handler] = app.handlers
        async with Guest(broker, buffer_size=1) as gone:
            await trio.sleep(1)
            held = len(app.consumer.unacked)
            assert handler.running + handler.waiting == held
            assert {message.tp for message in app.consumer.unacked} == set(BOTH) - {gone}
            usage = handler.topic.channel.usage
            assert usage.begun == held
            await trio.sleep(A_WHILE)
            assert sum(call.tp != gone for call in calls.all) >= 40
            assert (usage.begun, usage.held) == (0, 0)
            assert (handler.running, handler.waiting) == (0, 0)


@EACH_ORDER
@jumping
async def test_a_lost_partition_drops_its_messages_and_a_late_ack_is_stale(order: str) -> None:
    broker = broker_with("abab")
    calls = Calls(5.0)
    async with handling(
        broker, calls, order=order, concurrency=2, settings={"commit_interval": NEVER}
    ) as app:
        await trio.sleep(2)
        running = calls.running
        evict_all(broker)
        await trio.sleep(A_WHILE)
        assert set(calls.done) == set(range(4))
        assert app.consumer.assignment.tally.stale == len(running)
        times = Counter(calls.begun)
        assert all(times[offset] == 1 + (offset in running) for offset in range(4))
        if order != "none":
            assert not overlaps(calls.all, order == "key")
    assert committed_to(broker) == 4


# Stragglers


@jumping
async def test_a_key_is_busy_until_its_message_ends_also_when_its_partition_returns() -> None:
    """A pitfall of others: a partition leaves and returns, and one key runs twice at once."""
    broker = broker_with("aab")
    calls = Calls(lambda message: 50.0 if len(calls.all) == 1 else 1.0)
    async with handling(
        broker, calls, order="key", concurrency=4, settings={"commit_interval": NEVER}
    ) as app:
        await trio.sleep(2)
        for _ in range(3):
            evict_all(broker)
            await trio.sleep(5)
        assert calls.of(0)[0].outcome == "running"
        assert len(calls.of(0)) == 1, "the key is busy"
        assert len(calls.of(2)) == 4, "another key is not"
        await trio.sleep(A_WHILE)
        assert app.consumer.assignment.tally.stale == 1
    assert not overlaps(calls.all, True)
    assert [call.offset for call in calls.all if call.key == b"a"] == [0, 0, 1]
    assert committed_to(broker) == 3


@jumping
async def test_a_straggler_that_fails_is_not_retried_and_is_handled_in_the_next_epoch() -> None:
    broker = broker_with("aa")
    calls = Calls(
        lambda message: 20.0 if len(calls.all) == 1 else 1.0, fails=fails_at(0, attempts=1)
    )
    async with handling(
        broker,
        calls,
        order="key",
        concurrency=4,
        retry=steady(2, 1000),
        dead_letters="dead",
        settings={"commit_interval": NEVER},
    ):
        await trio.sleep(2)
        evict_all(broker)
        await trio.sleep(A_WHILE)
    assert calls.begun == [0, 0, 1]
    assert calls.of(0)[1].start == calls.of(0)[0].end
    assert broker.log(TP("dead", 0)).end == 0
    assert committed_to(broker) == 2


@jumping
async def test_a_straggler_beyond_the_bound_holds_back_no_other_partition(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = broker_with("ab", partitions=2)
    calls = Calls(lambda message: 40.0 if message.offset == 0 else 1.0)
    async with handling(broker, calls, concurrency=4, settings={"drain_timeout": 5.0}) as app:
        await trio.sleep(1)
        async with Guest(broker) as gone:
            await trio.sleep(A_WHILE)
            assert [call.offset for call in calls.all if call.tp == gone] == [0]
            assert [call.offset for call in calls.all if call.tp != gone] == [0, 1]
            assert app.consumer.assignment.tally.stale == 1
    assert any("unacked" in warning for warning in warnings_in(caplog))


# Seeks


@EACH_ORDER
@jumping
async def test_a_seek_back_handles_the_messages_again_and_no_key_runs_twice(order: str) -> None:
    broker = broker_with("abab" * 2)
    calls = Calls(2.0)
    async with handling(broker, calls, order=order, concurrency=3) as app:
        await trio.sleep(3)
        await app.consumer.seek(ORDERS, 0)
        await trio.sleep(A_WHILE)
        assert set(calls.done) == set(range(8))
        assert committed_to(broker) == 8
    if order != "none":
        assert not overlaps(calls.all, order == "key")
    assert calls.begun.count(7) == 1


@jumping
async def test_a_seek_ahead_drops_parked_messages_and_retries() -> None:
    broker = broker_with("aaaabbbb")
    calls = Calls(1.0, fails=fails_at(4))
    async with handling(broker, calls, order="key", concurrency=3, retry=steady(5, 10)) as app:
        await trio.sleep(1.5)
        await app.consumer.seek(ORDERS, 7)
        await trio.sleep(A_WHILE)
        assert committed_to(broker) == 8
    assert calls.begun == [0, 4, 1, 7]


@jumping
async def test_a_function_may_seek_its_own_partition() -> None:
    broker = broker_with("abcd")
    app = app_on(broker)
    seen = []

    async def worker(message: Message) -> None:
        seen.append(message.offset)
        if message.offset == 1 and seen.count(1) == 1:
            await app.consumer.seek(message.tp, 0)

    app.handler(app.topic("orders"), worker)
    async with app:
        await trio.sleep(A_WHILE)
    assert seen == [0, 1, 0, 1, 2, 3]
    assert committed_to(broker) == 4


# Commits


@pytest.mark.parametrize(
    "error", [RebalanceInProgress("now"), CommitUnknown("no answer"), CommitRefused("too large")]
)
@jumping
async def test_a_commit_that_fails_during_a_rebalance_is_no_crash(error: Exception) -> None:
    """A pitfall of others: a commit during a rebalance kills the poll thread."""
    broker = broker_with("abc", partitions=2)
    calls = Calls(0.1)
    async with handling(
        broker, calls, order="key", concurrency=2, settings={**BOUND, "commit_timeout": 2.0}
    ) as app:
        await trio.sleep(0.2)
        replace(app, "commit", fails(error), once=True)
        async with Guest(broker) as gone:
            await trio.sleep(5)
            [left] = app.consumer.assignment
            put(broker, "d", left)
            await trio.sleep(5)
            assert committed(broker)[left] == 4, "no partition stays paused"
            assert left != gone


@jumping
async def test_suspended_delivery_gives_back_what_has_not_begun_and_resumes() -> None:
    """The consumer is not in its group: see `Consumer.suspend_delivery`."""
    broker = broker_with("aabb" * 3)
    calls = Calls(1.0, fails=fails_at(0, attempts=1))
    async with handling(broker, calls, order="key", concurrency=2, retry=steady(2, 30)) as app:
        await trio.sleep(1.5)
        app.consumer.suspend_delivery()
        await trio.sleep(1)
        begun = calls.begun
        [handler] = app.handlers
        assert (handler.running, handler.waiting) == (0, 0)
        assert app.consumer.unacked == set()
        await trio.sleep(A_WHILE)
        assert calls.begun == begun
        app.consumer.resume_delivery()
        await trio.sleep(A_WHILE)
        assert sorted(calls.done) == list(range(12))
        assert committed_to(broker) == 12
    check_order([call for call in calls.all if call.start > 3], lambda call: call.key)


@jumping
async def test_many_acks_out_of_order_need_no_map_in_the_commit() -> None:
    """A pitfall of others: the map of acks exceeds the metadata of a commit, and all stops."""
    broker = broker_with("a" + "bcdefgh" * 2000)
    calls = Calls(lambda message: 60.0 if message.key == b"a" else 0.0)
    async with handling(broker, calls, order="key", concurrency=4):
        await trio.sleep(50)
        assert len(calls.done) == 14_000
        assert committed_to(broker) == 0
        await trio.sleep(20)
        assert committed_to(broker) == 14_001
