"""Sending by the tasks of an asyncio loop: a producer accepts a message in the task's own turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from transport.anyio.guest import Answer, Guest, Leave
from transport.producing.delivery import Delivery
from transport.producing.producer import Producer


async def accept(
    guest: Guest, writer: Producer, check: Callable[[], None], message: Delivery
) -> None:
    """Accept a message, as `Producer.send_while` does in trio.

    Cancelled while it waits for room: the message may be accepted. Cancelled while it gives way to
    other tasks: the message is not accepted.
    """
    if guest.gives_way:  # before the message is accepted, because the task may be cancelled
        await guest.give_way()
    guest.check()
    try:
        accepted = writer.accept_now(message, check)
    except Exception:  # refused: a loop of such calls must not keep other tasks either
        guest.gives_way = True
        raise
    if accepted is None:
        await _accept_in_turn(
            guest, writer, check, [message], lambda count: writer.accept_now(message, check, count)
        )
    if message.gives_way:
        guest.gives_way = True


async def accept_many(
    guest: Guest, writer: Producer, check: Callable[[], None], messages: Sequence[Delivery]
) -> None:
    """Accept messages for one topic, as `Producer.send_many_while` does in trio."""
    await guest.give_way()
    guest.check()
    if messages and writer.accept_many_now(messages, check) is None:
        await _accept_in_turn(
            guest,
            writer,
            check,
            messages,
            lambda count: writer.accept_many_now(messages, check, count),
        )


async def _accept_in_turn(
    guest: Guest,
    writer: Producer,
    check: Callable[[], None],
    messages: Sequence[Delivery],
    accept_now: Callable[[int], object],
) -> None:
    """Wait for the topic's partitions and for room, until all messages are accepted."""
    topic = messages[0].topic

    def begin(answer: Answer[None]) -> Leave:
        def check_awaited() -> None:
            if not answer.is_awaited:  # the caller is cancelled, and about to leave the line
                raise asyncio.CancelledError
            check()

        return writer.accept_in_turn(check_awaited, messages, answer)

    try:
        if writer.known_partitions(topic) is None:
            count = await guest.call(writer.ask_partitions, topic)
            if accept_now(count) is not None:
                return
        await guest.wait(begin)
    except BaseException as why:  # also Cancelled: the spans end
        writer.refused(messages, why)
        raise
