"""The consumer, item by item: flow, messages, commits, seeks, ownership, start and end."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.apps import nothing_comes, take
from tests.items.fetched import Fetched
from tests.lanes import NEVER, Place
from tests.museum.members import Commits, Member, member, send
from tests.records import offsets
from tests.scripted import Function, replace, scripted
from transport import (
    TP,
    App,
    ClientClosed,
    Consumer,
    NotAssigned,
    RoundRobin,
    StuckCase,
    Transport,
)

THREE = (b"0", b"1", b"2")
FLAT: Any = {"flatten_subgroups": True}


def app_with(consumer: type[Consumer]) -> type[App]:
    """Return a class of apps whose consumer is of this class."""
    transport = type("Mine", (Transport,), {"Consumer": consumer})
    return type("MyApp", (App,), {"Transport": transport})


# Parts


async def test_transport_app(place: Place) -> None:
    async with place.opened(1) as app:
        assert app.consumer.transport is app.transport
        assert app.consumer.app is app


async def test_transactions_in_transaction(place: Place) -> None:
    async with place.opened(1) as plain:
        assert not plain.consumer.in_transaction
        assert plain.consumer.transactions.consumer is plain.consumer
    async with place.opened(1, transactions="member") as app:
        assert app.consumer.in_transaction
        assert app.consumer.transactions.producer is app.producer


async def test_scheduler(place: Place) -> None:
    """A user's scheduler decides the order of partitions."""
    turns: list[TP] = []

    class OneByOne(RoundRobin[Any]):
        def __init__(self) -> None:
            super().__init__(quantum=1)

        def turn(self) -> Any:
            if (lane := super().turn()) is not None:
                turns.append(lane.ledger.tp)
            return lane

    async with place.opened(2, scheduler=OneByOne) as app:
        assert app.consumer.scheduler is OneByOne
        await send(app, place.tps(2), 5)
        messages = await take(app.topic(place.name).noack(), 10)
        told = iter(turns)
        assert all(message.tp in told for message in messages), "a message came without a turn"


async def test_randomly_assigned_topics(place: Place) -> None:
    """The set is only kept: its names change nothing about what is assigned."""
    async with place.opened(1, b"0") as app:
        assert app.consumer.randomly_assigned_topics == set()
        app.consumer.randomly_assigned_topics.add("another")
        await anext(app.topic(place.name).noack())
        assert set(app.consumer.assignment) == set(place.tps(1))


# Flow


async def test_flow_active_can_resume_flow_suspend_flow_not_waiting_next_records(
    place: Place,
) -> None:
    async with place.opened(1, b"0") as app:
        consumer = app.consumer
        await anext(app.topic(place.name).noack())
        assert consumer.flow_active
        assert consumer.can_resume_flow.is_set()
        assert not consumer.suspend_flow.is_set()
        assert not consumer.not_waiting_next_records.is_set(), "it is set during a poll"
        stopped, ended = consumer.suspend_flow, consumer.not_waiting_next_records
        consumer.stop_flow()
        assert not consumer.flow_active
        assert not consumer.can_resume_flow.is_set()
        assert stopped.is_set()
        assert not ended.is_set(), "it is set before the poll has returned"
        await ended.wait()
        resumed = consumer.can_resume_flow
        consumer.resume_flow()
        assert resumed.is_set()
        assert consumer.flow_active
        while consumer.not_waiting_next_records.is_set():
            await trio.lowlevel.checkpoint()


async def test_stop_flow_resume_flow_wait_for_stopped_flow(place: Place) -> None:
    """After the wait no message is delivered until `resume_flow`."""
    async with place.opened(1, *THREE) as app, trio.open_nursery() as nursery:
        consumer, messages = app.consumer, app.topic(place.name).noack()
        await anext(messages)
        with trio.move_on_after(place.a_while) as cut:
            await consumer.wait_for_stopped_flow()
        assert cut.cancelled_caught, "the wait ended before the flow was stopped"
        consumer.stop_flow()
        await consumer.wait_for_stopped_flow()
        await send(app, place.tps(1), 2)
        assert await nothing_comes(messages, place.a_while)
        got: list[int] = []

        async def read() -> None:
            got.extend(offsets(await take(messages, 4)))

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        assert got == []
        consumer.resume_flow()
    assert got == [1, 2, 3, 4]


