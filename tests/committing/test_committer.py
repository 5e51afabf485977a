"""The committer without transactions, on a scripted client: `transport/committing/committer.py`."""

from __future__ import annotations

import functools
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from tests.logs import warnings_in
from tests.nurseries.clock import jumping
from tests.records import fetched
from transport.committing.committer import Committer
from transport.delivering.assignment import Assignment
from transport.delivering.ledger import BufferUsage
from transport.errors import (
    AppClosed,
    AuthorizationFailed,
    CommitFailed,
    CommitRefused,
    CommitUnknown,
    CommitWithdrawn,
    DeliveryFailed,
    Fenced,
    PartitionGone,
    RebalanceInProgress,
    TopicReplaced,
    TransportError,
)
from transport.log import Log
from transport.message import Message
from transport.types import TP

A, B = TP("a", 0), TP("b", 0)


@attrs.define
class ScriptedClient:
    """A client whose commits take `seconds` and end as the script says; None: with success."""

    script: list[Exception | None] = attrs.field(factory=list)
    seconds: float = 0.0
    tried: list[Mapping[TP, int]] = attrs.field(factory=list)
    tried_at: list[float] = attrs.field(factory=list)
    timeouts: list[float] = attrs.field(factory=list)
    made: list[Mapping[TP, int]] = attrs.field(factory=list)
    texts: list[Mapping[TP, str]] = attrs.field(factory=list)  # of the commits in `made`
    at_once: int = 0

    async def commit(
        self, offsets: Mapping[TP, int], timeout: float, texts: Mapping[TP, str]
    ) -> None:
        self.at_once += 1
        assert self.at_once == 1
        self.tried.append(dict(offsets))
        self.tried_at.append(trio.current_time())
        self.timeouts.append(timeout)
        await trio.sleep(self.seconds)
        self.at_once -= 1
        if self.script and (error := self.script.pop(0)) is not None:
            raise error
        self.made.append(dict(offsets))
        self.texts.append(dict(texts))


@attrs.define
class Rig:
    """A running committer, and messages of two partitions to ack."""

    client: Any
    assignment: Assignment = attrs.field(factory=Assignment)
    can_join: bool = True
    holds: bool = False
    changes: list[bool] = attrs.field(factory=list)  # of `holds`, one for each call
    delivered: trio.Event | None = None  # of the messages that were sent; None: there are none
    undelivered: Exception | None = None  # why one of them was not delivered
    committer: Committer = attrs.field(init=False)
    messages: dict[TP, list[Message]] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.committer = Committer(
            self.assignment,
            self.client,
            Log("transport.consumer", "group"),
            timeout=7.0,
            patience=30.0,
            can_join=lambda: self.can_join,
            suspend=lambda: self.hold(True),
            resume=lambda: self.hold(False),
            confirm=self.confirm,
        )
        self.take_on(A, B)

    def take_on(self, *tps: TP) -> None:
        self.assignment.assign(tps, 1)
        for tp in tps:
            ledger = self.assignment[tp]
            lane = ledger.open_lane(BufferUsage(100))
            ledger.put(fetched(*range(10)))
            ledger.committed = 0
            lane.ready()
            self.messages[tp] = list(lane.take_batch(10))

    def hold(self, holds: bool) -> None:
        self.holds = holds
        self.changes.append(holds)

    async def confirm(self) -> None:
        if self.delivered is not None:
            await self.delivered.wait()
        if self.undelivered is not None:
            raise self.undelivered

    def lose(self) -> None:
        self.assignment.remove(set(self.assignment), lost=True)

    def ack(self, tp: TP, count: int = 1) -> None:
        for _ in range(count):
            self.messages[tp].pop(0).ack()

    def settled(self) -> dict[TP, int | None]:
        return {tp: ledger.committed for tp, ledger in self.assignment.items()}


@asynccontextmanager
async def at_work(client: ScriptedClient) -> AsyncIterator[Rig]:
    rig = Rig(client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.committer.run)
        yield rig
        nursery.cancel_scope.cancel()


@jumping
async def test_commit_sends_nothing_if_nothing_is_due() -> None:
    async with at_work(ScriptedClient()) as rig:
        with trio.testing.assert_checkpoints():
            assert not await rig.committer.commit()
        assert rig.client.tried == []


