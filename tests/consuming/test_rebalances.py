"""Several apps of one group on a broker in memory: their partitions, messages and commits."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from tests.apps import (
    A_WHILE,
    app_on,
    broker_with,
    committed,
    evict_all,
    nothing_comes,
    take,
    write,
)
from tests.lanes import NEVER
from tests.logs import warnings_in
from tests.nurseries.clock import jumping
from tests.scripted import Function, fails, hold, replace, replaced
from transport import TP, App, CommitFailed, CommitUnknown, NotAssigned, RebalanceInProgress
from transport.delivering.ledger import ledger_of
from transport.drivers.memory import MemoryBroker

ORDERS = [TP("orders", number) for number in range(4)]
both_ways = pytest.mark.parametrize("assignment", ["cooperative", "eager"])


@attrs.define
class Handled:
    """Records of handled messages: app, partition, offset, begin and end."""

    spans: list[tuple[str, TP, int, float, float]] = attrs.field(factory=list)

    def times(self) -> Counter[tuple[TP, int]]:
        return Counter((tp, offset) for _, tp, offset, _, _ in self.spans)

    def by(self, who: str) -> set[TP]:
        return {tp for name, tp, _, _, _ in self.spans if name == who}

    async def work(self, who: str, app: App, seconds: float = 0.0) -> None:
        async for message in app.topic("orders"):
            start = trio.current_time()
            await trio.sleep(seconds)
            self.spans.append((who, message.tp, message.offset, start, trio.current_time()))


def all_of(broker: MemoryBroker) -> Counter[tuple[TP, int]]:
    """Return each record of the broker, once."""
    return Counter((tp, offset) for tp in ORDERS for offset in range(broker.log(tp).end))


async def member(broker: MemoryBroker, who: str, handled: Handled, **settings: object) -> None:
    """Run an app that handles messages until it is cancelled."""
    async with (app := app_on(broker, **settings)):
        await handled.work(who, app, 0.1)


@both_ways
@jumping
async def test_members_share_partitions_without_loss_or_duplicates(assignment: str) -> None:
    broker = broker_with(*ORDERS, records=20)
    handled = Handled()
    async with trio.open_nursery() as nursery:
        leaves = trio.CancelScope()

        async def guest() -> None:
            with leaves:
                await member(broker, "guest", handled, assignment=assignment)

        nursery.start_soon(lambda: member(broker, "host", handled, assignment=assignment))
        await trio.sleep(1)
        nursery.start_soon(guest)
        await trio.sleep(4)
        leaves.cancel()
        await trio.sleep(1)
        for tp in ORDERS:
            write(broker, tp, 10)
        await trio.sleep(A_WHILE)
        nursery.cancel_scope.cancel()
    assert len(handled.by("guest")) == 2
    assert handled.by("host") == set(ORDERS)
    assert handled.times() == all_of(broker)
    assert committed(broker) == dict.fromkeys(ORDERS, 30)


@both_ways
@jumping
async def test_partition_is_handled_by_one_member_at_a_time(assignment: str) -> None:
    broker = broker_with(*ORDERS, records=100)
    handled = Handled()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: member(broker, "host", handled, assignment=assignment))
        for number in range(5):
            await trio.sleep(0.33)
            with trio.move_on_after(1.05):
                await member(broker, f"guest {number}", handled, assignment=assignment)
        await trio.sleep(A_WHILE)
        nursery.cancel_scope.cancel()
    assert handled.times().keys() == all_of(broker).keys()
    for tp in ORDERS:
        spans = sorted((s, e, who) for who, tp_, _, s, e in handled.spans if tp_ == tp)
        for (_, end, who), (start, _, next_who) in itertools.pairwise(spans):
            assert who == next_who or start >= end


@both_ways
@jumping
async def test_revocation_waits_for_unacked_message_and_commits_it(assignment: str) -> None:
    broker = broker_with(ORDERS[0], records=3)
    one, other = [app_on(broker, assignment=assignment, commit_interval=NEVER) for _ in range(2)]
    async with one, other:
        in_hand = await anext(one.topic("orders").noack())
        one.conductor.clear()  # the partition is revoked
        theirs = other.topic("orders").noack()
        await trio.sleep(5)
        assert ORDERS[0] not in other.consumer.assignment
        assert in_hand.ack()
        assert (await anext(theirs)).offset == 1
        assert committed(broker) == {ORDERS[0]: 1}


@jumping
async def test_late_acks_after_a_rebalance_are_stale(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = broker_with(*ORDERS, records=2)
    one, other = [app_on(broker, drain_timeout=5.0, commit_interval=1.0) for _ in range(2)]
    async with one:
        mine = await take(one.topic("orders").noack(), 8)
        async with other:
            theirs = await take(other.topic("orders").noack(), 4)  # past the bound
            taken = {message.tp for message in theirs}
            late = [message for message in mine if message.tp in taken]
            assert len(late) == 4
            assert not any(message.ack() for message in late)
            assert one.consumer.assignment.tally.stale == 4
            await trio.sleep(A_WHILE)
            assert all(committed(broker).get(tp, 0) == 0 for tp in taken)
    for tp in taken:
        warning = next(text for text in warnings_in(caplog) if str(tp) in text)
        assert "2 unacked messages" in warning
        assert "from offset 0 on" in warning


@jumping
async def test_kept_partition_is_acked_and_committed_during_a_rebalance() -> None:
    broker = broker_with(*ORDERS, records=1)
    one, other = [app_on(broker, commit_interval=1.0) for _ in range(2)]
    async with one:
        mine = await take(one.topic("orders").noack(), 4)
        async with other, trio.open_nursery() as nursery:
            nursery.start_soon(anext, other.topic("orders").noack())
            await trio.sleep(1)
            gone = [m for m in mine if one.consumer.assignment[m.tp].is_draining]
            for message in gone:
                message.ack()
            await trio.sleep(5)
            kept = [message for message in mine if message not in gone]
            assert len(kept) == 2
            assert all(message.ack() for message in kept)
            await trio.sleep(5)
            assert {tp: committed(broker)[tp] for tp in {m.tp for m in kept}} == {
                message.tp: 1 for message in kept
            }
            nursery.cancel_scope.cancel()


@jumping
async def test_partition_is_not_released_during_a_commit_of_it() -> None:
    """Otherwise the commit could reach the broker after the next owner's, and undo that (I2)."""
    broker = broker_with(*ORDERS[:2], records=3)
    one, other = [app_on(broker, commit_interval=NEVER) for _ in range(2)]
    asked: list[Mapping[TP, int]] = []
    answered = trio.Event()
    async with one, trio.open_nursery() as nursery:

        async def commit(make: Function, offsets: Mapping[TP, int], *others: Any) -> None:
            asked.append(offsets)
            if len(asked) == 1:  # the last commit of the revoked partition; another is for all
                nursery.start_soon(one.consumer.commit)
                await trio.sleep(1)
                raise CommitUnknown("no answer")
            await answered.wait()
            await make(offsets, *others)

        replace(one, "commit", commit)
        for message in await take(one.topic("orders").noack(), 6):
            message.ack()
        async with other:
            other.topic("orders").noack()
            await trio.sleep(5)
            assert [len(offsets) for offsets in asked] == [1, 2]
            assert not other.consumer.assignment
            answered.set()
            await trio.sleep(5)
            assert other.consumer.assignment.keys() == asked[0].keys()
            assert committed(broker) == dict.fromkeys(ORDERS[:2], 3)


