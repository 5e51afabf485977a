"""Mistakes in programs and data: each has a clear error or a defined result, and loses nothing."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest
import trio

from tests.apps import app_on
from tests.lanes import Place
from tests.nurseries.clock import jumping
from transport import JSON, App, AppClosed, BrokerUnavailable, DecodeError, UnknownTopic
from transport.codecs import CodecArg
from transport.drivers.memory import MemoryBroker


def just(error: Exception) -> pytest.RaisesExc[Exception]:
    """Match only this exception object."""
    return pytest.RaisesExc(type(error), check=lambda raised: raised is error)


# URLs


@pytest.mark.parametrize("url", ["amqp://127.0.0.1:9092", "127.0.0.1:9092", "", "kafka:/127.0.0.1"])
def test_a_url_without_a_driver_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="the schemes are memory://, kafka://") as raised:
        App("orders", broker=url)
    assert repr(url) in str(raised.value)


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    """Yield an address that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@contextlib.contextmanager
def a_mute() -> Iterator[str]:
    """Yield an address that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("address", [nobody, a_mute])
async def test_without_a_broker_the_app_fails_within_connect_timeout_and_names_the_address(
    address: Callable[[], contextlib.AbstractContextManager[str]],
) -> None:
    timeout = 1.0
    began = trio.current_time()
    with address() as where:
        unavailable = pytest.RaisesExc(BrokerUnavailable, match=where)
        with pytest.RaisesGroup(unavailable, flatten_subgroups=True):
            async with App("orders", broker=f"kafka://{where}", connect_timeout=timeout):
                raise AssertionError("the app opened")
    assert trio.current_time() - began < timeout + 2.0


async def test_the_wait_for_a_broker_can_be_cancelled() -> None:
    began = trio.current_time()
    with a_mute() as where, trio.move_on_after(0.2) as patience:
        async with App("orders", broker=f"kafka://{where}", connect_timeout=60.0):
            raise AssertionError("the app opened")
    assert patience.cancelled_caught
    assert trio.current_time() - began < 10.0


# Topics


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "two words", "\u00e9t\u00e9", "x" * 250])
async def test_an_invalid_topic_name_is_refused(place: Place, name: str) -> None:
    async with place.app() as app:
        with pytest.raises(ValueError, match="topic name"):
            app.topic(name)
        with pytest.raises(UnknownTopic):
            await app.producer.send(name, None, b"value")
        with pytest.raises(UnknownTopic):
            await app.producer.create_topic(name, 1)


@jumping
async def test_iterating_over_a_missing_topic_raises_unknown_topic() -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(UnknownTopic, match="orders"), flatten_subgroups=True):
        async with app_on(MemoryBroker(auto_create=False)) as app:
            async for _ in app.topic("orders"):
                raise AssertionError("a message was delivered")


# Handlers


async def test_an_exception_of_a_handler_ends_the_app(place: Place) -> None:
    (tp,) = await place.create(1, *[b"%d" % n for n in range(10)])
    failure = ZeroDivisionError("in the handler")

    with pytest.RaisesGroup(just(failure)):
        async with place.app(commit_interval=60.0) as app:
            async for message in app.topic(place.name):
                if message.offset == 4:
                    raise failure

    # The message on which the handler failed is unacked, and is redelivered.
    assert await place.committed() == {tp: 4}
    async with place.app() as app:
        again = [await anext(messages) for messages in [app.topic(place.name).noack()] * 6]
        assert [message.offset for message in again] == [4, 5, 6, 7, 8, 9]


async def test_an_exception_of_another_task_ends_the_app(
    place: Place,
) -> None:
    (tp,) = await place.create(1, *[b"%d" % n for n in range(10)])
    failure = ZeroDivisionError("beside the handler")
    handled = trio.Event()

    async def handle(app: App) -> None:
        async for message in app.topic(place.name):
            if message.offset == 4:
                handled.set()
                await trio.sleep_forever()

    with pytest.RaisesGroup(just(failure), flatten_subgroups=True):
        async with place.app(commit_interval=60.0) as app, trio.open_nursery() as nursery:
            nursery.start_soon(handle, app)
            await handled.wait()
            raise failure
    assert await place.committed() == {tp: 4}


async def test_a_value_that_does_not_decode_stays_unacked(place: Place) -> None:
    (tp,) = await place.create(1, b"1", b"2", b"no json", b"4")
    with pytest.RaisesGroup(pytest.RaisesExc(DecodeError, match=f"{tp} offset 2")):
        async with place.app() as app:
            async for _ in app.topic(place.name, value_type=JSON):
                pass
    assert await place.committed() == {tp: 2}


async def test_a_value_that_does_not_decode_is_skipped_by_the_hook(
    place: Place,
) -> None:
    (tp,) = await place.create(1, b"1", b"2", b"no json", b"4")
    passed_over = []

    async def keep(error: DecodeError, message: object) -> None:
        passed_over.append(message)

    async with place.app() as app:
        orders = app.topic(place.name, value_type=JSON)
        orders.on_value_decode_error = keep
        values = []
        async for message in orders:
            values.append(message.value)
            if message.value == 4:
                app.stop()
    assert values == [1, 2, 4]
    assert [message.value for message in passed_over] == [b"no json"]
    assert await place.committed() == {tp: 4}


@pytest.mark.parametrize("kind", [bytes, str, JSON])
async def test_a_tombstone_is_none_for_every_type(place: Place, kind: CodecArg) -> None:
    await place.create(1)
    async with place.app() as app:
        topic = app.topic(place.name, key_type=kind, value_type=kind)
        key = b"key" if kind is bytes else "key"
        for sent in ((key, None), (None, None), (None, key)):
            await topic.send(key=sent[0], value=sent[1])
        messages = topic.noack()
        found = [await anext(messages) for _ in range(3)]
    assert [(each.key, each.value) for each in found] == [(key, None), (None, None), (None, key)]


async def test_a_key_that_does_not_decode_stays_unacked_or_is_skipped_by_the_hook(
    place: Place,
) -> None:
    (tp,) = await place.create(1)
    passed_over: list[DecodeError] = []

    async def keep(error: DecodeError, message: object) -> None:
        passed_over.append(error)

    async with place.app() as app:
        for key in (b"good", b"\xff\xfe", b"later"):
            await app.topic(place.name).send(key=key, value=b"v")
    with pytest.RaisesGroup(pytest.RaisesExc(DecodeError, match=f"key of {tp} offset 1")):
        async with place.app() as app:
            async for _ in app.topic(place.name, key_type=str):
                pass
    assert await place.committed() == {tp: 1}
    async with place.app() as app:
        topic = app.topic(place.name, key_type=str)
        topic.on_key_decode_error = keep
        async for message in topic:
            assert message.key == "later"
            app.stop()
    assert [error.message.key for error in passed_over] == [b"\xff\xfe"]
    assert await place.committed() == {tp: 3}


async def test_headers_may_be_many_large_empty_and_repeated(place: Place) -> None:
    headers = [
        ("", b""),
        ("same", b"1"),
        ("same", b"2"),
        ("\u00e9", b"\xff"),
        ("large", b"." * 100_000),
    ]
    headers += [(f"n{number}", b"%d" % number) for number in range(10_000)]
    await place.create(1)
    async with place.app() as app:
        topic = app.topic(place.name)
        await topic.send(value=b"v", headers=headers)
        assert list((await anext(topic.noack())).headers) == headers


async def test_a_received_message_can_be_sent_again(place: Place) -> None:
    headers = [("a", b"1"), ("trace", None), ("a", b""), ("\u00e9", None)]
    await place.create(1)
    async with place.app() as app:
        topic = app.topic(place.name)
        await topic.send(value=b"v", headers=headers, timestamp=1_700_000_000.123)
        await topic.send(headers={"trace": None})
        messages = topic.noack()
        for sent in (headers, [("trace", None)]):
            message = await anext(messages)
            await topic.send(
                key=message.key,
                value=message.value,
                headers=message.headers,
                timestamp=message.timestamp,
            )
            assert list(message.headers) == sent
        again = await anext(messages)
        assert (again.value, list(again.headers)) == (b"v", headers)
        assert again.timestamp == 1_700_000_000.123
        assert list((await anext(messages)).headers) == [("trace", None)]


# The app


async def test_an_app_can_be_opened_only_once(place: Place) -> None:
    app = place.app()
    async with app:
        with pytest.raises(RuntimeError, match="make a new App"):
            async with app:
                raise AssertionError("the open app was opened again")
        await app.topic(place.name).send_and_wait(value=b"it goes on")
    with pytest.raises(RuntimeError, match="make a new App"):
        async with app:
            raise AssertionError("the closed app was opened again")


async def test_a_message_acked_after_its_app_closed_is_redelivered(place: Place) -> None:
    (tp,) = await place.create(1, b"first", b"second")
    async with place.app() as app:
        messages = app.topic(place.name).noack()
        first, second = await anext(messages), await anext(messages)
        assert first.ack()
    assert not second.ack()
    assert not second.acked
    assert await place.committed() == {tp: 1}
    async with place.app() as app:
        assert (await anext(app.topic(place.name).noack())).value == b"second"


async def test_calls_of_an_app_that_is_not_open_raise_app_closed(place: Place) -> None:
    app = place.app()
    orders = app.topic(place.name)
    for _ in range(2):
        with pytest.raises(AppClosed):
            orders.__aiter__()
        with pytest.raises(AppClosed):
            orders.noack()
        with pytest.raises(AppClosed):
            orders.batches()
        with pytest.raises(AppClosed):
            await orders.send(value=b"value")
        if not app.is_open:
            with contextlib.suppress(RuntimeError):
                async with app:
                    pass