@jumping
async def test_due_offsets_are_committed_and_entered_into_the_ledgers() -> None:
    async with at_work(ScriptedClient()) as rig:
        rig.ack(A, 3)
        assert await rig.committer.commit()
        assert rig.client.made == [{A: 3}]
        assert rig.settled() == {A: 3, B: 0}
        assert not await rig.committer.commit()


@jumping
async def test_concurrent_callers_share_one_attempt() -> None:
    async with at_work(ScriptedClient(seconds=1)) as rig, trio.open_nursery() as nursery:
        rig.ack(A)
        rig.ack(B)
        for topics in (None, ["a"], [B]):
            nursery.start_soon(rig.committer.commit, topics)
        await trio.sleep(5)
        assert rig.client.made == [{A: 1, B: 1}]


@jumping
async def test_attempt_commits_only_the_topics_of_its_callers() -> None:
    async with at_work(ScriptedClient()) as rig, trio.open_nursery() as nursery:
        rig.ack(A)
        rig.ack(B)
        nursery.start_soon(rig.committer.commit, ["a"])
        await trio.sleep(1)
        assert rig.client.made == [{A: 1}]


@jumping
async def test_caller_shares_the_attempt_in_flight_if_it_covers_its_offsets() -> None:
    async with at_work(ScriptedClient(seconds=1)) as rig, trio.open_nursery() as nursery:
        rig.ack(A)
        nursery.start_soon(rig.committer.commit)
        await trio.sleep(0.5)
        assert await rig.committer.commit()
        assert trio.current_time() == 1
        assert rig.client.made == [{A: 1}]


@pytest.mark.parametrize("offset", [0, 1])
@jumping
async def test_caller_with_another_partition_gets_the_next_attempt(offset: int) -> None:
    async with at_work(ScriptedClient(seconds=1)) as rig, trio.open_nursery() as nursery:
        rig.ack(A)
        nursery.start_soon(rig.committer.commit)
        await trio.sleep(0.5)
        rig.assignment[B].committed = None  # as if nothing was ever committed
        rig.ack(B, offset)
        assert await rig.committer.commit([B])
        assert rig.client.made == [{A: 1}, {B: offset}]


@jumping
async def test_text_is_committed_with_the_offsets_of_its_topics() -> None:
    async with at_work(ScriptedClient()) as rig, trio.open_nursery() as nursery:
        rig.ack(A)
        rig.ack(B)
        nursery.start_soon(functools.partial(rig.committer.commit, [A], text="of a"))
        nursery.start_soon(rig.committer.commit)
        await trio.sleep(1)
        assert (rig.client.made, rig.client.texts) == ([{A: 1, B: 1}], [{A: "of a"}])
        rig.ack(A)
        assert await rig.committer.commit()
        assert (rig.client.made[1:], rig.client.texts[1:]) == ([{A: 2}], [{}])


@jumping
async def test_text_is_committed_with_an_offset_that_is_committed_already() -> None:
    async with at_work(ScriptedClient()) as rig:
        rig.ack(A)
        assert not await rig.committer.commit(["b"], text="again")
        assert await rig.committer.commit(text="first")
        assert not await rig.committer.commit(["a"], text="")
        assert rig.client.made == [{B: 0}, {A: 1, B: 0}, {A: 1}]
        assert rig.client.texts == [{B: "again"}, {A: "first", B: "first"}, {}]


@jumping
async def test_last_text_of_a_shared_attempt_counts() -> None:
    async with at_work(ScriptedClient(seconds=1)) as rig, trio.open_nursery() as nursery:
        rig.ack(A)
        nursery.start_soon(rig.committer.commit)
        for topics, text in (["a"], "one"), ([A], "two"), (["b"], "three"):
            await trio.sleep(0.1)
            nursery.start_soon(functools.partial(rig.committer.commit, topics, text=text))
        await trio.sleep(5)
        assert rig.client.texts == [{}, {A: "two", B: "three"}]


@jumping
async def test_caller_with_a_text_does_not_share_the_attempt_in_flight() -> None:
    async with at_work(ScriptedClient(seconds=1)) as rig, trio.open_nursery() as nursery:
        rig.ack(A)
        nursery.start_soon(rig.committer.commit)
        await trio.sleep(0.5)
        assert not await rig.committer.commit(["a"], text="a text"), "it did not move the offset"
        assert (rig.client.made, rig.client.texts) == ([{A: 1}, {A: 1}], [{}, {A: "a text"}])