@jumping
async def test_seek_during_a_revocation_fails_at_once() -> None:
    broker = broker_with(*ORDERS, records=2)
    one, other = [app_on(broker, drain_timeout=50.0) for _ in range(2)]
    async with one:
        mine = await take(one.topic("orders").noack(), 8)
        async with other:
            other.topic("orders").noack()
            await wait_all_tasks_blocked()
            draining = {m.tp for m in mine if one.consumer.assignment[m.tp].is_draining}
            assert draining
            before = trio.current_time()
            for tp in ORDERS:
                with pytest.raises(RebalanceInProgress):
                    await one.consumer.seek(tp, 0)
            with pytest.raises(NotAssigned):  # it is not assigned after the rebalance either
                await one.consumer.seek(TP("bills", 0), 0)
            assert trio.current_time() == before


@jumping
async def test_seek_at_the_start_of_a_revocation_is_made_or_fails_at_once() -> None:
    outcomes = set()
    for steps in range(20):
        broker = broker_with(*ORDERS, records=2)
        one, other = [app_on(broker, drain_timeout=50.0) for _ in range(2)]
        async with one:
            await take(one.topic("orders").noack(), 8)
            async with other:
                other.topic("orders").noack()
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                before = trio.current_time()
                try:
                    await one.consumer.seek(ORDERS[0], 0)
                except RebalanceInProgress:
                    outcomes.add("failed")
                else:
                    outcomes.add("made")
                assert trio.current_time() == before
    assert outcomes == {"made", "failed"}


class SeeksOnAssigned(App):
    """An app that keeps its offsets elsewhere."""

    async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
        for tp in assigned:
            with assert_checkpoints():
                await self.consumer.seek(tp, 1)


@jumping
async def test_assigned_hook_may_seek() -> None:
    broker = broker_with(ORDERS[0], records=3)
    app = app_on(broker, kind=SeeksOnAssigned)
    async with app:
        with trio.fail_after(1):
            message = await anext(app.topic("orders").noack())
        assert message.offset == 1
        message.ack()
        await app.consumer.commit()
        assert committed(broker) == {ORDERS[0]: 2}


class CommitsOnAssigned(App):
    async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
        await self.consumer.commit()


@jumping
async def test_assigned_hook_may_commit() -> None:
    broker = broker_with(*ORDERS, records=1)
    one, other = [app_on(broker, kind=CommitsOnAssigned) for _ in range(2)]
    async with one, other:
        with trio.fail_after(30):
            for message in await take(one.topic("orders").noack(), 4):
                message.ack()
            other.topic("orders").noack()
            await trio.sleep(10)
            assert len(one.consumer.assignment) == len(other.consumer.assignment) == 2


