"""Batches that fail: one bad record is found, and the others are neither lost nor repeated."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import attrs
import pytest
import trio

from tests.apps import A_WHILE, app_on
from tests.handling.calls import Broken, broker_with, committed_to, put
from tests.handling.test_handler_failures import letters, steady
from tests.nurseries.clock import jumping
from transport import Batch


@attrs.define
class Store:
    """A handler that stores all of a batch, or fails for a batch with a bad offset.

    Attributes:
        calls: the offsets of each call.
        stored: how often each offset was stored.
    """

    bad: set[int]
    calls: list[list[int]] = attrs.field(factory=list)
    stored: Counter[int] = attrs.field(factory=Counter)

    async def __call__(self, batch: Batch) -> None:
        offsets = [message.offset for message in batch]
        self.calls.append(offsets)
        await trio.sleep(0.1)
        if self.bad.intersection(offsets):
            raise Broken(offsets)
        self.stored.update(offsets)


@pytest.mark.parametrize("bad", [0, 5, 15])
@jumping
async def test_one_bad_record_fails_alone_and_the_others_of_its_batch_are_stored_once(
    bad: int,
) -> None:
    """A pitfall of others: one bad record fails its batch, for ever."""
    broker = broker_with("a" * 16)
    store = Store({bad})
    app = app_on(broker)
    options: dict[str, Any] = {"max_size": 16, "retry": steady(3, 10)}
    app.batch_handler(app.topic("orders"), store, dead_letters=app.topic("dead"), **options)
    async with app:
        await trio.sleep(A_WHILE)
        assert store.stored == dict.fromkeys(set(range(16)) - {bad}, 1)
        assert store.calls.count([bad]) == 3, "only the bad record uses up attempts"
        with_others = [call for call in store.calls if bad in call and call != [bad]]
        assert len(with_others) == math.log2(16), "each half is tried once"
        assert [call[0] for call in store.calls if len(call) < 16] == sorted(
            call[0] for call in store.calls if len(call) < 16
        ), "in offset order"
        assert letters(broker) == 1
        assert committed_to(broker) == 16
        put(broker, "a" * 16)
        await trio.sleep(5)
        assert store.calls[-1] == list(range(16, 32)), "the next batch is whole"


@jumping
async def test_parts_before_a_bad_record_are_committed_while_it_waits_for_its_retry() -> None:
    broker = broker_with("a" * 8)
    store = Store({5})
    app = app_on(broker, grace=1.0)
    app.batch_handler(app.topic("orders"), store, max_size=8, retry=steady(2, 1000))
    async with app:
        await trio.sleep(A_WHILE)
        assert committed_to(broker) == 5
        assert store.stored == dict.fromkeys(range(5), 1)


@jumping
async def test_a_batch_that_is_not_split_is_retried_whole_and_each_record_has_a_letter() -> None:
    broker = broker_with("a" * 4)
    store = Store({2})
    app = app_on(broker)
    app.batch_handler(
        app.topic("orders"),
        store,
        max_size=4,
        split=False,
        retry=steady(3, 1),
        dead_letters=app.topic("dead"),
    )
    async with app:
        await trio.sleep(A_WHILE)
        assert store.calls == [[0, 1, 2, 3]] * 3
        assert letters(broker) == 4
        assert committed_to(broker) == 4