@jumping
async def test_text_is_kept_when_its_commit_is_retried() -> None:
    client = ScriptedClient([RebalanceInProgress("a join"), CommitFailed("no member")])
    async with at_work(client) as rig:
        rig.ack(A)
        assert await rig.committer.commit(["a"], text="a text")
        assert (rig.client.made, rig.client.texts) == ([{A: 1}], [{A: "a text"}])


@jumping
async def test_callers_with_later_acks_share_the_next_attempt() -> None:
    async with at_work(ScriptedClient(seconds=1)) as rig, trio.open_nursery() as nursery:
        rig.ack(A)
        nursery.start_soon(rig.committer.commit)
        await trio.sleep(0.5)
        rig.ack(A)
        nursery.start_soon(rig.committer.commit)
        rig.ack(B)
        nursery.start_soon(rig.committer.commit)
        await trio.sleep(10)
        assert rig.client.made == [{A: 1}, {A: 2, B: 1}]


@jumping
async def test_cancelling_a_caller_does_not_cancel_the_commit() -> None:
    async with at_work(ScriptedClient(seconds=2)) as rig:
        rig.ack(A)
        with trio.move_on_after(1) as scope:
            await rig.committer.commit()
        assert scope.cancelled_caught
        assert rig.settled() == {A: 0, B: 0}
        assert await rig.committer.wait_for_running()
        assert rig.client.made == [{A: 1}]
        assert rig.settled() == {A: 1, B: 0}


@jumping
async def test_cancelling_a_caller_does_not_affect_other_callers() -> None:
    async with at_work(ScriptedClient(seconds=2)) as rig, trio.open_nursery() as nursery:
        rig.ack(A)
        moved: list[bool] = []

        async def other() -> None:
            moved.append(await rig.committer.commit())

        nursery.start_soon(other)
        with trio.move_on_after(1):
            await rig.committer.commit()
        await trio.sleep(5)
        assert moved == [True]


@jumping
async def test_acks_during_a_commit_are_committed_by_the_next() -> None:
    async with at_work(ScriptedClient(seconds=2)) as rig, trio.open_nursery() as nursery:
        rig.ack(A)
        nursery.start_soon(rig.committer.commit)
        await trio.sleep(1)
        rig.ack(A)
        await trio.sleep(5)
        assert rig.settled()[A] == 1
        assert await rig.committer.commit()
        assert rig.settled()[A] == 2


@jumping
async def test_commit_without_an_answer_is_made_again_by_the_next() -> None:
    async with at_work(ScriptedClient([CommitUnknown("no answer")])) as rig:
        rig.ack(A)
        with pytest.raises(CommitUnknown):
            await rig.committer.commit()
        assert rig.settled()[A] == 0
        assert await rig.committer.commit()
        assert rig.client.tried == [{A: 1}, {A: 1}]
        assert rig.settled()[A] == 1


@jumping
async def test_withdrawn_commit_is_made_by_the_next() -> None:
    async with at_work(ScriptedClient([CommitWithdrawn("not begun")])) as rig:
        rig.ack(A)
        with pytest.raises(CommitWithdrawn):
            await rig.committer.commit()
        assert rig.settled()[A] == 0
        assert await rig.committer.commit()
        assert rig.settled()[A] == 1


@jumping
async def test_unknown_outcome_is_raised_to_all_callers_of_the_attempt() -> None:
    client = ScriptedClient([CommitUnknown("no answer")], seconds=1)
    async with at_work(client) as rig, trio.open_nursery() as nursery:
        rig.ack(A)
        told = []

        async def caller() -> None:
            with pytest.raises(CommitUnknown):
                await rig.committer.commit()
            told.append(True)

        nursery.start_soon(caller)
        nursery.start_soon(caller)
        await trio.sleep(5)
        assert told == [True, True]


@jumping
async def test_commit_without_an_answer_is_not_made_again_for_a_revoked_partition() -> None:
    async with at_work(ScriptedClient([CommitUnknown("no answer")])) as rig:
        rig.ack(A)
        with pytest.raises(CommitUnknown):
            await rig.committer.commit()
        rig.assignment.remove([A])
        rig.ack(B)
        await rig.committer.commit()
        assert rig.client.tried == [{A: 1}, {B: 1}]