class HookFailed(Exception):
    pass


class FailsOnAssigned(App):
    async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
        raise HookFailed


class FailsOnRevoked(App):
    async def on_partitions_revoked(self, revoked: frozenset[TP]) -> None:
        raise HookFailed


@jumping
async def test_error_of_assigned_hook_ends_the_app() -> None:
    app = app_on(broker_with(*ORDERS, records=1), kind=FailsOnAssigned)
    with pytest.RaisesGroup(HookFailed, flatten_subgroups=True):
        async with app:
            async for _ in app.topic("orders"):
                pass
            await trio.sleep_forever()
    assert trio.current_time() < 1  # the end waits for nothing


@jumping
async def test_error_of_revoked_hook_ends_the_app() -> None:
    broker = broker_with(*ORDERS, records=1)
    app = app_on(broker, kind=FailsOnRevoked)
    began = trio.current_time()
    with pytest.RaisesGroup(HookFailed, flatten_subgroups=True):
        async with app:
            messages = app.topic("orders").noack()
            (await anext(messages)).ack()
            async with app_on(broker) as other:
                await anext(other.topic("orders").noack())
                await trio.sleep(1)
    assert trio.current_time() - began < 5


# Loss


@jumping
async def test_lost_partitions_are_not_committed() -> None:
    broker = broker_with(*ORDERS, records=2)
    app = app_on(broker, commit_interval=NEVER)
    async with app:
        messages = app.topic("orders").noack()
        first = await take(messages, 8)
        for message in first:
            if message.offset == 0:
                message.ack()
        evict_all(broker)
        await trio.sleep(A_WHILE)
        assert committed(broker) == {}
        assert not any(message.ack() for message in first if message.offset == 1)
        again = await take(messages, 8)
        assert Counter(message.offset for message in again) == {0: 4, 1: 4}


@jumping
async def test_commit_of_evicted_member_loses_all_partitions() -> None:
    broker = broker_with(*ORDERS, records=1)
    app = app_on(broker, commit_interval=NEVER)
    async with app:
        messages = app.topic("orders").noack()
        first = await take(messages, 4)
        for message in first[:2]:
            message.ack()
        group = broker.group("group")
        for name in list(group.members):
            del group.members[name]  # the client does not know yet
        await app.consumer.commit()
        assert set(committed(broker).values()) <= {0}  # the start offsets
        assert not first[3].ack()
        assert len(await take(messages, 4)) == 4


@jumping
async def test_next_member_gets_uncommitted_messages_of_killed_member() -> None:
    broker = broker_with(*ORDERS, records=10)
    one, other = [app_on(broker, commit_interval=NEVER, session_timeout=10.0) for _ in range(2)]
    async with one:
        messages = one.topic("orders").noack()
        for message in await take(messages, 20):
            message.ack()
        await one.consumer.commit()
        done = sum(committed(broker).values())
        assert done == 20
        for message in await take(messages, 5):
            message.ack()
        await one.kill()
        assert sum(committed(broker).values()) == done
        assert [message async for message in messages] == []
    async with other:
        theirs = other.topic("orders").noack()
        left = await take(theirs, 20)
        assert {message.tp for message in left} <= set(ORDERS)
        assert trio.current_time() > 9  # the session of the killed member expired


@jumping
async def test_app_can_be_killed_during_a_commit() -> None:
    for steps in range(8):
        broker = broker_with(*ORDERS, records=1)
        async with app_on(broker, str(steps), commit_interval=1.0) as app:
            for message in await take(app.topic("orders").noack(), 4):
                message.ack()
            await trio.sleep_until(trio.current_time() + 1.0)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            await app.kill()


@jumping
async def test_refused_commit_suspends_delivery_until_the_loss() -> None:
    """The partitions may have another owner by then, which handles the same messages."""
    broker = broker_with(*ORDERS, records=5)
    async with app_on(broker, commit_interval=0.5) as app:
        messages = app.topic("orders").noack()
        (first,) = await take(messages, 1)

        async def evicted(commit: Function, *args: object) -> None:
            evict_all(broker)
            await commit(*args)

        let_poll = hold(app, "poll")  # the loss is raised by a poll
        app.consumer.client.interrupt()
        await wait_all_tasks_blocked()
        replace(app, "commit", evicted, once=True)
        first.ack()
        await trio.sleep(0.6)
        assert await nothing_comes(messages, 20)
        assert not ledger_of(first).is_shut
        let_poll.set()
        (again,) = await take(messages, 1)
        assert ledger_of(first).is_shut
        assert again.offset == 0


@jumping
async def test_delivery_resumes_when_a_later_commit_is_accepted() -> None:
    broker = broker_with(ORDERS[0], records=5)
    async with app_on(broker, commit_interval=0.5) as app:
        messages = app.topic("orders").noack()
        with replaced(app, "commit", fails(CommitFailed("no member"))):
            (first,) = await take(messages, 1)
            first.ack()
            await trio.sleep(1)
            assert await nothing_comes(messages, 60)
        (second,) = await take(messages, 1)
        assert second.offset == 1
        assert ledger_of(second) is ledger_of(first)