async def test_pause_partitions_resume_partitions(place: Place) -> None:
    """Partitions that are not assigned are ignored and counted."""
    paused, other = place.tps(2)
    elsewhere = TP("elsewhere", 0)
    async with place.opened(2) as app:
        await app.producer.send_and_wait(place.name, None, b"v", 1)
        messages = app.topic(place.name).noack()
        await anext(messages)
        app.consumer.pause_partitions([paused, elsewhere])
        await app.consumer.polling.positions([])  # the polling task has paused it
        await send(app, place.tps(2), 2)
        assert {message.tp for message in await take(messages, 2)} == {other}
        assert await nothing_comes(messages, place.a_while)
        app.consumer.resume_partitions([paused, elsewhere])
        assert {message.tp for message in await take(messages, 2)} == {paused}
        assert app.consumer.flow.ignored == 2


async def test_pause_partitions_ends_with_the_assignment(place: Place) -> None:
    """A rebalance that revokes a partition ends its pause."""
    async with place.opened(1, b"0", kind=Member) as app:
        orders = app.topic(place.name)
        async with await anext(orders.noack()):
            pass
        app.consumer.pause_partitions(await app.owns(1))
        app.conductor.discard(orders)
        await app.owns(0)
        # The poll that assigns the partition may return the first one even if it is paused.
        for offset in (1, 2):
            await app.producer.send_and_wait(place.name, None, b"v", 0)
            assert (await anext(orders.noack())).offset == offset


async def test_on_buffer_full_on_buffer_drop(place: Place) -> None:
    """A full channel pauses its partition, and resumes it when half empty; polling goes on."""
    told: list[tuple[str, TP]] = []

    class Telling(Consumer):
        def on_buffer_full(self, tp: TP) -> None:
            told.append(("full", tp))
            super().on_buffer_full(tp)

        def on_buffer_drop(self, tp: TP) -> None:
            told.append(("drop", tp))
            super().on_buffer_drop(tp)

    (tp,) = place.tps(1)
    async with place.opened(1, *[b"v"] * 4, kind=app_with(Telling), buffer_size=4) as app:
        topic = app.topic(place.name)
        messages = await take(topic.noack(), 4)
        assert told == [("full", tp)]
        await app.consumer.polling.positions([])
        await send(app, [tp], 2)
        assert not app.consumer.pauses.is_wanted(tp)
        await app.consumer.polling.positions([])  # polling goes on
        messages[0].ack()
        assert told == [("full", tp)]
        messages[1].ack()
        assert told == [("full", tp), ("drop", tp)]
        assert offsets(await take(topic.noack(), 2)) == [4, 5]


# Messages


async def test_getmany(place: Place) -> None:
    """It yields (TP, message) of all topics, fairly over partitions, and drops stale messages."""
    tps = [*place.tps(2), TP(f"{place.name}.b", 0)]
    fetched = Fetched(450)
    async with place.opened(2, monitor=fetched) as app:
        await app.producer.create_topic(tps[2].topic, 1)
        await send(app, tps, 150)
        for name in {tp.topic for tp in tps}:
            app.conductor.add(app.topic(name))
        await fetched.all.wait()
        turns: list[TP] = []
        async for tp, message in app.consumer.getmany(5.0):
            assert tp == message.tp
            assert app.consumer.ack(message)
            if turns[-1:] != [tp]:
                turns.append(tp)
        assert set(turns[:4]) == set(turns[4:8]) == set(tps), "a partition had no turn"
        assert [pair async for pair in app.consumer.getmany(0.01)] == []
        await app.consumer.seek(tps[0], 148)
        stale = await anext(app.consumer.getmany(5.0))
        await app.consumer.seek(tps[0], 149)
        _, message = await anext(app.consumer.getmany(5.0))
        assert (stale[1].offset, message.offset) == (148, 149)
        assert not app.consumer.ack(stale[1])