@jumping
async def test_commit_is_retried_until_the_rebalance_is_over() -> None:
    client = ScriptedClient([RebalanceInProgress(), RebalanceInProgress()])
    async with at_work(client) as rig:
        rig.ack(A)
        assert await rig.committer.commit()
        assert rig.client.tried == [{A: 1}] * 3
        assert rig.settled()[A] == 1


@jumping
async def test_waits_between_retries_double_up_to_a_limit() -> None:
    client = ScriptedClient([RebalanceInProgress()] * 7)
    async with at_work(client) as rig:
        rig.ack(A)
        assert await rig.committer.commit()
        waits = [later - sooner for sooner, later in itertools.pairwise(client.tried_at)]
        assert waits == pytest.approx([0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.5])


@jumping
async def test_commit_had_no_effect_between_two_retries() -> None:
    client = ScriptedClient([RebalanceInProgress()], seconds=1)
    async with at_work(client) as rig, trio.open_nursery() as nursery:
        assert not rig.committer.commit_had_no_effect
        rig.ack(A)
        nursery.start_soon(rig.committer.commit)
        await trio.sleep(0.5)
        assert not rig.committer.commit_had_no_effect
        await trio.sleep(0.51)
        assert rig.committer.commit_had_no_effect
        await trio.sleep(0.5)
        assert not rig.committer.commit_had_no_effect  # the retry is in flight


@jumping
async def test_client_that_ignores_its_timeout_is_abandoned_two_seconds_later() -> None:
    client = ScriptedClient(seconds=1000)
    async with at_work(client) as rig:
        rig.ack(A)
        with pytest.raises(CommitUnknown):
            await rig.committer.commit()
        assert client.timeouts == [7.0]
        assert trio.current_time() == 9.0


@jumping
async def test_commit_is_given_up_if_the_rebalance_outlasts_the_patience() -> None:
    client = ScriptedClient([RebalanceInProgress()] * 1000)
    async with at_work(client) as rig:
        rig.ack(A)
        assert not await rig.committer.commit()
        assert 29 < trio.current_time() <= 30
        client.script.clear()
        assert await rig.committer.commit()


@jumping
async def test_caller_with_nothing_due_does_not_wait_for_other_commits() -> None:
    client = ScriptedClient([CommitRefused("of a")], seconds=3)
    async with at_work(client) as rig, trio.open_nursery() as nursery:

        async def refused() -> None:
            with pytest.raises(CommitRefused):
                await rig.committer.commit()

        rig.ack(A)
        nursery.start_soon(refused)
        await trio.sleep(1)
        assert not await rig.committer.commit([B])
        assert trio.current_time() == 1


# Partitions that the broker does not have


