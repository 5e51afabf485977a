"""Automatic commits, at each interval and at the end: `transport/committing/autocommit.py`."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.apps import A_WHILE, app_on, broker_with, committed, evict_all, take
from tests.lanes import NEVER
from tests.logs import warnings_in
from tests.nurseries.clock import jumping
from tests.scripted import Function, replace
from transport import (
    TP,
    App,
    CommitRefused,
    CommitUnknown,
    RebalanceInProgress,
    TransactionAborted,
)

ORDERS = TP("orders", 0)


@attrs.define
class Answers:
    """The broker's answers to the next commits of an app: an error, or the seconds until success.

    Commits beyond the script succeed at once.
    """

    app: App
    script: list[Exception | float]
    tried: int = 0

    def __attrs_post_init__(self) -> None:
        replace(self.app, "commit", self._commit)

    async def _commit(self, make: Function, *args: object) -> None:
        self.tried += 1
        answer = self.script.pop(0) if self.script else 0.0
        if isinstance(answer, Exception):
            await trio.lowlevel.checkpoint()
            raise answer
        await trio.sleep(answer)
        await make(*args)


# At each interval


@jumping
async def test_unanswered_commit_is_logged_and_settled_by_the_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = broker_with(ORDERS, records=1)
    async with app_on(broker, commit_interval=1.0) as app:
        (message,) = await take(app.topic("orders").noack(), 1)
        answers = Answers(app, [CommitUnknown("lost on the way")])
        message.ack()
        await trio.sleep(1.5)
        assert "lost on the way" in "\n".join(warnings_in(caplog))
        assert committed(broker) == {}
        await trio.sleep(1.0)
        assert committed(broker) == {ORDERS: 1}
        assert answers.tried == 2


@jumping
async def test_commits_without_answers_are_two_lines_however_many_they_are(
    log_records: list[Any],
) -> None:
    async with app_on(broker_with(ORDERS, records=2), commit_interval=1.0) as app:
        first, second = await take(app.topic("orders").noack(), 2)
        await trio.sleep(1.5)
        Answers(app, [CommitUnknown("no answer")] * 20)
        first.ack()
        await trio.sleep(30)
        second.ack()
        await trio.sleep(30)
    lines = [each for each in log_records if each.event_name.startswith("commit")]
    assert [each.event_name for each in lines] == ["commit_unanswered", "commit_answered"]
    assert lines[0].error == "CommitUnknown('no answer')"
    assert lines[1].seconds == pytest.approx(20, abs=1)


@jumping
async def test_loss_of_partitions_is_no_answer_to_a_commit(log_records: list[Any]) -> None:
    broker = broker_with(ORDERS, records=1)
    async with app_on(broker, commit_interval=1.0) as app:
        (message,) = await take(app.topic("orders").noack(), 1)
        await trio.sleep(1.5)
        Answers(app, [CommitUnknown("no answer")] * 5)
        message.ack()
        await trio.sleep(2)
        app.conductor.clear()
        evict_all(broker)
        await trio.sleep(30)
    events = [each.event_name for each in log_records]
    assert events.count("commit_unanswered") == 1
    assert "commit_answered" not in events


@jumping
async def test_refused_commit_ends_the_app() -> None:
    broker = broker_with(ORDERS, records=1)
    with pytest.RaisesGroup(CommitRefused, flatten_subgroups=True):
        async with app_on(broker, commit_interval=1.0) as app:
            (message,) = await take(app.topic("orders").noack(), 1)
            Answers(app, [CommitRefused("too much metadata")])
            message.ack()
            await trio.sleep(A_WHILE)
    assert trio.current_time() < A_WHILE


@jumping
async def test_transaction_aborted_at_an_interval_does_not_end_the_app() -> None:
    broker = broker_with(ORDERS, records=1)
    settings = {"transactions": "member", "commit_interval": 1.0, "drain_timeout": 5.0}
    async with app_on(broker, **settings) as app:
        messages = app.topic("orders").noack()
        await take(messages, 1)  # its handler is too slow
        (again,) = await take(messages, 1)
        assert trio.current_time() >= 5.0
        assert again.offset == 0
        again.ack()
        await trio.sleep(1.5)
        assert committed(broker) == {ORDERS: 1}


@pytest.mark.parametrize(
    ("settings", "bound"),
    [
        ({"drain_timeout": 10.0}, 10.0),
        ({"drain_timeout": 10.0, "transaction_timeout": 12.0}, 6.0),
    ],
)
@jumping
async def test_barrier_waits_for_handlers_for_half_the_transaction_timeout_at_most(
    settings: dict[str, Any], bound: float
) -> None:
    """The other half is for the rest of the commit. `drain_timeout` bounds the wait, too."""
    broker = broker_with(ORDERS, records=1)
    settings = {"transactions": "member", "commit_interval": NEVER, **settings}
    async with app_on(broker, **settings) as app, trio.open_nursery() as nursery:
        nursery.start_soon(anext, app.topic("orders").noack())  # a handler that never acks
        await wait_all_tasks_blocked()
        with pytest.raises(TransactionAborted):
            await app.consumer.commit()
        assert trio.current_time() == bound


# At the end


@jumping
async def test_last_commit_without_an_answer_in_time_is_unknown() -> None:
    broker = broker_with(ORDERS, records=1)
    with pytest.RaisesGroup(
        pytest.RaisesExc(CommitUnknown, match="last commit"), flatten_subgroups=True
    ):
        async with app_on(broker, commit_interval=NEVER, commit_timeout=3.0) as app:
            (message,) = await take(app.topic("orders").noack(), 1)
            message.ack()
            Answers(app, [1000.0])
    assert trio.current_time() == 3.0


@jumping
async def test_last_commit_takes_no_more_than_its_share_of_the_grace() -> None:
    broker = broker_with(ORDERS, records=1)
    with pytest.RaisesGroup(CommitUnknown, flatten_subgroups=True):
        async with app_on(broker, commit_interval=NEVER, commit_timeout=30.0, grace=10.0) as app:
            (message,) = await take(app.topic("orders").noack(), 1)
            message.ack()
            Answers(app, [1000.0])
    assert trio.current_time() < 5.0


@jumping
async def test_rebalance_that_ended_before_the_shutdown_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A commit was refused because of it, and its partition was lost: nothing is due at the end."""
    broker = broker_with(ORDERS, records=1)
    async with app_on(broker, commit_interval=NEVER) as app:
        (message,) = await take(app.topic("orders").noack(), 1)
        message.ack()
        Answers(app, [RebalanceInProgress()])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.consumer.commit)
            await wait_all_tasks_blocked()
            app.consumer.ownership.drop({ORDERS})
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("transactions", ["member", "partition"])
@jumping
async def test_no_transaction_waits_for_a_handler_at_the_end(transactions: str) -> None:
    broker = broker_with(ORDERS, records=2)
    async with app_on(broker, transactions=transactions, commit_interval=NEVER) as app:
        done, _in_hand = await take(app.topic("orders").noack(), 2)
        done.ack()
    assert trio.current_time() == 0.0
    assert committed(broker) == {}