async def test_track_message_ack_unacked(place: Place) -> None:
    """A delivered message is tracked. Acking an acked or foreign one is False, and is counted."""
    async with place.opened(1, *THREE) as app, App("other", place.url) as other:
        consumer, strangers = app.consumer, other.consumer
        first, second = await take(app.topic(place.name).noack(), 2)
        assert consumer.unacked == {first, second}
        consumer.track_message(first)
        with pytest.raises(ValueError, match="not an unacked message"):
            strangers.track_message(first)
        assert not strangers.ack(first)
        assert strangers.assignment.tally.stale == 1
        assert consumer.ack(second)
        assert not consumer.ack(second)
        assert consumer.assignment.tally.doubled == 1
        assert consumer.unacked == {first}
        with pytest.raises(ValueError, match="not an unacked message"):
            consumer.track_message(second)
        del first  # the handler drops its reference; the message is still unacked
        assert [message.offset for message in consumer.unacked] == [0]
        assert not await consumer.commit() or await place.committed() == {place.tps(1)[0]: 0}
        (held,) = consumer.unacked
        assert consumer.ack(held)
    assert await place.committed() == {place.tps(1)[0]: 2}


# Commits


async def test_commit_force_commit(place: Place) -> None:
    """They take names and partitions, return whether an offset moved, and share one commit."""
    tps = place.tps(3)
    other = TP(f"{place.name}.b", 0)
    async with place.opened(3, kind=scripted(App)) as app:
        await app.producer.create_topic(other.topic, 1)
        await send(app, [*tps, other], 2)
        for topic, count in ((place.name, 6), (other.topic, 2)):
            for message in await take(app.topic(topic).noack(), count):
                message.ack()
        commits = Commits(app)
        assert await app.consumer.commit({other.topic, tps[1]})
        assert commits.tried == [{other: 2, tps[1]: 2}]
        assert not await app.consumer.commit({tps[1], other})
        assert not await app.consumer.commit(set())
        results: list[bool] = []

        async def commit(call: Callable[[], Awaitable[bool]]) -> None:
            results.append(await call())

        async with trio.open_nursery() as nursery:
            for call in [app.consumer.commit, app.consumer.force_commit] * 2:
                nursery.start_soon(commit, call)
        assert results == [True] * 4
        assert commits.tried[1:] == [{tps[0]: 2, tps[2]: 2}]
        assert not await app.consumer.force_commit()
        assert await app.consumer.client.committed([*tps, other]) == dict.fromkeys([*tps, other], 2)


async def test_maybe_wait_for_commit_to_finish(place: Place) -> None:
    """It returns whether a commit was under way."""
    async with place.opened(1, b"0") as app, trio.open_nursery() as nursery:
        (await anext(app.topic(place.name).noack())).ack()
        assert not await app.consumer.maybe_wait_for_commit_to_finish()
        nursery.start_soon(app.consumer.commit)
        while not await app.consumer.maybe_wait_for_commit_to_finish():
            pass
        assert await app.consumer.client.committed(place.tps(1)) == {place.tps(1)[0]: 1}


async def test_commit_interval(place: Place) -> None:
    async with place.opened(1, b"0", b"1", kind=scripted(App), commit_interval=0.2) as app:
        assert app.consumer.commit_interval == 0.2
        commits, messages = Commits(app), app.topic(place.name).noack()
        for offset in (1, 2):
            (await anext(messages)).ack()
            await commits.reach(place.tps(1)[0], offset)


