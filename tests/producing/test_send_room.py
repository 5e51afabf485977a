"""Tests of the line of senders that wait for room: no message starves, and none is lost."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.nurseries.clock import jumping
from tests.producing.held_back import HeldBack, app_with
from transport import App, AppClosed, Delivery, DeliveryFailed

SMALL, LARGE = b"s", b"L" * 600
BYTES = 1000


def app_of(client: HeldBack, **settings: int) -> App:
    return app_with(client, **{"send_buffer_bytes": BYTES, **settings})


async def send_all(
    app: App, nursery: trio.Nursery, messages: list[bytes]
) -> list[Delivery | Exception]:
    """Start a sender for each message, one after the other; return the list of their results."""
    topic, noted = app.topic("orders"), []

    async def send(value: bytes) -> None:
        try:
            noted.append(await topic.send(value=value))
        except (AppClosed, DeliveryFailed) as error:
            noted.append(error)

    for value in messages:
        nursery.start_soon(send, value)
        await wait_all_tasks_blocked()
    return noted


@jumping
async def test_messages_are_accepted_in_the_order_of_their_sends() -> None:
    client = HeldBack()
    app = app_of(client, send_buffer_messages=5)
    async with app, trio.open_nursery() as nursery:
        messages = [b"%d" % number for number in range(40)]
        await send_all(app, nursery, messages)
        seen: list[bytes | None] = []
        for freed in (1, 3, 5, 2, 5, 5, 4, 5, 5, 5):
            await wait_all_tasks_blocked()
            seen += client.values[:freed]
            client.end(freed)
        assert seen == messages


@jumping
async def test_a_large_message_does_not_starve_behind_small_ones() -> None:
    """Small messages are sent all the time, and each report makes room for one of them."""
    client = HeldBack()
    async with (app := app_of(client)), trio.open_nursery() as nursery:
        topic = app.topic("orders")

        async def send_small() -> None:
            while True:
                await topic.send(value=SMALL)

        for _ in range(20):
            nursery.start_soon(send_small)
        await wait_all_tasks_blocked()
        most = len(client.taken)
        sent = trio.Event()

        async def send_large() -> None:
            await topic.send(value=LARGE)
            sent.set()

        nursery.start_soon(send_large)
        await wait_all_tasks_blocked()
        # The earlier senders have their turn first, then the large message.
        for _ in range(20 + most):
            client.end()
            await wait_all_tasks_blocked()
        assert sent.is_set()
        nursery.cancel_scope.cancel()
        await trio.lowlevel.cancel_shielded_checkpoint()
        client.end(1000)


@jumping
async def test_a_small_message_does_not_overtake_a_waiting_large_one() -> None:
    client = HeldBack()
    async with (app := app_of(client)), trio.open_nursery() as nursery:
        await send_all(app, nursery, [LARGE, LARGE, SMALL])
        assert client.values == [LARGE]
        client.end()
        await wait_all_tasks_blocked()
        assert client.values == [LARGE, SMALL]
        client.end(2)


@jumping
async def test_a_report_wakes_only_the_senders_whose_messages_fit() -> None:
    client = HeldBack()
    async with (app := app_of(client, send_buffer_messages=1)), trio.open_nursery() as nursery:
        noted = await send_all(app, nursery, [SMALL] * 500)
        for number in range(1, 6):
            assert len(noted) == number
            assert len(nursery.child_tasks) == 500 - number
            client.end()
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        await trio.lowlevel.cancel_shielded_checkpoint()
        client.end()


@pytest.mark.parametrize("when", ["before its turn", "just before its turn", "in its turn"])
@jumping
async def test_a_cancelled_sender_keeps_no_room(when: str) -> None:
    """The large message leaves the line, so the messages behind it fit."""
    client = HeldBack()
    async with (app := app_of(client)), trio.open_nursery() as nursery:
        topic = app.topic("orders")
        await topic.send(value=LARGE)
        scope, accepted = trio.CancelScope(), []

        async def send() -> None:
            with scope:
                accepted.append(await topic.send(value=LARGE))

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        assert await send_all(app, nursery, [SMALL, SMALL]) == []
        match when:
            case "before its turn":
                scope.cancel()
                await wait_all_tasks_blocked()
                client.end()
            case "just before its turn":
                scope.cancel()
                client.end()
            case "in its turn":
                client.end()
                scope.cancel()
        await wait_all_tasks_blocked()
        was_accepted = when == "in its turn"
        assert len(accepted) == was_accepted, "an accepted message has a delivery for its sender"
        assert client.values == [LARGE] * was_accepted + [SMALL, SMALL]
        client.end(10)
        assert app.producer.in_flight == 0
        await topic.send(value=LARGE)
        await topic.send(value=SMALL)
        await wait_all_tasks_blocked()
        client.end(2)


@jumping
async def test_each_of_many_cancelled_senders_leaves_the_line() -> None:
    client = HeldBack()
    async with (app := app_of(client, send_buffer_messages=1)), trio.open_nursery() as nursery:
        await app.topic("orders").send(value=SMALL)
        async with trio.open_nursery() as cancelled:
            await send_all(app, cancelled, [LARGE] * 100)
            cancelled.cancel_scope.cancel()
        noted = await send_all(app, nursery, [SMALL])
        client.end()
        await wait_all_tasks_blocked()
        assert len(noted) == 1
        client.end()


@pytest.mark.parametrize("kill", [False, True])
@jumping
async def test_all_waiting_senders_get_app_closed_at_the_end(kill: bool) -> None:
    client = HeldBack()
    async with trio.open_nursery() as nursery, (app := app_of(client, send_buffer_messages=1)):
        noted = await send_all(app, nursery, [SMALL] * 50)
        (accepted,) = noted
        assert isinstance(accepted, Delivery)
        accepted.was_seen = True
        if kill:
            await app.kill()
    assert [type(each) for each in noted[1:]] == [AppClosed] * 49
