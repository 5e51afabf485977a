"""The transaction manager, item by item: messages and offsets are committed together or not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.apps import take
from tests.lanes import NEVER, Place
from tests.museum.members import Member, member, send
from transport import (
    TP,
    App,
    Fenced,
    FutureMessage,
    Message,
    NotInTransaction,
    PendingMessage,
    RecordMetadata,
    TransactionAborted,
    TransactionManager,
    Transport,
)


@asynccontextmanager
async def by_partition(place: Place, *, kind: type[App] = App) -> AsyncIterator[App]:
    """Open an app with one transaction for each of two input partitions; two output partitions."""
    async with place.opened(2, kind=kind, transactions="partition") as app:
        await app.producer.create_topic(out(place), 2)
        yield app


def out(place: Place) -> str:
    return f"{place.name}.out"


async def of_each(app: App, place: Place) -> list[Message]:
    """Return a message of each input partition. Another task takes them: this one has no source."""
    taken: list[Message] = []

    async def take_them() -> None:
        taken.extend(await take(app.topic(place.name).noack(), 2))

    await send(app, place.tps(2), 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_them)
    return sorted(taken, key=lambda message: message.tp)


@asynccontextmanager
async def reading(place: Place) -> AsyncIterator[Callable[[int], Any]]:
    """Yield `read(count)`, which returns the next committed messages of the output."""
    async with App(place.name, place.url, client_only=True) as reader:
        messages = reader.topic(out(place)).noack()

        async def read(count: int) -> list[tuple[int, object]]:
            found = await take(messages, count)
            return sorted((message.partition, message.value) for message in found)

        yield read


async def test_app(place: Place) -> None:
    async with by_partition(place) as app:
        assert app.consumer.transactions.app is app
        assert app.consumer.transactions.transport is app.transport


async def test_transactional_id_format(place: Place) -> None:
    assert TransactionManager.transactional_id_format == "{group_id}-{tpg.group}-{tpg.partition}"

    class Named(TransactionManager):
        transactional_id_format = "of.{tpg.group}.{tpg.partition}.{group_id}"

    class Mine(Transport):
        TransactionManager = Named

    class MyApp(App):
        Transport = Mine

    for kind, wanted in (
        (App, {f"{place.name}-{place.name}-{number}" for number in range(2)}),
        (MyApp, {f"of.{place.name}.{number}.{place.name}" for number in range(2)}),
    ):
        async with by_partition(place, kind=kind) as app:
            await of_each(app, place)
            assert writing_as(app) == wanted


def writing_as(app: App) -> set[str]:
    """Return the transactional ids of the app's producers."""
    (producer,) = [node for node in app.tree().children if node.name == "Producer"]
    names = [node.name for node in producer.children]
    return {name.removeprefix("Producer of ") for name in names if "Producer of" in name}


async def test_send_send_soon_send_and_wait(place: Place) -> None:
    """Each message is in the transaction of its source's partition, whatever its own partition.

    It is read once that transaction is committed, together with the source's offset.
    """
    tps = place.tps(2)
    async with by_partition(place) as app, reading(place) as read:
        transactions = app.consumer.transactions
        first, second = await of_each(app, place)
        for source, target in ((first, 1), (second, 0)):  # not the source's partition
            value = b"%d" % source.partition
            await transactions.send(out(place), None, value, target, source=source)
            pending = PendingMessage(topic=out(place), value=value, partition=target)
            transactions.send_soon(fut := FutureMessage(pending), source=source)
            written = await transactions.send_and_wait(
                out(place), None, value, target, 1.5, {"a": b"1"}, source=source
            )
            assert written.tp == TP(out(place), target)
            assert isinstance(await fut, RecordMetadata)
        second.ack()
        assert await app.consumer.commit({tps[1]})
        assert await read(3) == [(0, b"1")] * 3
        assert await app.consumer.client.committed(tps) == {tps[1]: 1}
        first.ack()
        await app.consumer.commit()
        assert await read(3) == [(1, b"0")] * 3
        assert await app.consumer.client.committed(tps) == dict.fromkeys(tps, 1)
        with pytest.raises(NotInTransaction, match="acked"):
            await transactions.send(out(place), None, b"too late", source=first)
        await transactions.send_and_wait(out(place), None, b"outside", 0, source=None)
        assert await read(1) == [(0, b"outside")]


async def test_flush(place: Place) -> None:
    """It also waits for messages that are sent in the transactions."""
    async with by_partition(place) as app:
        sources = await of_each(app, place)
        transactions = app.consumer.transactions
        deliveries = [
            await transactions.send(out(place), None, b"v", 0, source=source) for source in sources
        ]
        assert not all(delivery.outcome for delivery in deliveries)
        await transactions.flush()
        assert all(isinstance(delivery.outcome, RecordMetadata) for delivery in deliveries)
        outside = await transactions.send(out(place), None, b"v", 0, source=None)
        await transactions.flush()
        assert isinstance(outside.outcome, RecordMetadata)


