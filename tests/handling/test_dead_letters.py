"""Dead letters: their headers, and when they are confirmed."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
import trio

from tests.apps import app_on, committed
from tests.handling.calls import (
    DEAD,
    ORDERS,
    Broken,
    Calls,
    broker_with,
    committed_to,
    fails_at,
    handling,
    put,
)
from tests.lanes import NEVER
from tests.logs import warnings_in
from tests.nurseries.clock import jumping
from tests.nurseries.errors import leaves
from tests.scripted import Function, fails, hold, replace
from transport import JSON, TP, DecodeError, DeliveryFailed, Message, MessageTooLarge, Retry
from transport.drivers.memory import MemoryBroker
from transport.handling.attempts import Attempts
from transport.handling.dead_letters import letter_headers
from transport.types import Record

TWICE = Retry(attempts=2, wait_initial=1.0, wait_jitter=0.0)


def letters(broker: MemoryBroker, topic: str = "dead") -> list[Record]:
    """Return the records of a topic, over all of its partitions."""
    return [
        record
        for tp in broker.partitions(topic)
        for record in broker.log(tp).read(0, 1 << 30, committed=True).records
    ]


def facts(record: Record) -> dict[str, str]:
    """Return the headers about the failure, without their prefix."""
    return {
        name.removeprefix("dead."): (value or b"").decode()
        for name, value in record.headers
        if name.startswith("dead.")
    }


def own(record: Record) -> list[tuple[str, bytes | None]]:
    """Return the other headers."""
    return [(name, value) for name, value in record.headers if not name.startswith("dead.")]


async def bury(broker: MemoryBroker, error: BaseException | None = None, **options: Any) -> Record:
    """Let a handler fail at the only message of "orders"; return its dead letter."""

    async def worker(message: Message) -> None:
        raise Broken("no stock") if error is None else error

    async with handling(broker, worker, dead_letters="dead", **options):
        await trio.sleep(5)
    [letter] = letters(broker)
    return letter


def headers_for(message: Any, error: Exception, failed: int = 1) -> dict[str, bytes | None]:
    attempts = Attempts(1.0, 2.0, error, failed)
    return dict(letter_headers(message, attempts, group="group", handler="worker"))


class Source:
    """A message, as far as the headers of its dead letter depend on it."""

    topic, partition, offset = "orders", 3, 7
    timestamp: float | None = 1.5

    def __init__(self, *headers: tuple[str, bytes | None]) -> None:
        self.headers = headers


# Headers


@jumping
async def test_a_dead_letter_has_the_key_the_value_and_the_headers_of_its_message() -> None:
    headers = (("trace", b"1"), ("trace", None), ("kind", b"new"))
    letter = await bury(broker_with("a", value=b"an order", headers=headers))
    assert (letter.key, letter.value) == (b"a", b"an order")
    assert own(letter) == list(headers)


@jumping
async def test_a_dead_letter_of_a_tombstone_without_a_key_has_no_key_and_no_value() -> None:
    letter = await bury(broker_with(" ", value=None))
    assert (letter.key, letter.value) == (None, None)


@jumping
async def test_the_headers_of_a_dead_letter_give_place_and_reason() -> None:
    before = time.time()
    broker = broker_with()
    put(broker, "a", TP("orders", 0))
    letter = await bury(broker, retry=TWICE)
    found = facts(letter)
    assert set(found) == {
        *("topic", "partition", "offset", "timestamp", "group", "handler"),
        *("error", "text", "stack", "attempts", "first", "last", "redrives"),
    }
    assert (found["topic"], found["partition"], found["offset"]) == ("orders", "0", "0")
    [record] = letters(broker, "orders")
    assert record.timestamp is not None
    assert float(found["timestamp"]) == record.timestamp / 1000
    assert (found["group"], found["handler"]) == ("group", "worker")
    assert found["error"] == "tests.handling.calls.Broken"
    assert found["text"] == "no stock"
    assert found["stack"].startswith("Traceback")
    assert found["stack"].endswith("Broken: no stock\n")
    assert (found["attempts"], found["redrives"]) == ("2", "0")
    assert before - 0.001 <= float(found["first"]) <= float(found["last"]) <= time.time() + 0.001


def test_each_header_is_there_once_and_after_the_own_ones() -> None:
    attempts = Attempts(1.0, 2.0, Broken(), 3)
    names = [
        name
        for name, _ in letter_headers(
            Source(("kind", b""), ("dead.text", b"before"), ("kind", b"")),  # type: ignore[arg-type]
            attempts,
            group="group",
            handler="worker",
        )
    ]
    assert names[:2] == ["kind", "kind"]
    assert len(set(names[2:])) == len(names[2:]) == 13


def test_the_times_of_the_first_and_the_last_failure_are_given_in_seconds() -> None:
    found = headers_for(Source(), Broken(), 3)
    assert (found["dead.first"], found["dead.last"]) == (b"1.000", b"2.000")
    assert found["dead.attempts"] == b"3"


def test_a_message_without_a_time_has_an_empty_timestamp() -> None:
    source = Source()
    source.timestamp = None
    assert headers_for(source, Broken())["dead.timestamp"] == b""


# Bounds


def test_a_long_text_is_cut_at_its_end_after_1024_bytes() -> None:
    found = headers_for(Source(), Broken("x" * 1000 + "y" * 1000))
    assert found["dead.text"] == b"x" * 1000 + b"y" * 24


def test_a_long_stack_is_cut_at_its_beginning_to_4096_bytes() -> None:
    error = Broken("the first cause")
    for _ in range(9):
        error, error.__cause__ = Broken("x" * 1000 + " the cause"), error
    stack = headers_for(Source(), error)["dead.stack"]
    assert stack is not None
    assert len(stack) == 4096
    assert b"the first cause" not in stack
    assert stack.count(b" the cause") > 2


def test_the_stack_of_an_error_with_a_long_text_still_has_its_frames() -> None:
    def fail() -> None:
        raise Broken("\N{GRINNING FACE}" * 5000)

    with pytest.raises(Broken) as raised:
        fail()
    stack = headers_for(Source(), raised.value)["dead.stack"]
    assert stack is not None
    assert b"in fail" in stack


@pytest.mark.parametrize("shift", range(4))
def test_no_character_is_cut_in_two(shift: int) -> None:
    text = "x" * shift + "\N{GRINNING FACE}" * 3000
    error = Broken(text)
    for _ in range(9):
        error, error.__cause__ = Broken(text), error
    found = headers_for(Source(), error)
    for name, most in (("dead.text", 1024), ("dead.stack", 4096)):
        value = found[name]
        assert value is not None
        assert most - 4 < len(value) <= most
        assert value.decode().strip()  # it is valid UTF-8


def test_a_text_that_is_not_unicode_is_still_a_header() -> None:
    assert headers_for(Source(), Broken("half \ud83d"))["dead.text"] == b"half ?"


def test_an_error_without_a_text_is_still_a_dead_letter() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    found = headers_for(Source(), Mute())
    assert b"Mute has no text" in (found["dead.text"] or b"")
    assert found["dead.error"].endswith(b"Mute")  # type: ignore[union-attr]


@pytest.mark.parametrize(("limit", "missing"), [(2300, {"stack"}), (1000, {"stack", "text"})])
@jumping
async def test_a_letter_that_is_too_large_loses_its_stack_and_then_its_text(
    limit: int, missing: set[str]
) -> None:
    broker = broker_with("a", value=b"v" * 100, dead={"max.message.bytes": f"{limit}"})
    letter = await bury(broker, Broken("x" * 3000))
    assert {"stack", "text", "error"} - set(facts(letter)) == missing
    assert letter.value == b"v" * 100


@jumping
async def test_a_letter_that_is_too_large_without_both_fails_the_app() -> None:
    broker = broker_with("a", value=b"v" * 2000, dead={"max.message.bytes": "1000"})
    with pytest.raises(BaseExceptionGroup) as raised:
        await bury(broker)
    assert [type(error) for error in leaves(raised.value)] == [MessageTooLarge]
    assert committed_to(broker) == 0


# Redrive


def dead(message: Any, error: Exception, failed: int = 1) -> Source:
    """Return the dead letter of a message, as a message at another place."""
    headers = letter_headers(
        message, Attempts(1.0, 2.0, error, failed), group="group", handler="worker"
    )
    letter = Source(*headers)
    letter.topic, letter.partition, letter.offset, letter.timestamp = "dead", 0, 0, 9.0
    return letter


def test_a_letter_of_a_letter_names_the_first_source_and_the_last_error() -> None:
    first = dead(Source(), ValueError("the first"), 5)
    found = headers_for(first, Broken("the last"), 2)
    assert (found["dead.topic"], found["dead.partition"]) == (b"orders", b"3")
    assert (found["dead.offset"], found["dead.timestamp"]) == (b"7", b"1.500")
    assert found["dead.error"] == b"tests.handling.calls.Broken"
    assert found["dead.text"] == b"the last"
    assert b"the first" not in (found["dead.stack"] or b"")
    assert found["dead.attempts"] == b"2"


def test_redrives_are_counted() -> None:
    letter = Source()
    for redrives in range(4):
        assert headers_for(letter, Broken())["dead.redrives"] == b"%d" % redrives
        letter = dead(letter, Broken())


@pytest.mark.parametrize("before", [b"many", None, b""])
def test_a_count_of_redrives_that_is_no_number_counts_as_none(before: bytes | None) -> None:
    letter = dead(Source(), Broken())
    letter.headers = [
        (name, before if name == "dead.redrives" else value) for name, value in letter.headers
    ]
    assert headers_for(letter, Broken())["dead.redrives"] == b"1"


def test_a_message_with_a_header_of_the_same_name_is_no_dead_letter() -> None:
    """A place that is half foreign would be a wrong place."""
    found = headers_for(Source(("dead.topic", b"cemetery")), Broken())
    assert (found["dead.topic"], found["dead.offset"]) == (b"orders", b"7")
    assert found["dead.redrives"] == b"0"


def test_headers_do_not_grow_with_each_redrive() -> None:
    """A pitfall of others: the error headers outgrow the largest record."""
    letter = dead(Source(("trace", b"1")), Broken("x" * 9000))
    size = len(letter.headers)
    for _ in range(5):
        letter = dead(letter, Broken("x" * 9000))
        assert len(letter.headers) == size
        assert letter.headers[0] == ("trace", b"1")


@jumping
async def test_a_handler_of_the_dead_letters_handles_them_again() -> None:
    broker = broker_with("ab", headers=(("trace", b"1"),))
    app = app_on(broker)
    graves, again = app.topic("dead"), Calls(fails=fails_at(1))
    app.handler(app.topic("orders"), Calls(fails=fails_at(0, 1)), name="w", dead_letters=graves)
    app.handler(graves, again, name="again", dead_letters=app.topic("buried"))
    async with app:
        await trio.sleep(5)
    assert [call.key for call in again.all] == [b"a", b"b"]
    [letter] = letters(broker, "buried")
    assert own(letter) == [("trace", b"1")]
    found = facts(letter)
    assert (found["topic"], found["offset"], found["redrives"]) == ("orders", "1", "1")
    assert found["handler"] == "again"
    assert committed(broker) == {ORDERS: 2, DEAD: 2}


# Delivery


def refuses(app: Any, error: Exception) -> Function:
    """Return a function for "producer.send": no message is written."""

    async def refuse(own: Function, batch: Any) -> None:
        app.producer._report([(message, error) for message in batch])
        await trio.lowlevel.checkpoint()

    return refuse


@jumping
async def test_a_letter_is_confirmed_before_its_message_is_acked() -> None:
    broker = broker_with("aab")
    calls = Calls(fails=fails_at(0))
    async with handling(broker, calls, order="key", concurrency=2, dead_letters="dead") as app:
        may_go_on = hold(app, "producer.send")
        await trio.sleep(5)
        assert calls.begun == [0, 2], "the key waits for the letter"
        assert committed_to(broker) == 0
        may_go_on.set()
        await trio.sleep(5)
        assert calls.begun == [0, 2, 1]
        assert committed(broker) == {ORDERS: 3}
    assert len(letters(broker)) == 1


@jumping
async def test_a_letter_that_is_not_delivered_is_sent_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = broker_with("a")
    async with handling(broker, Calls(fails=fails_at(0)), dead_letters="dead") as app:
        replace(app, "producer.send", refuses(app, DeliveryFailed("no leader")), once=True)
        await trio.sleep(5)
        [handler] = app.handlers
        assert handler.counts.dead_letters == 1
    assert len(letters(broker)) == 1
    assert committed(broker) == {ORDERS: 1}
    [warning] = warnings_in(caplog)
    assert warning == (
        "group: handler worker: the dead letter of orders-0 offset 0 was not delivered to dead and"
        " is sent again: no leader"
    )


@jumping
async def test_a_letter_that_is_never_delivered_fails_the_app_and_acks_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = broker_with("a")
    app = app_on(broker)
    dead_letters = app.topic("dead")
    app.handler(app.topic("orders"), Calls(fails=fails_at(0)), dead_letters=dead_letters)
    refuse, times = refuses(app, DeliveryFailed("no leader")), list[float]()

    async def note_and_refuse(own: Function, batch: Any) -> None:
        times.append(trio.current_time())
        await refuse(own, batch)

    replace(app, "producer.send", note_and_refuse)
    with pytest.raises(BaseExceptionGroup) as raised:
        async with app:
            await trio.sleep(60)
    [error] = leaves(raised.value)
    assert isinstance(error, DeliveryFailed)
    assert str(error) == "no leader"
    [note] = error.__notes__
    assert note == "in the handler Calls, for the dead letter of orders-0 offset 0 in dead"
    waits = [after - before for before, after in itertools.pairwise(times)]
    assert waits == pytest.approx([0.02, 0.04, 0.08, 0.16])
    assert len(warnings_in(caplog)) == 1 + 1, "one for all further tries, one for the message"
    assert committed_to(broker) == 0


@jumping
async def test_a_cancel_while_a_letter_is_sent_leaves_the_message_unacked() -> None:
    broker = broker_with("a")
    async with (
        trio.open_nursery() as nursery,
        handling(
            broker, Calls(fails=fails_at(0)), dead_letters="dead", settings={"grace": 20.0}
        ) as app,
    ):
        may_go_on = hold(app, "producer.send")
        nursery.start_soon(set_after, 12.0, may_go_on)
        await trio.sleep(1)
    assert committed_to(broker) == 0
    calls = Calls()
    async with handling(broker, calls):
        await trio.sleep(1)
    assert calls.done == [0]


async def set_after(seconds: float, event: trio.Event) -> None:
    await trio.sleep(seconds)
    event.set()


@jumping
async def test_a_crash_between_letter_and_ack_repeats_the_message_and_the_letter() -> None:
    broker = broker_with("a")
    async with handling(broker, Calls(fails=fails_at(0)), dead_letters="dead") as app:
        written = trio.Event()

        async def write_and_crash(own: Function, batch: Any) -> None:
            await own(batch)
            written.set()

        replace(app, "commit", fails(AssertionError("a crashed app commits nothing")))
        replace(app, "producer.send", write_and_crash)
        await written.wait()
        await app.kill()
    assert len(letters(broker)) == 1
    assert committed_to(broker) == 0
    await trio.sleep(60)  # the session of the killed member
    async with handling(broker, Calls(fails=fails_at(0)), dead_letters="dead"):
        await trio.sleep(60)
    assert len(letters(broker)) == 2
    assert committed(broker) == {ORDERS: 1}


@jumping
async def test_a_letter_that_is_confirmed_after_a_revoke_acks_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = broker_with("a", partitions=2)
    settings = {"drain_timeout": 5.0, "commit_interval": NEVER}
    async with handling(
        broker,
        Calls(fails=fails_at(0)),
        dead_letters="dead",
        order="none",
        concurrency=2,
        settings=settings,
    ) as app:
        may_go_on = hold(app, "producer.send")
        await trio.sleep(1)
        async with handling(
            broker, Calls(fails=fails_at(0)), dead_letters="dead", settings=settings
        ) as other:
            await trio.sleep(20)
            [lost] = other.consumer.assignment
            assert len(letters(broker)) == 1
            may_go_on.set()
            await trio.sleep(1)
            assert app.consumer.assignment.tally.stale == 1
    by_partition = [int(facts(letter)["partition"]) for letter in letters(broker)]
    assert sorted(by_partition) == sorted([0, 1, lost.partition])
    assert committed(broker) == {TP("orders", 0): 1, TP("orders", 1): 1}


@jumping
async def test_a_letter_needs_no_partition_of_the_same_number() -> None:
    """A pitfall of others: the partition of the source may not exist in the other topic."""
    broker = broker_with("a", partitions=4)
    async with handling(broker, Calls(fails=fails_at(0)), dead_letters="dead"):
        await trio.sleep(5)
    assert sorted(int(facts(letter)["partition"]) for letter in letters(broker)) == [0, 1, 2, 3]


@jumping
async def test_letters_of_one_key_are_in_one_partition() -> None:
    broker = broker_with("abcabcabc")
    broker.add_partitions("dead", 3)
    async with handling(broker, Calls(fails=lambda *_: Broken()), dead_letters="dead"):
        await trio.sleep(5)
    places: dict[bytes | None, set[TP]] = {}
    for tp in broker.partitions("dead"):
        for record in broker.log(tp).read(0, 1 << 30).records:
            places.setdefault(record.key, set()).add(tp)
    assert {key: len(tps) for key, tps in places.items()} == {b"a": 1, b"b": 1, b"c": 1}


# Messages that cannot be decoded


def undecodable(broker: MemoryBroker, calls: Calls, **options: Any) -> Any:
    """Return an app with a handler of JSON values, and its topic object."""
    app = app_on(broker)
    orders = app.topic("orders", value_type=JSON)
    if options.get("dead_letters") == "dead":
        options["dead_letters"] = app.topic("dead")
    app.handler(orders, calls, name="worker", **options)
    return app, orders


@jumping
async def test_a_message_that_cannot_be_decoded_is_a_dead_letter_with_its_bytes() -> None:
    broker = broker_with("a", value=b"{no json")
    put(broker, "b", value=b"5")
    calls = Calls()
    app, _ = undecodable(broker, calls, dead_letters="dead", retry=Retry(attempts=5))
    async with app:
        await trio.sleep(30)
    assert [call.value for call in calls.all] == [5]
    [letter] = letters(broker)
    assert (letter.key, letter.value) == (b"a", b"{no json")
    found = facts(letter)
    assert found["error"].endswith("DecodeError")
    assert "cannot decode the value of orders-0 offset 0" in found["text"]
    assert found["attempts"] == "1", "a decode error is not retried"
    assert committed(broker) == {ORDERS: 2}


@jumping
async def test_a_message_that_cannot_be_decoded_fails_the_app_by_default() -> None:
    broker = broker_with("a", value=b"{no json")
    app, _ = undecodable(broker, Calls(), retry=Retry(attempts=5))
    with pytest.raises(BaseExceptionGroup) as raised:
        async with app:
            await trio.sleep(30)
    [error] = leaves(raised.value)
    assert isinstance(error, DecodeError)
    assert error.message.offset == 0
    assert committed_to(broker) == 0


@pytest.mark.parametrize("dead_letters", ["dead", "skip", "fail"])
@pytest.mark.parametrize("early", [False, True])
@jumping
async def test_a_hook_for_decode_errors_comes_before_dead_letters(
    dead_letters: str, early: bool, caplog: pytest.LogCaptureFixture
) -> None:
    broker = broker_with("a", value=b"{no json")
    options = {"filter": lambda message: True} if early else {}
    app, orders = undecodable(broker, Calls(), dead_letters=dead_letters, **options)
    seen = []

    async def hook(error: DecodeError, message: Message) -> None:
        await trio.sleep(1)
        seen.append((error.part, message.offset, message.value))

    orders.on_value_decode_error = hook
    async with app:
        await trio.sleep(5)
    assert seen == [("value", 0, b"{no json")]
    assert letters(broker) == []
    assert committed(broker) == {ORDERS: 1}
    assert warnings_in(caplog) == []


@jumping
async def test_a_hook_for_decode_errors_of_keys_gets_only_those() -> None:
    broker = broker_with("a", value=b"5")
    put(broker, "1", value=b"{no json")
    app = app_on(broker)
    orders = app.topic("orders", key_type=JSON, value_type=JSON)
    seen = []

    async def hook(error: DecodeError, message: Message) -> None:
        seen.append((error.part, message.offset))

    orders.on_key_decode_error = hook
    app.handler(orders, Calls(), name="worker", dead_letters=app.topic("dead"))
    async with app:
        await trio.sleep(5)
    assert seen == [("key", 0)]
    assert [facts(letter)["offset"] for letter in letters(broker)] == ["1"]


@jumping
async def test_the_error_of_a_hook_for_decode_errors_ends_the_app() -> None:
    broker = broker_with("a", value=b"{no json")
    app, orders = undecodable(broker, Calls(), dead_letters="dead")

    async def hook(error: DecodeError, message: Message) -> None:
        raise Broken from error

    orders.on_value_decode_error = hook
    with pytest.raises(BaseExceptionGroup) as raised:
        async with app:
            await trio.sleep(5)
    assert [type(error) for error in leaves(raised.value)] == [Broken]
    assert committed_to(broker) == 0
    assert letters(broker) == []