@jumping
async def test_deleted_partition_does_not_block_other_partitions(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = ScriptedClient([PartitionGone([A])])
    async with at_work(client) as rig:
        rig.ack(A, 2)
        rig.ack(B, 3)
        assert await rig.committer.commit()
        assert client.made == [{B: 3}]
        assert rig.settled() == {A: 0, B: 3}
        assert "no partition a-0 any more" in caplog.text
        # The offset is left out from now on.
        assert not await rig.committer.commit()
        assert len(client.tried) == 2


@jumping
async def test_later_offset_of_a_missing_partition_is_committed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = ScriptedClient([PartitionGone([A]), PartitionGone([A])])
    async with at_work(client) as rig:
        for _ in range(2):
            rig.ack(A)
            assert not await rig.committer.commit()
        assert caplog.text.count("any more") == 1
        rig.ack(A)
        assert await rig.committer.commit()
        assert client.made == [{A: 3}]


@jumping
async def test_same_offset_of_a_missing_partition_is_committed_after_30_s() -> None:
    """A broker that has just started may not know its topics yet."""
    client = ScriptedClient([PartitionGone([A])])
    async with at_work(client) as rig:
        rig.ack(A, 2)
        assert not await rig.committer.commit()
        gone = trio.current_time()
        await trio.sleep_until(gone + 29.9)
        await rig.committer.commit()
        assert client.made == []
        await trio.sleep_until(gone + 30.0)
        assert await rig.committer.commit()
        assert client.made == [{A: 2}]


@jumping
async def test_partitions_deleted_one_after_the_other_are_all_left_out() -> None:
    client = ScriptedClient([PartitionGone([A]), PartitionGone([B])])
    async with at_work(client) as rig:
        rig.ack(A)
        rig.ack(B)
        assert not await rig.committer.commit()
        assert client.tried == [{A: 1, B: 1}, {B: 1}]


@jumping
async def test_partition_deleted_again_after_a_new_assignment_is_logged_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with at_work(ScriptedClient([PartitionGone([A]), PartitionGone([A])])) as rig:
        rig.ack(A)
        await rig.committer.commit()
        rig.assignment.remove([A])
        rig.take_on(A)
        rig.ack(A)
        await rig.committer.commit()
        assert caplog.text.count("no partition a-0 any more") == 2


@jumping
async def test_partition_of_a_topic_that_was_created_again_is_left_out_without_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The rebalance that follows is logged."""
    client = ScriptedClient([TopicReplaced([A])])
    async with at_work(client) as rig:
        rig.ack(A)
        rig.ack(B)
        assert await rig.committer.commit()
        assert client.made == [{B: 1}]
    assert warnings_in(caplog) == []


# Partitions that are about to be released


@jumping
async def test_partition_about_to_be_released_is_not_committed() -> None:
    async with at_work(ScriptedClient()) as rig:
        rig.ack(A)
        rig.ack(B)
        with trio.testing.assert_checkpoints():
            await rig.committer.leave([A, TP("a", 7)])
        assert await rig.committer.commit()
        assert rig.client.made == [{B: 1}]
        await rig.committer.leave([B])
        rig.ack(B)
        assert not await rig.committer.commit()


@jumping
async def test_partition_assigned_again_after_its_release_is_committed() -> None:
    async with at_work(ScriptedClient()) as rig:
        await rig.committer.leave([A])
        rig.assignment.remove([A])
        rig.take_on(A)
        rig.ack(A)
        assert await rig.committer.commit()
        assert rig.client.made == [{A: 1}]


@pytest.mark.parametrize(("tp", "seconds"), [(A, 5.0), (B, 0.0)])
@jumping
async def test_leave_waits_for_the_commit_in_flight_if_it_includes_the_partition(
    tp: TP, seconds: float
) -> None:
    """The commit could reach the broker after the first commit of the next owner."""
    async with at_work(ScriptedClient(seconds=5.0)) as rig, trio.open_nursery() as nursery:
        rig.ack(A)
        nursery.start_soon(rig.committer.commit)
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        await rig.committer.leave([tp])
        assert trio.current_time() == begun + seconds


@jumping
async def test_commit_of_a_partition_about_to_be_released_is_not_retried() -> None:
    client = ScriptedClient([RebalanceInProgress("now")], seconds=1.0)
    async with at_work(client) as rig, trio.open_nursery() as nursery:
        rig.ack(A)
        nursery.start_soon(rig.committer.commit)
        await trio.testing.wait_all_tasks_blocked()
        await rig.committer.leave([A])
    assert client.tried == [{A: 1}]
    assert client.made == []


# The end of the committer


@jumping
async def test_end_of_the_committer_raises_an_outcome_to_each_caller() -> None:
    told: dict[str, Exception] = {}
    rig = Rig(ScriptedClient(seconds=1000))

    async def commit(who: str) -> None:
        try:
            await rig.committer.commit()
        except TransportError as error:
            told[who] = error

    async with trio.open_nursery() as callers:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.committer.run)
            rig.ack(A)
            callers.start_soon(commit, "handed over")
            await trio.sleep(1)
            rig.ack(A)
            callers.start_soon(commit, "not begun")
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        callers.start_soon(commit, "too late")
    assert {who: type(error) for who, error in told.items()} == {
        "handed over": CommitUnknown,
        "not begun": AppClosed,
        "too late": AppClosed,
    }


@jumping
async def test_unexpected_error_ends_the_committer_and_commits_nothing() -> None:
    rig = Rig(ScriptedClient([ZeroDivisionError()]))
    rig.ack(A)

    async def commit() -> None:
        with pytest.raises(CommitUnknown):
            await rig.committer.commit()

    with pytest.RaisesGroup(ZeroDivisionError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.committer.run)
            with trio.CancelScope(shield=True):
                await commit()
            await trio.sleep_forever()
    assert rig.settled() == {A: 0, B: 0}


@jumping
async def test_retry_after_a_rebalance_commits_only_owned_partitions() -> None:
    client = ScriptedClient([RebalanceInProgress()], seconds=1)
    async with at_work(client) as rig, trio.open_nursery() as nursery:
        rig.ack(A)
        rig.ack(B)
        nursery.start_soon(rig.committer.commit)
        await trio.sleep(0.5)
        rig.assignment.remove([A])
        rig.ack(B)
        await trio.sleep(10)
        assert rig.client.tried == [{A: 1, B: 1}, {B: 2}]


@jumping
async def test_commit_moves_nothing_if_a_rebalance_revoked_all_partitions() -> None:
    client = ScriptedClient([RebalanceInProgress()], seconds=1)
    async with at_work(client) as rig, trio.open_nursery() as nursery:
        rig.ack(A)
        moved: list[bool] = []

        async def caller() -> None:
            moved.append(await rig.committer.commit())

        nursery.start_soon(caller)
        await trio.sleep(0.5)
        rig.assignment.remove([A, B])
        await trio.sleep(10)
        assert moved == [False]
        assert rig.client.made == []


@jumping
async def test_seek_during_a_commit_leaves_the_new_epoch_uncommitted() -> None:
    async with at_work(ScriptedClient(seconds=1)) as rig, trio.open_nursery() as nursery:
        rig.ack(A, 5)
        nursery.start_soon(rig.committer.commit)
        await trio.sleep(0.5)
        rig.assignment.seek(A, 2)
        await trio.sleep(5)
        assert rig.settled()[A] is None
        assert await rig.committer.commit()
        assert rig.client.made == [{A: 5}, {A: 2}]


@jumping
async def test_member_that_joins_again_and_keeps_its_partitions_commits_them() -> None:
    async with at_work(ScriptedClient([CommitFailed("no member")] * 3)) as rig:
        rig.ack(A)
        assert await rig.committer.commit()
        assert rig.client.tried == [{A: 1}] * 4


@jumping
async def test_lost_partitions_are_not_committed() -> None:
    client = ScriptedClient([CommitFailed("no member")], seconds=1)
    async with at_work(client) as rig, trio.open_nursery() as nursery:

        async def lose() -> None:
            await trio.sleep(0.5)
            rig.lose()

        rig.ack(A)
        nursery.start_soon(lose)
        assert not await rig.committer.commit()
        assert client.tried == [{A: 1}]


@jumping
async def test_commit_refused_for_lack_of_membership_suspends_delivery_until_the_loss() -> None:
    client = ScriptedClient([CommitFailed("no member")] * 1000)
    async with at_work(client) as rig:
        rig.ack(A)
        assert not await rig.committer.commit()
        assert rig.holds, "the partitions are not lost yet"
        assert not await rig.committer.commit()
        assert rig.holds
        client.script = [CommitFailed("no member")]
        rig.lose()
        rig.take_on(A)
        rig.ack(A)
        assert await rig.committer.commit()
        assert not rig.holds


@pytest.mark.parametrize(("error", "holds"), [(CommitFailed, True), (RebalanceInProgress, False)])
@jumping
async def test_delivery_is_suspended_from_the_refusal_to_the_next_successful_commit(
    error: type[TransportError], holds: bool
) -> None:
    client = ScriptedClient([error("no")], seconds=1)
    async with at_work(client) as rig, trio.open_nursery() as nursery:
        rig.ack(A)
        nursery.start_soon(rig.committer.commit)
        await trio.sleep(0.5)
        assert not rig.holds
        await trio.sleep(1)  # it was refused, and the retry is in flight
        assert rig.holds is holds
        await trio.sleep(1)
        assert not rig.holds


@jumping
async def test_commit_resumes_delivery_once_and_only_if_it_was_suspended() -> None:
    """Delivery may be stopped for other reasons."""
    async with at_work(ScriptedClient([None, CommitFailed("no member")])) as rig:
        for changes in ([], [True, False], [True, False]):
            rig.ack(A)
            assert await rig.committer.commit()
            assert rig.changes == changes


@pytest.mark.parametrize("can_join", [True, False])
@jumping
async def test_commit_is_given_up_with_a_warning_if_the_member_cannot_join_again(
    can_join: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with at_work(ScriptedClient([CommitFailed("no member")] * 1000)) as rig:
        rig.can_join = can_join
        rig.ack(A)
        assert not await rig.committer.commit()
        (warning,) = warnings_in(caplog)
        assert "no member" in warning
        # While a rebalance is served, the member cannot join: the commit is given up at once.
        assert (29 < trio.current_time() <= 30) if can_join else trio.current_time() == 0


@pytest.mark.parametrize("error", [Fenced, AuthorizationFailed, CommitRefused])
@jumping
async def test_errors_that_no_retry_fixes_are_raised(error: type[Exception]) -> None:
    async with at_work(ScriptedClient([error("no")])) as rig:
        rig.ack(A)
        with pytest.raises(error):
            await rig.committer.commit()
        assert rig.settled()[A] == 0
        assert await rig.committer.commit()  # the caller decides whether to retry


@jumping
async def test_abort_and_rewind_returns_false_without_transactions() -> None:
    async with at_work(ScriptedClient()) as rig:
        with trio.testing.assert_checkpoints():
            assert await rig.committer.abort_and_rewind() is False


@jumping
async def test_commit_refused_by_a_rebalance_is_retried_while_one_is_served() -> None:
    async with at_work(ScriptedClient([RebalanceInProgress()])) as rig:
        rig.can_join = False
        rig.ack(A)
        assert await rig.committer.commit()


@jumping
async def test_wait_for_running_returns_false_if_no_commit_is_in_flight() -> None:
    async with at_work(ScriptedClient()) as rig:
        with trio.testing.assert_checkpoints():
            assert not await rig.committer.wait_for_running()


# Messages that were sent before


@asynccontextmanager
async def waiting_for_results(client: ScriptedClient, *tps: TP) -> AsyncIterator[Rig]:
    """In the block, a commit of a message of each partition waits for messages that were sent."""
    async with at_work(client) as rig, trio.open_nursery() as nursery:
        for tp in tps:
            rig.ack(tp)
        rig.delivered = trio.Event()
        nursery.start_soon(rig.committer.commit)
        await trio.sleep(1)
        yield rig
        rig.delivered.set()


@jumping
async def test_commit_waits_until_the_messages_that_were_sent_before_are_delivered() -> None:
    client = ScriptedClient()
    async with waiting_for_results(client, A) as rig:
        assert client.tried == []
        assert rig.committer.commit_had_no_effect
        rig.ack(A)  # what its handler has sent may be later than the messages that are awaited
    assert client.made == [{A: 1}]
    assert not rig.committer.commit_had_no_effect


@jumping
async def test_nothing_is_committed_if_a_message_that_was_sent_before_is_not_delivered() -> None:
    client = ScriptedClient()
    async with at_work(client) as rig:
        rig.ack(A)
        rig.undelivered = DeliveryFailed("test")
        with pytest.raises(DeliveryFailed):
            await rig.committer.commit()
        assert client.tried == []
        rig.undelivered = None
        assert await rig.committer.commit()
    assert client.made == [{A: 1}]


@jumping
async def test_partitions_that_leave_while_a_commit_waits_for_results_are_not_committed() -> None:
    client = ScriptedClient()
    async with waiting_for_results(client, A, B) as rig:
        with trio.fail_after(1):
            await rig.committer.leave([A])
    assert client.made == [{B: 1}]


@jumping
async def test_commit_goes_on_without_a_partition_that_leaves_while_it_waits_for_results() -> None:
    client = ScriptedClient()
    async with waiting_for_results(client, A) as rig:
        await rig.committer.leave([A])
        rig.ack(B)
    assert client.made == [{B: 1}]


@jumping
async def test_calls_that_need_transactions_are_checkpoints_without_them() -> None:
    async with at_work(ScriptedClient()) as rig:
        with trio.testing.assert_checkpoints():
            await rig.committer.redo(A, counts=True)
        with trio.testing.assert_checkpoints():
            await rig.committer.isolate(A)


@jumping
async def test_partitions_that_are_lost_while_a_commit_waits_for_results_are_not_committed() -> (
    None
):
    client = ScriptedClient()
    async with waiting_for_results(client, A) as rig:
        rig.lose()
    assert client.tried == []


@jumping
async def test_commit_that_waits_long_for_deliveries_warns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = ScriptedClient()
    async with waiting_for_results(client, A):
        await trio.sleep(5.9)
        assert warnings_in(caplog) == []
        await trio.sleep(0.2)
        assert client.tried == []
    [warning] = warnings_in(caplog)
    assert warning.startswith("group: the commit of a-0 waits for messages that were")
    assert client.made == [{A: 1}]