async def test_key_partition_create_topic_supports_headers(place: Place) -> None:
    """They do the same as those of the producer."""
    async with by_partition(place) as app:
        transactions = app.consumer.transactions
        await transactions.create_topic(f"{place.name}.new", 5, 1, retention=3600.0)
        written = await app.producer.send_and_wait(f"{place.name}.new", b"foobar", b"v")
        assert transactions.key_partition(f"{place.name}.new", b"foobar") == written.tp
        assert written.partition == (-790332482 & 0x7FFFFFFF) % 5
        assert transactions.supports_headers() is True


@pytest.mark.parametrize("goes_on", [True, False])
async def test_commit(place: Place, goes_on: bool) -> None:
    """It commits the offsets in the transactions, and begins the next ones or none."""
    tps = place.tps(2)
    async with by_partition(place) as app, reading(place) as read:
        transactions = app.consumer.transactions
        sources = await of_each(app, place)
        for source in sources:
            await transactions.send(out(place), None, b"v", source.partition, source=source)
        assert not await transactions.commit({})
        offsets = dict.fromkeys(tps, 1)
        assert await transactions.commit(offsets, start_new_transaction=goes_on)
        assert await read(2) == [(0, b"v"), (1, b"v")]
        assert await app.consumer.client.committed(tps) == offsets
        if goes_on:
            await transactions.send(out(place), None, b"next", 0, source=sources[0])
        else:
            with pytest.raises(TransactionAborted):
                await transactions.send(out(place), None, b"next", 0, source=sources[0])
        for source in sources:
            source.ack()


class Telling(TransactionManager):
    """A transaction manager that records the calls of its hooks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.told: list[tuple[str, set[TP]]] = []

    async def on_rebalance(
        self, assigned: Collection[TP], revoked: Collection[TP], newly_assigned: Collection[TP]
    ) -> None:
        assert set(newly_assigned) <= set(assigned)
        await super().on_rebalance(assigned, revoked, newly_assigned)
        self.note("assigned", newly_assigned)

    async def on_partitions_revoked(self, revoked: Collection[TP]) -> None:
        await super().on_partitions_revoked(revoked)
        self.note("revoked", revoked)

    def note(self, kind: str, tps: Collection[TP]) -> None:
        if tps:
            self.told.append((kind, set(tps)))


class TellingTransport(Transport):
    TransactionManager = Telling


class TellingMember(Member):
    Transport = TellingTransport


async def test_on_partitions_revoked_on_rebalance(place: Place) -> None:
    """Work for a revoked partition is committed. The new owner takes over its transactional id."""
    async with by_partition(place, kind=TellingMember) as one, reading(place) as read:
        for source in await of_each(one, place):
            async with source:
                await one.topic(out(place)).send(value=b"v", partition=0, source=source)
        ids = {f"{place.name}-{place.name}-{number}" for number in range(2)}
        assert writing_as(one) == ids
        async with member(place, commit_interval=NEVER, transactions="partition") as two:
            two.topic(place.name).noack()
            (moved,) = await two.owns(1)
            assert ("revoked", {moved}) in one.consumer.transactions.told
            assert await two.consumer.client.committed([moved]) == {moved: 1}
            id_of_moved = f"{place.name}-{place.name}-{moved.partition}"
            assert (writing_as(one), writing_as(two)) == (ids - {id_of_moved}, {id_of_moved})
        await one.owns(2)
        assert one.consumer.transactions.told[-1] == ("assigned", {moved})
        await one.consumer.commit()
        assert await read(2) == [(0, b"v")] * 2


async def test_on_rebalance_fences_the_old_owner(place: Place) -> None:
    """A new owner that takes over the id aborts the old owner's transaction and ends its app."""
    with pytest.RaisesGroup(Fenced, flatten_subgroups=True):
        async with by_partition(place) as app, place.app() as other:
            first, second = await of_each(app, place)
            transactions = app.consumer.transactions
            await transactions.send_and_wait(out(place), None, b"fenced", 0, source=first)
            # As a member does that got the partition after this one was evicted.
            await other.producer.begin_transaction(transactions.transactional_id(first.tp))
            first.ack()
            second.ack()
            with pytest.raises(Fenced):
                await app.consumer.commit()
            await trio.sleep_forever()  # `Fenced` ends the app
    committed = await place.committed()
    assert place.tps(2)[0] not in committed
