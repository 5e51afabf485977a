"""Handlers with transactions: output, dead letters and offsets are committed together.

Each test runs on `memory://`. The function of a handler sends a copy of its message to "out", with
the number of the attempt: before it fails, or after it has succeeded.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

import attrs
import pytest
import trio

from tests.apps import A_WHILE, app_on, committed, evict_all
from tests.handling.calls import (
    DEAD,
    ORDERS,
    Broken,
    Call,
    Calls,
    broker_with,
    committed_to,
    fails_at,
    put,
)
from tests.handling.test_handler_failures import steady
from tests.lanes import NEVER
from tests.nurseries.clock import jumping
from tests.nurseries.errors import leaves
from tests.scripted import Function, replace, waits_for
from transport import (
    TP,
    App,
    Batch,
    DecodeError,
    Message,
    TransactionFailed,
)
from transport.delivering.in_hand import in_hand
from transport.drivers.memory import MemoryBroker

OUT = TP("out", 0)
MODES = pytest.mark.parametrize("mode", ["member", "partition"])
ORDERS_OF_HANDLERS = pytest.mark.parametrize("order", ["partition", "key", "none"])
ALWAYS = 10**9


@attrs.define
class Copier:
    """A function that copies each message to "out", and may fail before or after that.

    Args:
        calls: records the calls, and decides which of them fail.
        late: the offsets whose copy is sent after the call that may fail; None: all.
    """

    calls: Calls
    late: Collection[int] | None = ()
    app: App | None = None

    async def __call__(self, message: Message) -> None:
        assert self.app is not None
        out = self.app.topic("out")
        attempt = len(self.of(message.offset, message.tp)) + 1
        copy = b"%d-%d attempt %d" % (message.partition, message.offset, attempt)
        is_late = self.late is None or message.offset in self.late
        if not is_late:
            await out.send(value=copy)
        await self.calls(message)
        if is_late:
            await out.send(value=copy)

    def of(self, offset: int, tp: TP = ORDERS) -> list[Call]:
        """Return the calls for one message."""
        return [call for call in self.calls.of(offset) if call.tp == tp]


def pipeline(keys: str = "", *, partitions: int = 1, **record: Any) -> MemoryBroker:
    broker = broker_with(keys, partitions=partitions, **record)
    broker.create_topic("out", 1)
    return broker


@contextlib.asynccontextmanager
async def copying(
    broker: MemoryBroker,
    copier: Copier | Callable[[Message], Any],
    mode: str,
    *,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[App]:
    """Open an app whose handler copies "orders" in transactions. Its dead letters go to "dead"."""
    app = app_on(
        broker,
        transactions=mode,
        **{"commit_interval": NEVER, "commit_timeout": 5.0, **(settings or {})},
    )
    if isinstance(copier, Copier):
        copier.app = app
    options = {"name": "worker", "dead_letters": app.topic("dead"), **options}
    app.handler(app.topic("orders"), copier, **options)
    async with app:
        yield app


def seen(broker: MemoryBroker, tp: TP = OUT) -> list[bytes | None]:
    """Return the values of all committed records."""
    return [record.value for record in broker.log(tp).read(0, 1 << 30, committed=True).records]


def letters(broker: MemoryBroker) -> list[tuple[int, int]]:
    """Return the offset of the message, and the number of attempts, of each committed letter."""
    found = []
    for record in broker.log(DEAD).read(0, 1 << 30, committed=True).records:
        headers = dict(record.headers)
        found.append((int(headers["dead.offset"] or b""), int(headers["dead.attempts"] or b"")))
    return found


def copies(*offsets: int, attempt: int = 1) -> list[bytes]:
    """Return the copies of these offsets of the first partition."""
    return [b"0-%d attempt %d" % (offset, attempt) for offset in offsets]


# One transaction


@MODES
@ORDERS_OF_HANDLERS
@jumping
async def test_output_dead_letters_and_offsets_are_committed_together(
    mode: str, order: str
) -> None:
    broker = pipeline("abc")
    copier = Copier(Calls(fails=fails_at(1)), late=None)
    async with copying(broker, copier, mode, order=order, concurrency=3) as app:
        await trio.sleep(1)
        assert sorted(copier.calls.begun) == [0, 1, 2]
        assert (seen(broker), letters(broker), committed_to(broker)) == ([], [], 0)
        await app.consumer.commit()
        assert sorted(filter(None, seen(broker))) == copies(0, 2)
        assert (letters(broker), committed_to(broker)) == ([(1, 1)], 3)


@MODES
@jumping
async def test_crash_leaves_neither_output_nor_letters_nor_offsets(mode: str) -> None:
    broker = pipeline("abc")
    copier = Copier(Calls(fails=fails_at(1)), late=None)
    settings = {"transaction_timeout": 5.0}
    async with copying(broker, copier, mode, settings=settings) as app:
        await trio.sleep(1)
        assert copier.calls.begun == [0, 1, 2]
        await app.kill()
    await trio.sleep(A_WHILE)
    broker.transactions.expire(trio.current_time())
    evict_all(broker)
    assert (seen(broker), letters(broker), committed_to(broker)) == ([], [], 0)
    again = Copier(Calls(fails=fails_at(1)), late=None)
    async with copying(broker, again, mode) as app:
        await trio.sleep(1)
        await app.consumer.commit()
    assert (seen(broker), letters(broker)) == (copies(0, 2), [(1, 1)])


@MODES
@jumping
async def test_stop_commits_what_is_done_and_returns_the_rest(mode: str) -> None:
    broker = pipeline("abab")
    copier = Copier(Calls(2.0), late=None)
    async with copying(broker, copier, mode, order="key", concurrency=2) as app:
        await trio.sleep(1)
        app.stop()
        await trio.sleep(5)
        assert sorted(copier.calls.begun) == [0, 1]
    assert sorted(filter(None, seen(broker))) == copies(0, 1)
    assert committed_to(broker) == 2


@MODES
@jumping
async def test_filtered_messages_are_committed_with_the_others(mode: str) -> None:
    broker = pipeline("abc")
    copier = Copier(Calls())
    keep = lambda message: message.offset == 1  # noqa: E731
    async with copying(broker, copier, mode, filter=keep) as app:
        await trio.sleep(1)
        await app.consumer.commit()
    assert (seen(broker), committed_to(broker)) == (copies(1), 3)


@MODES
@jumping
async def test_key_order_holds_in_what_is_committed(mode: str) -> None:
    broker = pipeline("aabbabba" * 3)
    copier = Copier(Calls(0.1, fails=fails_at(2, 3, 9, 17, attempts=2)))
    async with copying(
        broker,
        copier,
        mode,
        order="key",
        concurrency=5,
        retry=steady(5, 0.2),
        settings={"commit_interval": 0.5},
    ):
        await trio.sleep(A_WHILE)
    by_key: dict[bytes, list[int]] = {b"a": [], b"b": []}
    keys = b"aabbabba" * 3
    for value in seen(broker):
        offset = int((value or b"").split()[0].split(b"-")[1])
        by_key[keys[offset : offset + 1]].append(offset)
    for key, offsets in by_key.items():
        assert offsets == [at for at in range(24) if keys[at : at + 1] == key]


# Failed attempts


@MODES
@ORDERS_OF_HANDLERS
@pytest.mark.parametrize("seconds", [0.0, 0.5, 5.0])
@jumping
async def test_output_of_a_failed_attempt_is_never_committed(
    mode: str, order: str, seconds: float
) -> None:
    broker = pipeline("abcdef")
    copier = Copier(Calls(fails=fails_at(2, 4, attempts=2)))
    async with copying(
        broker,
        copier,
        mode,
        order=order,
        concurrency=3,
        retry=steady(3, seconds),
        settings={"commit_interval": 1.0},
    ):
        await trio.sleep(A_WHILE)
    assert {offset: len(copier.calls.of(offset)) for offset in (2, 4)} == {2: 3, 4: 3}
    final = {value.split()[0]: value for value in seen(broker) if value}
    assert len(seen(broker)) == len(final) == 6, "each message has one copy"
    assert [final[b"0-%d" % at][-1:] for at in (2, 4)] == [b"3", b"3"]


@MODES
@pytest.mark.parametrize("late", [(), None], ids=["sends first", "fails first"])
@jumping
async def test_attempts_are_counted_across_aborts(mode: str, late: Collection[int] | None) -> None:
    broker = pipeline("abc", partitions=2)
    copier = Copier(Calls(fails=fails_at(1)), late)
    async with copying(
        broker,
        copier,
        mode,
        order="none",
        concurrency=4,
        retry=steady(4, 2.0),
        settings={"commit_interval": 1.0},
    ):
        await trio.sleep(A_WHILE)
    assert [len(copier.of(1, TP("orders", number))) for number in range(2)] == [4, 4]
    assert letters(broker) == [(1, 4), (1, 4)]
    assert len(seen(broker)) == 4


@MODES
@jumping
async def test_failure_because_of_an_abort_is_no_attempt(mode: str) -> None:
    """Message 1 fails with output, so nothing more can be sent for message 0, which runs."""
    broker = pipeline("ab")
    calls = Calls(lambda message: 1.0 - message.offset, fails=fails_at(1))
    copier = Copier(calls, late={0})
    async with copying(broker, copier, mode, order="none", concurrency=2) as app:
        await trio.sleep(A_WHILE)
        await app.consumer.commit()
    assert letters(broker) == [(1, 1)]
    assert seen(broker) == copies(0, attempt=2)


@MODES
@jumping
async def test_key_stays_busy_until_the_straggler_of_an_aborted_transaction_ends(mode: str) -> None:
    broker = pipeline("ab")
    calls = Calls(lambda message: 5.0 if message.offset == 0 else 1.0, fails=fails_at(1))
    copier = Copier(calls, late={0})
    async with copying(broker, copier, mode, order="key", concurrency=2) as app:
        await trio.sleep(A_WHILE)
        await app.consumer.commit()
    first, second = copier.of(0)
    assert second.start >= (first.end or 0.0) == first.start + 5.0
    assert seen(broker) == copies(0, attempt=2)


@MODES
@pytest.mark.parametrize("late", [(), None], ids=["sends first", "fails first"])
@jumping
async def test_timeout_is_a_failed_attempt(mode: str, late: Collection[int] | None) -> None:
    broker = pipeline("ab")
    calls = Calls(lambda message: 9.0 if message.offset == 0 else 0.0)
    copier = Copier(calls, late)
    async with copying(broker, copier, mode, timeout=1.0, retry=steady(3, 0.1)) as app:
        await trio.sleep(A_WHILE)
        await app.consumer.commit()
    assert (letters(broker), seen(broker)) == ([(0, 3)], copies(1, attempt=len(copier.of(1))))
    assert len(copier.of(0)) == 3


@MODES
@jumping
async def test_skipped_message_leaves_no_output(mode: str) -> None:
    broker = pipeline("ab")
    copier = Copier(Calls(fails=fails_at(0)))
    async with copying(broker, copier, mode, dead_letters="skip", retry=steady(2, 0.1)) as app:
        await trio.sleep(A_WHILE)
        await app.consumer.commit()
    assert len(copier.of(0)) == 2
    assert (seen(broker), committed_to(broker)) == (copies(1), 2)


@MODES
@jumping
async def test_app_ends_with_the_error_and_commits_nothing_of_its_transaction(mode: str) -> None:
    broker = pipeline("ab")
    copier = Copier(Calls(fails=fails_at(1)))
    with pytest.raises(ExceptionGroup) as caught:
        async with copying(broker, copier, mode, dead_letters="fail"):
            await trio.sleep(A_WHILE)
    assert [type(error) for error in leaves(caught.value)] == [Broken]
    assert (seen(broker), committed_to(broker)) == ([], 0)


@MODES
@jumping
async def test_message_that_was_acked_before_its_failure_is_handled_again(mode: str) -> None:
    broker = pipeline("ab")
    calls = Calls(fails=fails_at(0, attempts=1))

    async def ack_first(message: Message) -> None:
        message.ack()
        await calls(message)

    async with copying(broker, ack_first, mode, retry=steady(2, 0.5)) as app:
        await trio.sleep(0.1)
        await app.consumer.commit()
        assert committed_to(broker) == 0, "its failure has undone its ack"
        await trio.sleep(A_WHILE)
        await app.consumer.commit()
    assert [call.outcome for call in calls.of(0)] == ["failed", "done"]
    assert committed_to(broker) == 2


@MODES
@jumping
async def test_messages_that_a_failed_batch_has_sent_for_one_of_its_messages_are_undone(
    mode: str,
) -> None:
    broker = pipeline("abcd")
    has_failed = False

    async def handle(batch: Batch) -> None:
        nonlocal has_failed
        for message in batch:
            if message.offset > 0:
                await out.send(value=b"%d" % message.offset, source=message)
        if not has_failed:
            has_failed = True
            raise Broken

    app = app_on(broker, transactions=mode, commit_interval=1.0)
    out = app.topic("out")
    app.batch_handler(app.topic("orders"), handle)
    async with app:
        await trio.sleep(A_WHILE)
    assert seen(broker) == [b"1", b"2", b"3"]


# Messages that cannot be decoded


@MODES
@pytest.mark.parametrize("filtered", [False, True])
@jumping
async def test_message_that_cannot_be_decoded_becomes_a_letter_in_the_transaction(
    mode: str, filtered: bool
) -> None:
    broker = pipeline("a", value=b"wrong")
    put(broker, "a", value=bytes(8))
    calls = Calls()
    app = app_on(broker, transactions=mode, commit_interval=NEVER)
    app.handler(
        app.topic("orders", value_type=int),
        calls,
        dead_letters=app.topic("dead"),
        filter=(lambda message: True) if filtered else None,
    )
    async with app:
        await trio.sleep(1)
        assert (letters(broker), committed_to(broker)) == ([], 0)
        await app.consumer.commit()
        assert (letters(broker), committed_to(broker)) == ([(0, 1)], 2)
    assert seen(broker, DEAD) == [b"wrong"]
    assert calls.done == [1]


@MODES
@pytest.mark.parametrize("filtered", [False, True])
@jumping
async def test_hook_for_decode_errors_sends_in_the_transaction_of_the_message(
    mode: str, filtered: bool
) -> None:
    broker = pipeline("a", value=b"wrong")
    app = app_on(broker, transactions=mode, commit_interval=NEVER)
    orders, out = app.topic("orders", value_type=int), app.topic("out")

    async def report(error: DecodeError, message: Message) -> None:
        await out.send(value=b"wrong at %d" % message.offset)

    orders.on_value_decode_error = report
    app.handler(orders, Calls(), filter=(lambda message: True) if filtered else None)
    async with app:
        await trio.sleep(1)
        assert seen(broker) == []
        await app.consumer.commit()
    assert (seen(broker), committed_to(broker)) == ([b"wrong at 0"], 1)


# Dead letters that are undone


@MODES
@ORDERS_OF_HANDLERS
@jumping
async def test_letter_that_an_abort_has_undone_is_sent_again_without_new_attempts(
    mode: str, order: str
) -> None:
    broker = pipeline("abc")
    copier = Copier(Calls(fails=fails_at(0, 2)), late={0})
    async with copying(
        broker, copier, mode, order=order, retry=steady(3, 0.1), settings={"commit_interval": 1.0}
    ):
        await trio.sleep(A_WHILE)
    assert (len(copier.of(0)), len(copier.of(2))) == (3, 3)
    assert letters(broker) == [(0, 3), (2, 3)]


@MODES
@jumping
async def test_letter_that_an_abort_has_undone_is_sent_again_although_the_filter_refuses_now(
    mode: str,
) -> None:
    """The message has used up its attempts, so it needs its letter."""
    broker = pipeline("abc")
    copier = Copier(Calls(fails=fails_at(0, 2)), late={0})
    asked: Counter[int] = Counter()

    def refuses_later(message: Message) -> bool:
        asked[message.offset] += 1
        return message.offset > 0 or asked[0] == 1

    options = {"filter": refuses_later, "retry": steady(2, 0.1)}
    async with copying(broker, copier, mode, settings={"commit_interval": 1.0}, **options):
        await trio.sleep(A_WHILE)
    assert asked[2] > 1, "no abort has undone the letter"
    assert letters(broker) == [(0, 2), (2, 2)]


@MODES
@jumping
async def test_letter_of_a_message_whose_key_function_fails_counts_one_attempt(mode: str) -> None:
    broker = pipeline("abc")
    copier = Copier(Calls(fails=fails_at(2)), late={0})

    def key(message: Message) -> bytes | None:
        if message.offset == 0:
            raise Broken
        return message.record.key

    options = {"order": "key", "key": key}
    async with copying(broker, copier, mode, settings={"commit_interval": 1.0}, **options):
        await trio.sleep(A_WHILE)
    assert letters(broker) == [(0, 1), (2, 1)]


@jumping
async def test_letters_before_a_seek_count_no_attempts_after_it() -> None:
    """Nothing is handled between the commit and the seek, because the only worker is busy."""
    broker = pipeline("ab")
    broker.add_partitions("orders", 1)
    fails = fails_at(0)
    calls = Calls(
        lambda message: 20.0 * message.partition,
        fails=lambda message, attempt: None if message.partition else fails(message, attempt),
    )
    copier = Copier(calls)
    async with copying(broker, copier, "partition", retry=steady(2, 0.1)) as app:
        await trio.sleep(10)
        put(broker, "c", TP("orders", 1))
        await trio.sleep(10)
        assert copier.calls.running == [0]
        await app.consumer.commit({ORDERS})
        await app.consumer.seek(ORDERS, 0)
        await trio.sleep(A_WHILE)
    assert len(copier.of(0)) == 4


@MODES
@jumping
async def test_attempts_are_forgotten_once_the_letter_is_committed(mode: str) -> None:
    broker = pipeline("ab")
    copier = Copier(Calls(fails=fails_at(0)))
    async with copying(broker, copier, mode, retry=steady(2, 0.1)) as app:
        for attempts in (2, 4):
            await trio.sleep(A_WHILE)
            await app.consumer.commit()
            assert len(copier.of(0)) == attempts
            in_hand.set(None)
            await app.consumer.seek(ORDERS, 0)
    assert letters(broker) == [(0, 2), (0, 2)]


@MODES
@jumping
async def test_letter_whose_partition_is_lost_meanwhile_is_sent_by_the_next_owner(
    mode: str,
) -> None:
    """A race: the delivery of the letter is confirmed after its partition was lost."""
    broker = pipeline("ab")
    copier = Copier(Calls(fails=fails_at(0)), late=None)
    async with copying(broker, copier, mode, settings={"commit_interval": 1.0}) as app:
        may_send, asked = trio.Event(), trio.Event()
        replace(app, "producer.send", waits_for(may_send, asked=asked), once=True)
        await asked.wait()
        evict_all(broker)
        await trio.sleep(1)
        may_send.set()
        await trio.sleep(A_WHILE)
    assert (letters(broker), committed_to(broker)) == ([(0, 1)], 2)
    assert [(value or b"")[:3] for value in seen(broker)] == [b"0-1"]


# Aborts by the broker


def expire(broker: MemoryBroker) -> None:
    """Let the broker abort all open transactions, as after `transaction_timeout`."""
    broker.transactions.expire(trio.current_time() + 1e6)


@MODES
@jumping
async def test_transaction_that_the_broker_has_aborted_is_no_failure_of_a_message(
    mode: str,
) -> None:
    broker = pipeline("abc")
    copier = Copier(Calls(1.0), late=None)
    async with copying(broker, copier, mode, settings={"commit_interval": 10.0}):
        await trio.sleep(1.5)
        expire(broker)
        await trio.sleep(A_WHILE)
    assert letters(broker) == []
    assert [value.split()[0] for value in seen(broker) if value] == [b"0-0", b"0-1", b"0-2"]


@MODES
@jumping
async def test_app_fails_after_many_aborts_by_the_broker_in_a_row(mode: str) -> None:
    broker = pipeline("abc")
    calls = Calls(1.0)

    async def expire_each_time(message: Message) -> None:
        await app.topic("out").send(value=b"undone")
        await calls(message)
        expire(broker)
        await app.topic("out").send_and_wait(value=b"undone")

    app = app_on(broker, transactions=mode, commit_interval=NEVER, transaction_attempts=3)
    app.handler(app.topic("orders"), expire_each_time, retry=steady(ALWAYS, 0.1))
    with pytest.raises(ExceptionGroup) as caught:
        async with app:
            await trio.sleep(A_WHILE)
    assert {type(error) for error in leaves(caught.value)} == {TransactionFailed}
    assert len(calls.of(0)) == 3


# Progress


@MODES
@pytest.mark.parametrize("seconds", [0.1, 3.0])
@jumping
async def test_message_that_fails_often_with_output_undoes_the_work_on_others_once(
    mode: str, seconds: float
) -> None:
    """Neither does it end the app, though each of its attempts aborts a transaction."""
    broker = pipeline("abcdefgh")
    broker.add_partitions("orders", 1)
    other = TP("orders", 1)
    put(broker, "abcd" * 200, other)
    copier = Copier(Calls(0.1, fails=lambda message, attempt: bad(message)))
    settings = {"commit_interval": 0.5, "transaction_attempts": 3}

    def bad(message: Message) -> Broken | None:
        return Broken() if (message.tp, message.offset) == (ORDERS, 4) else None

    async with copying(
        broker,
        copier,
        mode,
        order="none",
        concurrency=2,
        retry=steady(20, seconds),
        settings=settings,
    ):
        await trio.sleep(3 * A_WHILE)
    calls = Counter((call.tp, call.offset) for call in copier.calls.all)
    assert calls.pop((ORDERS, 4)) == 20
    assert max(calls.values()) == 2
    assert calls.total() < len(calls) + 20
    assert letters(broker) == [(4, 20)]
    assert len(seen(broker)) == 7 + 800


@jumping
async def test_later_failure_without_output_delays_no_other_partition() -> None:
    """The other partitions wait while the message is tried again, but not for its next retry."""
    broker = pipeline("a")
    broker.add_partitions("orders", 1)
    put(broker, "b" * 40, TP("orders", 1))
    calls = Calls(0.1)

    async def handle(message: Message) -> None:
        if message.partition == 0:
            await calls(message)
            if len(calls.all) == 1:
                await app.topic("out").send(value=b"undone")
            raise Broken
        await trio.sleep(0.1)
        times.append(trio.current_time())

    times: list[float] = []
    async with copying(
        broker,
        handle,
        "member",
        concurrency=2,
        retry=steady(4, 0.9),
    ) as app:
        await trio.sleep(A_WHILE)
    assert len(calls.all) == 4
    assert len(times) >= 40
    assert max(after - before for before, after in itertools.pairwise(times)) < 0.5


@MODES
@jumping
async def test_failed_message_begins_again_after_all_below_it_are_committed(mode: str) -> None:
    broker = pipeline("abcdefghij")
    found: list[tuple[int, list[int]]] = []

    def note(message: Message, attempt: int) -> Broken | None:
        if message.offset != 5:
            return None
        if attempt > 1:
            found.append((committed_to(broker), copier.calls.running))
        return Broken() if attempt < 4 else None

    copier = Copier(Calls(0.2, fails=note))
    async with copying(
        broker, copier, mode, order="none", concurrency=4, retry=steady(9, 0.1)
    ) as app:
        await trio.sleep(A_WHILE)
        await app.consumer.commit()
    assert found == [(5, [5])] * 3, "it runs alone"
    assert committed_to(broker) == 10


@MODES
@pytest.mark.parametrize("skips", [False, True])
@jumping
async def test_partition_waits_for_no_commit_interval_after_a_message_was_given_up(
    mode: str, skips: bool
) -> None:
    """Its first attempt has sent a message, so nothing above it begins before it is committed."""
    broker = pipeline("abc")
    calls = Calls(fails=fails_at(0))

    async def handle(message: Message) -> None:
        if not calls.all:
            await app.topic("out").send(value=b"undone")
        await calls(message)

    options: dict[str, Any] = {"dead_letters": "skip"} if skips else {}
    async with copying(broker, handle, mode, retry=steady(2, 0.1), **options) as app:
        await trio.sleep(A_WHILE)
        assert calls.begun == [0, 0, 1, 2]


@MODES
@jumping
async def test_two_failing_messages_are_tried_again_one_after_the_other(mode: str) -> None:
    broker = pipeline("abcdef", partitions=2)
    copier = Copier(Calls(0.1, fails=fails_at(1, 2, attempts=3)))
    async with copying(
        broker,
        copier,
        mode,
        order="none",
        concurrency=8,
        retry=steady(9, 0.2),
        settings={"commit_interval": NEVER},
    ) as app:
        await trio.sleep(A_WHILE)
        await app.consumer.commit()
    assert len(seen(broker)) == 12
    assert {len(copier.of(at, TP("orders", n))) for at in (1, 2) for n in range(2)} == {4}


@MODES
@jumping
async def test_batch_that_fails_with_output_is_split_and_its_good_parts_are_committed(
    mode: str,
) -> None:
    broker = pipeline("abcdefgh", partitions=2)
    sizes: Counter[int] = Counter()

    async def handle(batch: Batch) -> None:
        for message in batch:
            await out.send(value=b"%d-%d" % (message.partition, message.offset))
        sizes[len(batch)] += 1
        if any((message.tp, message.offset) == (ORDERS, 5) for message in batch):
            raise Broken

    app = app_on(broker, transactions=mode, commit_interval=1.0, transaction_attempts=2)
    out = app.topic("out")
    app.batch_handler(
        app.topic("orders"), handle, dead_letters=app.topic("dead"), retry=steady(3, 0.1)
    )
    async with app:
        await trio.sleep(A_WHILE)
    wanted = {b"%d-%d" % (n, at) for n in range(2) for at in range(8)} - {b"0-5"}
    assert sorted(filter(None, seen(broker))) == sorted(wanted)
    assert letters(broker) == [(5, 3)]
    assert sizes[1] == 3 + 1, "three attempts, and the other half of the last pair"


@MODES
@jumping
async def test_parts_of_a_failed_batch_undo_the_work_on_others_once(mode: str) -> None:
    broker = pipeline("abcdefgh")
    broker.add_partitions("orders", 1)
    put(broker, "abcd" * 100, TP("orders", 1))
    handled: Counter[tuple[TP, int]] = Counter()

    async def handle(batch: Batch) -> None:
        for message in batch:
            await out.send(value=b"%d-%d" % (message.partition, message.offset))
        await trio.sleep(0.1)
        if any((message.tp, message.offset) == (ORDERS, 5) for message in batch):
            raise Broken
        handled.update((message.tp, message.offset) for message in batch)

    app = app_on(broker, transactions=mode, commit_interval=0.5)
    out = app.topic("out")
    app.batch_handler(
        app.topic("orders"),
        handle,
        max_size=8,
        concurrency=2,
        dead_letters=app.topic("dead"),
        retry=steady(5, 0.1),
    )
    async with app:
        await trio.sleep(2 * A_WHILE)
    assert letters(broker) == [(5, 5)]
    assert len(seen(broker)) == 7 + 400
    assert max(handled.values()) <= 2


@MODES
@jumping
async def test_batch_that_may_not_be_split_has_bounded_attempts(mode: str) -> None:
    broker = pipeline("abc")
    begun: list[float] = []

    async def handle(batch: Batch) -> None:
        begun.append(trio.current_time())
        await out.send(value=b"undone")
        raise Broken

    app = app_on(broker, transactions=mode, commit_interval=NEVER)
    out = app.topic("out")
    app.batch_handler(
        app.topic("orders"),
        handle,
        split=False,
        dead_letters=app.topic("dead"),
        retry=steady(4, 2.0),
    )
    async with app:
        await trio.sleep(A_WHILE)
        await app.consumer.commit()
    assert [round(at - begun[0]) for at in begun] == [0, 2, 4, 6]
    assert (seen(broker), committed_to(broker)) == ([], 3)
    assert letters(broker) == [(0, 4), (1, 4), (2, 4)]


# Barriers


@MODES
@jumping
async def test_barrier_finishes_all_below_the_highest_begun_message_and_begins_nothing_above(
    mode: str,
) -> None:
    broker = pipeline("aabab")
    copier = Copier(Calls(2.0), late=None)
    async with copying(broker, copier, mode, order="key", concurrency=2) as app:
        begun = []

        async def note(commit: Function, *args: Any) -> None:
            begun.extend(sorted(copier.calls.begun))
            await commit(*args)

        await trio.sleep(1)
        assert sorted(copier.calls.begun) == [0, 2]
        replace(app, "producer.commit", note, once=True)
        await app.consumer.commit()
        assert begun == [0, 1, 2]
        assert committed_to(broker) == 3
        await trio.sleep(A_WHILE)
    assert sorted(filter(None, seen(broker))) == copies(0, 1, 2, 3, 4)


@MODES
@jumping
async def test_barrier_waits_for_a_retry_that_is_due_soon(mode: str) -> None:
    broker = pipeline("ab")
    copier = Copier(Calls(fails=fails_at(0, attempts=1)), late=None)
    async with copying(
        broker, copier, mode, order="key", concurrency=2, retry=steady(2, 0.8)
    ) as app:
        await trio.sleep(0.1)
        await app.consumer.commit()
        assert committed_to(broker) == 2
    assert len(copier.of(1)) == 1, "nothing was undone"


@MODES
@jumping
async def test_retry_that_is_due_late_aborts_at_once_and_delays_no_barrier(mode: str) -> None:
    broker = pipeline("ab", partitions=2)
    calls = Calls(
        lambda message: 0.0 if message.offset else 0.05,
        fails=lambda message, attempt: bad(message, attempt),
    )
    copier = Copier(calls, late=None)

    def bad(message: Message, attempt: int) -> Broken | None:
        is_bad = (message.tp, message.offset) == (ORDERS, 0) and attempt == 1
        return Broken() if is_bad else None

    async with copying(
        broker, copier, mode, order="key", concurrency=4, retry=steady(2, 20.0)
    ) as app:
        start = trio.current_time()
        await trio.sleep(0.1)
        await app.consumer.commit()
        assert trio.current_time() - start < 0.5
        assert sorted(value[:3] for value in seen(broker) if value) == [b"1-0", b"1-1"]
        assert committed(broker) == {TP("orders", 1): 2} | (
            {ORDERS: 0} if ORDERS in committed(broker) else {}
        )
        await trio.sleep(A_WHILE)
        assert copier.of(0)[1].start == pytest.approx(20.0, abs=0.2)
        await app.consumer.commit()
        assert committed(broker) == {TP("orders", number): 2 for number in range(2)}


@MODES
@jumping
async def test_failed_message_above_which_none_has_begun_is_returned_and_not_aborted(
    mode: str,
) -> None:
    broker = pipeline("aaa")
    copier = Copier(Calls(fails=fails_at(1, attempts=1)), late=None)
    async with copying(broker, copier, mode, retry=steady(2, 20.0)) as app:
        await trio.sleep(1)
        await app.consumer.commit()
        assert committed_to(broker) == 1
        await trio.sleep(A_WHILE)
        await app.consumer.commit()
    assert copier.calls.begun == [0, 1, 1, 2]
    assert seen(broker) == [*copies(0), *copies(1, attempt=2), *copies(2)]


@jumping
async def test_barrier_ends_although_flow_was_stopped_and_another_partition_waits() -> None:
    """The message that the barrier waits for is not the first that is ready."""
    broker = pipeline("ab", partitions=2)
    other = TP("orders", 1)
    fails = lambda message, attempt: Broken() if bad(message, attempt) else None  # noqa: E731

    def bad(message: Message, attempt: int) -> bool:
        return (message.tp, message.offset, attempt) == (ORDERS, 0, 1)

    copier = Copier(Calls(3.0, fails=fails), late=None)
    async with copying(
        broker, copier, "partition", order="none", concurrency=1, retry=steady(2, 0.5)
    ) as app:
        while len(copier.of(1)) == 0:  # noqa: ASYNC110 - no event reports it
            await trio.sleep(0.5)
        app.consumer.stop_flow()
        before = len(copier.calls.all)
        await app.consumer.commit({ORDERS})
        assert committed_to(broker) == 2
        assert {call.tp for call in copier.calls.all[before:]} <= {ORDERS}
        app.consumer.resume_flow()
        await trio.sleep(A_WHILE)
        await app.consumer.commit()
    assert committed(broker) == {ORDERS: 2, other: 2}
    assert len(seen(broker)) == 4


@MODES
@pytest.mark.parametrize("seconds", [0.9, 20.0])
@jumping
async def test_drain_waits_for_no_retry(mode: str, seconds: float) -> None:
    broker = pipeline("ab", partitions=2)
    copier = Copier(Calls(fails=fails_at(0)), late=None)
    settings = {"drain_timeout": 5.0}
    async with copying(
        broker,
        copier,
        mode,
        order="key",
        concurrency=4,
        retry=steady(ALWAYS, seconds),
        settings=settings,
    ):
        await trio.sleep(10.1)
        guest = app_on(broker, transactions=mode)
        async with guest:
            start = trio.current_time()
            guest.topic("orders").noack()
            while not guest.consumer.assignment:  # noqa: ASYNC110 - no event reports it
                await trio.sleep(0.01)
            assert trio.current_time() - start < 0.5 + 0.9 * (seconds > 1)


# Several handlers


def test_second_handler_of_a_topic_is_refused_with_transactions() -> None:
    app = app_on(pipeline(), transactions="member")
    app.handler(app.topic("orders"), Calls(), name="first")
    app.handler(app.topic("out"), Calls(), name="another topic")
    with pytest.raises(ValueError, match="the handlers 'first' and 'second' both read 'orders'"):
        app.handler(app.topic("orders"), Calls(), name="second")
    assert [handler.plan.name for handler in app.handlers] == ["first", "another topic"]


def test_handler_of_a_pattern_that_matches_the_topic_of_another_is_refused() -> None:
    app = app_on(pipeline(), transactions="member")
    app.handler(app.topic(re.compile("ord.*")), Calls(), name="first")
    with pytest.raises(ValueError, match="both read 'orders'"):
        app.handler(app.topic("orders"), Calls(), name="second")


@jumping
async def test_next_owner_counts_from_the_first_attempt_also_if_it_is_the_same_member() -> None:
    broker = pipeline("a", partitions=2)
    copier = Copier(Calls(fails=fails_at(0)), late=None)
    async with copying(
        broker, copier, "member", retry=steady(3, 30.0), settings={"drain_timeout": 5.0}
    ):
        await trio.sleep(10)
        async with app_on(broker, transactions="member") as guest:
            guest.topic("orders").noack()
            while not guest.consumer.assignment:  # noqa: ASYNC110 - no event reports it
                await trio.sleep(0.1)
            [gone] = guest.consumer.assignment
        await trio.sleep(5 * A_WHILE)
    [stayed] = {TP("orders", 0), TP("orders", 1)} - {gone}
    assert (len(copier.of(0, gone)), len(copier.of(0, stayed))) == (4, 3)
