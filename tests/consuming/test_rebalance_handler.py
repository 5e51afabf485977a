"""Rebalances and their bounds: a hook that outlasts its bound loses no message."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.apps import (
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
from tests.scripted import fails, loses_the_answer, replace, replaced
from transport import (
    TP,
    App,
    AuthorizationFailed,
    CommitRefused,
    CommitUnknown,
    Conductor,
    Fenced,
    Transport,
    TransportError,
)
from transport.consuming.rebalance_handler import _within
from transport.drivers.base import Rebalance, RebalanceKind
from transport.errors import ClientClosed

ORDERS = TP("orders", 0)
BOUND, SLOW = 5.0, 20.0


class Slow(App):
    """An app with hooks that outlast the bound; with `shielded`, nothing can cancel them."""

    shielded = False
    seeks: int | None = None

    async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
        if self.seeks is not None:
            for tp in assigned:
                await self.consumer.seek(tp, self.seeks)
        await self._dawdle()

    async def on_partitions_revoked(self, revoked: frozenset[TP]) -> None:
        await self._dawdle()

    async def _dawdle(self) -> None:
        with trio.CancelScope(shield=self.shielded):
            await trio.sleep(SLOW)


class SlowAndShielded(Slow):
    shielded = True


class SeeksOn(SlowAndShielded):
    seeks = 7


class SeeksBack(SlowAndShielded):
    seeks = 2


slow = pytest.mark.parametrize("kind", [Slow, SlowAndShielded])


@slow
@jumping
async def test_slow_assigned_hook_loses_no_message(kind: type[App]) -> None:
    broker = broker_with(ORDERS, records=5)
    async with app_on(broker, kind=kind, drain_timeout=BOUND) as app:
        messages = await take(app.topic("orders").noack(), 5)
        assert [message.offset for message in messages] == list(range(5))


class SlowConductor(Conductor):
    async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
        await trio.sleep(SLOW)
        await super().on_partitions_assigned(assigned)


class WithSlowConductor(App):
    class Transport(Transport):
        Conductor = SlowConductor


@pytest.mark.parametrize("transactions", [None, "partition"])
@jumping
async def test_cancelled_conductor_hook_keeps_the_channels(transactions: str | None) -> None:
    broker = broker_with(ORDERS, records=5)
    settings = {"drain_timeout": BOUND, "transactions": transactions}
    async with WithSlowConductor("group", broker, **settings) as app:
        messages = await take(app.topic("orders").noack(), 5)
        assert [message.offset for message in messages] == list(range(5))
        for message in messages:
            message.ack()
    assert committed(broker) == {ORDERS: 5}


@slow
@jumping
async def test_slow_hook_after_a_loss_loses_no_message(kind: type[App]) -> None:
    broker = broker_with(ORDERS, records=10)
    async with app_on(broker, kind=kind, drain_timeout=BOUND) as app:
        orders = aiter(app.topic("orders"))
        handled = [message.offset for message in await take(orders, 4)]  # the last one is unacked
        evict_all(broker)
        write(broker, ORDERS, 2)
        while handled[-1] != 11:
            handled.append((await anext(orders)).offset)
        await anext_for_a_while(orders)  # this acks the last message
        await app.consumer.commit()
    assert set(handled) == set(range(12))
    assert committed(broker) == {ORDERS: 12}


@pytest.mark.parametrize("assignment", ["cooperative", "eager"])
@slow
@jumping
async def test_slow_revoked_hook_loses_no_message(kind: type[App], assignment: str) -> None:
    broker = broker_with(*[TP("orders", number) for number in range(4)], records=5)
    settings = {"drain_timeout": BOUND, "assignment": assignment}
    handled: set[tuple[TP, int]] = set()

    async def work(app: App) -> None:
        async for message in app.topic("orders"):
            handled.add((message.tp, message.offset))
            await trio.sleep(1)

    async with app_on(broker, kind=kind, **settings) as one, trio.open_nursery() as nursery:
        nursery.start_soon(work, one)
        await trio.sleep(SLOW + 3)
        async with app_on(broker, **settings) as other:
            nursery.start_soon(work, other)
            await trio.sleep(300)
        await trio.sleep(300)
        nursery.cancel_scope.cancel()
    assert len(handled) == 20
    assert set(committed(broker).values()) == {5}


async def anext_for_a_while(messages: object) -> None:
    with trio.move_on_after(60):
        await anext(messages)


@pytest.mark.parametrize("kind", [SeeksOn, SeeksBack])
@jumping
async def test_seek_in_a_late_hook_is_applied_after_the_bound(kind: type[Slow]) -> None:
    broker = broker_with(ORDERS, records=10)
    broker.group("group").offsets[ORDERS] = 5
    settings = {"drain_timeout": BOUND, "commit_interval": NEVER}
    async with app_on(broker, kind=kind, **settings) as app:
        messages = await take(app.topic("orders").noack(), 3)
        first = kind.seeks
        assert first is not None
        assert [message.offset for message in messages] == [first, first + 1, first + 2]


class SeeksTooFar(App):
    committed: bool | None = None

    async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
        await self.consumer.seek(ORDERS, 1000)
        self.committed = await self.consumer.commit()


@jumping
async def test_seek_past_the_end_in_a_hook_is_not_committed() -> None:
    broker = broker_with(ORDERS, records=3)
    async with app_on(broker, kind=SeeksTooFar, commit_interval=NEVER) as app:
        messages = await take(app.topic("orders").noack(), 3)
        assert [message.offset for message in messages] == [0, 1, 2]
        assert app.committed is False
    assert committed(broker) == {ORDERS: 0}


class PausesLate(SlowAndShielded):
    async def on_partitions_assigned(self, assigned: frozenset[TP]) -> None:
        self.consumer.pause_partitions(assigned)
        await self._dawdle()


@jumping
async def test_pause_in_a_late_hook_is_applied_after_the_bound() -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker, kind=PausesLate, drain_timeout=BOUND) as app:
        messages = app.topic("orders").noack()
        await trio.sleep(SLOW + 1)
        write(broker, ORDERS)
        assert await nothing_comes(messages)
        app.consumer.resume_partitions([ORDERS])
        assert (await anext(messages)).offset == 0


@jumping
async def test_cancelled_assigned_hook_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    broker = broker_with(ORDERS, records=1)
    async with app_on(broker, kind=Slow, drain_timeout=BOUND) as app:
        (await anext(app.topic("orders").noack())).ack()
        assert trio.current_time() == BOUND
    (warning,) = warnings_in(caplog)
    assert "assigned" in warning
    assert str(ORDERS) in warning


@pytest.mark.parametrize(("kind", "seconds"), [(Slow, BOUND), (App, 0.0)])
@jumping
async def test_hook_after_a_loss_is_a_warning_only_if_cancelled(
    kind: type[App], seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_with(ORDERS, records=1)
    async with app_on(broker, kind=kind, drain_timeout=BOUND, commit_interval=NEVER) as app:
        await anext(app.topic("orders").noack())
        caplog.clear()
        evict_all(broker)
        await trio.sleep(seconds + 1)
        cut_off = [text for text in warnings_in(caplog) if "hook was cancelled" in text]
        assert ["orders-0" in text for text in cut_off] == ([True] if seconds else [])


# The assignment during a rebalance


@jumping
async def test_no_rebalance_is_under_way_before_the_first() -> None:
    async with app_on(broker_with(ORDERS)) as app:
        assert not app.consumer.rebalances.is_under_way
        assert not app.consumer.rebalances.start_at(ORDERS, 0)


@jumping
async def test_lost_partitions_are_removed_before_the_hook() -> None:
    heard: list[tuple[frozenset[TP], frozenset[TP]]] = []

    class Hearing(App):
        async def on_partitions_revoked(self, revoked: frozenset[TP]) -> None:
            heard.append((revoked, frozenset(self.consumer.assignment)))

    broker = broker_with(ORDERS, records=1)
    async with app_on(broker, kind=Hearing) as app:
        message = await anext(app.topic("orders").noack())
        evict_all(broker)
        await trio.sleep(1)
        assert heard == [(frozenset({ORDERS}), frozenset())]
        assert not message.ack()


@jumping
async def test_wait_for_stopped_flow_does_not_wait_for_handlers() -> None:
    """The poll that waits for the rebalance returns nothing before the release."""
    broker = broker_with(ORDERS, records=1)
    async with app_on(broker) as app:
        message = await anext(app.topic("orders").noack())
        app.conductor.clear()
        await wait_all_tasks_blocked()
        assert app.consumer.rebalances.is_under_way
        app.consumer.stop_flow()
        with trio.fail_after(1):
            await app.consumer.wait_for_stopped_flow()
        assert message.ack()


@jumping
async def test_producer_of_abandoned_partition_is_stopped() -> None:
    broker = broker_with(*[TP("orders", number) for number in range(2)], records=1)
    settings = {"drain_timeout": BOUND, "commit_interval": NEVER}
    async with app_on(broker, transactions="partition", **settings) as app:
        await take(app.topic("orders").noack(), 2)  # never acked

        def producers() -> int:
            return sum("Producer of group-" in line for line in app.tree().lines())

        assert producers() == 2
        async with app_on(broker) as other:
            other.topic("orders").listen()
            await trio.sleep(BOUND + 10)
            assert len(app.consumer.assignment) == 1
            assert producers() == 1


@jumping
async def test_released_producer_that_does_not_close_cleanly_fails_neither_a_commit_nor_the_app(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = broker_with(*[TP("orders", number) for number in range(2)], records=1)
    async with app_on(broker, transactions="partition") as app:
        get_stuck = loses_the_answer(TransportError("abandoned: a thread"))
        replace(app, "producer.close", get_stuck, once=True)
        messages = app.topic("orders").noack()
        in_hand = await take(messages, 2)
        async with app_on(broker) as other:
            other.topic("orders").listen()
            await trio.sleep(1)
            for message in in_hand:
                message.ack()
            await trio.sleep(5)
            assert len(app.consumer.assignment) == 1
        await app.consumer.commit()
        assert committed(broker) == {TP("orders", 0): 1, TP("orders", 1): 1}
    assert "did not close cleanly: abandoned: a thread" in caplog.text


# Errors


@pytest.mark.parametrize("error", [ClientClosed("it was closed"), KeyboardInterrupt()])
async def test_error_of_a_bounded_step_is_raised_without_a_group(error: BaseException) -> None:
    event = Rebalance(RebalanceKind.REVOKED, frozenset(), 1, BOUND, lambda seek: None)

    async def step() -> None:
        await trio.lowlevel.checkpoint()
        raise error

    with pytest.raises(type(error)) as raised:
        await _within(event, step)
    assert raised.value is error


async def test_cancellation_of_a_bounded_step_is_passed_on() -> None:
    event = Rebalance(RebalanceKind.REVOKED, frozenset(), 1, BOUND, lambda seek: None)
    with trio.move_on_after(0) as scope:
        await _within(event, trio.sleep_forever)
    assert scope.cancelled_caught


# The end


@jumping
async def test_stop_does_not_wait_for_a_hook() -> None:
    async with app_on(broker_with(ORDERS), kind=Slow) as app:
        app.topic("orders").listen()
        await wait_all_tasks_blocked()
        assert app.consumer.rebalances.is_under_way
    assert trio.current_time() == 0


@jumping
async def test_rebalance_after_the_end_waits_for_no_handler_and_calls_no_hook() -> None:
    heard: list[frozenset[TP]] = []

    class Hearing(App):
        async def on_partitions_revoked(self, revoked: frozenset[TP]) -> None:
            heard.append(revoked)

    broker = broker_with(ORDERS, records=1)
    async with app_on(broker, kind=Hearing) as app, app_on(broker) as other:
        await anext(app.topic("orders").noack())  # never acked
        app.consumer.rebalances.end()
        app.conductor.clear()
        with trio.fail_after(10):
            await anext(other.topic("orders").noack())
        assert heard == []


# The last commit of revoked partitions


@pytest.mark.parametrize("error", [Fenced, AuthorizationFailed])
@jumping
async def test_fatal_error_of_the_last_commit_ends_the_app(error: type[Exception]) -> None:
    broker = broker_with(ORDERS, records=3)
    with pytest.RaisesGroup(error, flatten_subgroups=True):
        async with app_on(broker, commit_interval=NEVER) as app:
            messages = await take(app.topic("orders").noack(), 3)
            messages[0].ack()
            replace(app, "commit", fails(error))
            app.conductor.clear()
            await trio.sleep(1)
            messages[1].ack()
            messages[2].ack()
            await trio.sleep_forever()


@pytest.mark.parametrize("error", [CommitRefused, CommitUnknown])
@jumping
async def test_refused_last_commit_is_a_warning(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_with(ORDERS, records=1)
    async with app_on(broker, commit_interval=NEVER) as app:
        (message,) = await take(app.topic("orders").noack(), 1)
        with replaced(app, "commit", fails(error("as the broker says"))):
            app.conductor.clear()
            message.ack()
            await trio.sleep(1)
        assert not app.consumer.assignment
    assert "the last commit of orders-0 failed: as the broker says" in caplog.text


@jumping
async def test_app_can_be_killed_during_a_rebalance() -> None:
    broker = broker_with(ORDERS, records=1)
    async with app_on(broker, kind=SeeksOn, drain_timeout=BOUND) as app:
        app.topic("orders").noack()
        await trio.sleep(1)
        assert app.consumer.rebalances.is_under_way
        await app.kill()
        await trio.sleep(SLOW)
    assert committed(broker) == {}