async def test_commit_livelock_soft_timeout(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """A warning names partition, offset and time when acks go on and the offset does not move."""
    timeouts = {"commit_livelock_soft_timeout": 0.3, "commit_interval": 0.1}
    async with place.opened(1, *[b"v"] * 50, **timeouts) as app:
        assert app.consumer.commit_livelock_soft_timeout == 0.3
        async for message in app.topic(place.name).noack():
            if message.offset != 1:
                message.ack()
            await trio.sleep(0.1)
            if told := [
                line.getMessage() for line in caplog.records if "stood" in line.getMessage()
            ]:
                break
    (line,) = told
    stands = rf"{place.name}-0: the offset to commit has stood at 1 for \d\.\d s"
    assert re.search(stands, line)


async def test_wait_empty(place: Place) -> None:
    """It waits until all delivered messages are acked, and commits them."""
    async with place.opened(1, *THREE) as app, trio.open_nursery() as nursery:
        messages = await take(app.topic(place.name).noack(), 2)
        waited = trio.Event()

        async def wait() -> None:
            await app.consumer.wait_empty()
            waited.set()

        with trio.move_on_after(0.1) as cut:
            await app.consumer.wait_empty()
        assert cut.cancelled_caught
        nursery.start_soon(wait)
        for message in messages:
            await wait_all_tasks_blocked()
            assert not waited.is_set()
            message.ack()
        await waited.wait()
        assert await app.consumer.client.committed(place.tps(1)) == {place.tps(1)[0]: 2}


async def test_commit_and_end_transactions(place: Place) -> None:
    """It commits the safe offsets. Nothing is delivered until the next commit."""
    (tp,) = place.tps(1)
    async with place.opened(1, *THREE, transactions="member") as app:
        messages, out = app.topic(place.name).noack(), app.topic(f"{place.name}.out")
        async with await anext(messages) as message:
            await out.send(value=b"of 0")
        await app.consumer.commit_and_end_transactions()
        assert await app.consumer.client.committed([tp]) == {tp: 1}
        assert await nothing_comes(messages, place.a_while)
        await app.consumer.commit()
        async with await anext(messages) as message:
            assert message.offset == 1
            await out.send(value=b"of 1")
    assert await place.committed() == {tp: 2}


# Seeks


async def test_seek(place: Place) -> None:
    (tp,) = place.tps(1)
    async with place.opened(1, *THREE) as app:
        messages = app.topic(place.name).noack()
        before = await take(messages, 3)
        await app.consumer.seek(tp, 1)
        assert not before[2].ack(), "a message from before the seek was acked"
        assert offsets(await take(messages, 2)) == [1, 2]
        await app.consumer.seek(tp, 0)
        assert (await anext(messages)).offset == 0
        with pytest.raises(ValueError, match="-1"):
            await app.consumer.seek(tp, -1)
        with pytest.raises(NotAssigned, match="elsewhere-0"):
            await app.consumer.seek(TP("elsewhere", 0), 0)


@pytest.mark.parametrize("name", ["perform_seek", "seek_to_committed"])
async def test_perform_seek_seek_to_committed(place: Place, name: str) -> None:
    (tp,) = place.tps(1)
    async with place.opened(1, *THREE) as app:
        messages = app.topic(place.name).noack()
        first, *_ = await take(messages, 3)
        first.ack()
        await app.consumer.commit()
        found = await getattr(app.consumer, name)()
        assert found == ({tp: 1} if name == "seek_to_committed" else None)
        assert offsets(await take(messages, 2)) == [1, 2]


# Ownership


async def test_on_partitions_revoked_on_partitions_assigned(place: Place) -> None:
    """Revoked partitions are drained, committed, released. Assigned ones have a new generation."""
    told: list[tuple[str, set[TP], Any]] = []
    going = trio.Event()

    class Telling(Consumer):
        async def on_partitions_revoked(self, revoked: frozenset[TP]) -> None:
            if revoked:
                going.set()
            await super().on_partitions_revoked(revoked)
            told.append(("revoked", set(revoked), await self.client.committed(list(revoked))))

        async def on_partitions_assigned(
            self, assigned: frozenset[TP], generation_id: int = 0
        ) -> None:
            await super().on_partitions_assigned(assigned, generation_id)
            told.append(("assigned", set(assigned), generation_id))

    class Mine(Transport):
        Consumer = Telling

    class MyMember(Member):
        Transport = Mine

    def heard(kind: str) -> list[tuple[set[TP], Any]]:
        return [(tps, more) for what, tps, more in told if what == kind and tps]

    tps = place.tps(2)
    async with place.opened(2, kind=MyMember) as one, trio.open_nursery() as nursery:
        await send(one, tps, 2)
        held = await take(one.topic(place.name).noack(), 4)
        ((assigned, generation),) = heard("assigned")
        assert assigned == set(tps)
        assert {message.generation_id for message in held} == {generation}

        async def finish() -> None:
            await going.wait()
            await wait_all_tasks_blocked()
            assert not heard("revoked"), "it was released with unacked messages"
            for message in held:
                message.ack()

        nursery.start_soon(finish)
        async with (two := member(place, commit_interval=NEVER)):
            two.topic(place.name).noack()
            (moved,) = await two.owns(1)
            assert moved not in one.consumer.assignment
            assert heard("revoked") == [({moved}, {moved: 2})]
        await one.owns(2)
        assert heard("assigned")[1:] == [({moved}, one.consumer.assignment[moved].generation)]
        assert one.consumer.assignment[moved].generation > generation


async def test_on_partitions_lost(place: Place) -> None:
    """They are abandoned without a commit. The app's hook is called, and old acks do nothing."""
    (tp,) = place.tps(1)
    told: list[set[TP]] = []

    class Losing(Member):
        async def on_partitions_revoked(self, revoked: frozenset[TP]) -> None:
            assert tp not in self.consumer.assignment
            told.append(set(revoked))
            await super().on_partitions_revoked(revoked)

    async with place.opened(1, *THREE, kind=Losing) as app:
        messages = app.topic(place.name).noack()
        first = await anext(messages)
        app.consumer.ownership.drop({tp})  # as the rebalance handler does before the hook
        await app.consumer.on_partitions_lost(frozenset({tp}))
        assert told == [{tp}]
        assert not first.ack()
        assert not await app.consumer.commit()
        assert await nothing_comes(messages, place.a_while)
    assert await place.committed() == {}


# Stuck partitions


async def test_verify_all_partitions_active_verify_event_path_verify_recovery_event_path(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """They report the stuck partition, the case and the offset. The timeouts are settings."""
    stuck, well = place.tps(2)
    async with place.opened(2, stuck_ack_timeout=0.05) as app:
        consumer = app.consumer
        await send(app, place.tps(2), 1)
        for message in await take(app.topic(place.name).noack(), 2):
            if message.tp == well:
                message.ack()
        await consumer.verify_all_partitions_active()
        assert consumer.stuck == ()
        await trio.sleep(0.1)
        await consumer.verify_all_partitions_active()
        (found,) = consumer.stuck
        assert (found.tp, found.case, found.offset) == (stuck, StuckCase.NOT_ACKED, 0)
        now = trio.current_time()
        assert consumer.verify_event_path(now, stuck) == found
        assert consumer.verify_event_path(now, well) is None
        assert consumer.verify_event_path(now, TP("elsewhere", 0)) is None
        assert consumer.verify_recovery_event_path(now, stuck) is None, "it was reported as stuck"
    assert caplog.text.count(f"{stuck} is stuck: delivered and not acked") == 1


# Start and end


async def test_on_init_dependencies_on_start_on_restart_on_stop(place: Place) -> None:
    """The hooks run in order. After a restart a new member continues at the committed offset."""
    told: list[str] = []

    class Telling(Consumer):
        async def on_start(self) -> None:
            told.append("start")
            await super().on_start()

        async def on_restart(self) -> None:
            await super().on_restart()
            told.append("restart")

        async def on_stop(self) -> None:
            await super().on_stop()
            told.append("stop")

    (tp,) = place.tps(1)
    async with place.opened(1, *THREE, kind=app_with(Telling)) as app:
        assert app.consumer.on_init_dependencies() == [app.consumer.fetcher]
        messages = app.topic(place.name).noack()
        first, second = await take(messages, 2)
        first.ack()
        client = app.consumer.client
        await app.consumer.restart()
        assert told == ["start", "stop", "restart", "start"]
        assert app.consumer.client is not client
        assert not second.ack()
        await send(app, [tp], 1)
        for offset in (1, 2, 3):
            async with await anext(messages) as message:  # the iterator continues
                assert message.offset == offset
    assert told[4:] == ["stop"]
    assert await place.committed() == {tp: 4}


@pytest.mark.parametrize("policy", ["fail", "go_on"])
async def test_on_task_error(place: Place, policy: str, caplog: pytest.LogCaptureFixture) -> None:
    """The failed message stays unacked, safe offsets are committed, the policy raises or logs."""
    (tp,) = place.tps(1)
    async with place.opened(1, *THREE, on_task_error=policy) as app:
        messages = app.topic(place.name).noack()
        first, second = await take(messages, 2)
        first.ack()
        if policy == "fail":
            with pytest.raises(ZeroDivisionError):
                await app.consumer.on_task_error(ZeroDivisionError())
        else:
            await app.consumer.on_task_error(ZeroDivisionError())
            assert "ZeroDivisionError" in caplog.text
        assert await app.consumer.client.committed([tp]) == {tp: 1}
        assert app.consumer.unacked == {second}
        assert (await anext(messages)).offset == 2


async def test_close(place: Place) -> None:
    """Delivery ends, safe offsets are committed, the member leaves the group; the app goes on."""
    async with place.opened(1, *THREE) as app:
        async for message in app.topic(place.name):
            if message.offset == 2:
                app.consumer.close()
        await app.consumer.ended.wait()
        assert await place.committed() == {place.tps(1)[0]: 3}
        async with place.app() as other:
            await other.topic(place.name).send(value=b"3")
            with trio.fail_after(5.0):  # it does not wait for a session timeout
                assert (await anext(other.topic(place.name).noack())).offset == 3
        await app.topic(place.name).send_and_wait(value=b"still here")


class Closing(Exception):
    """Raised by a client that is closing."""


class Tolerant(Consumer):
    consumer_stopped_errors = (ClientClosed, Closing)


@pytest.mark.parametrize(
    ("kind", "error", "as_it_closes", "is_quiet"),
    [
        (Tolerant, Closing, True, True),
        (Tolerant, Closing, False, False),
        (Tolerant, ZeroDivisionError, True, False),
        (Consumer, Closing, True, False),
    ],
)
async def test_consumer_stopped_errors(
    place: Place, kind: type[Consumer], error: type[Exception], as_it_closes: bool, is_quiet: bool
) -> None:
    """They end the fetcher quietly while the client closes. Other or earlier errors end the app."""
    comes_out = contextlib.nullcontext() if is_quiet else pytest.RaisesGroup(error, **FLAT)
    with comes_out:
        async with place.opened(1, b"0", kind=scripted(app_with(kind))) as app:

            async def fails(poll: Function) -> Any:
                try:
                    batch = await poll()
                except ClientClosed:
                    raise error from None
                if batch and not as_it_closes:
                    raise error
                return batch

            replace(app, "poll", fails)
            await anext(app.topic(place.name).noack())
            await app.kill()
    assert Consumer.consumer_stopped_errors == (ClientClosed,)
