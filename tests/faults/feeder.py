"""A producer, as a program: it sends numbers, and writes their outcomes into a diary.

The value of each message is its number. The diary has, in the form of `tests.kafka.member`::

    sent NUMBER                               before the send
    acked NUMBER PARTITION OFFSET TIME
    failed NUMBER ERROR TIME                  the error's class

After SIGTERM it waits for the outcomes of all accepted messages, and ends::

    python -m tests.faults.feeder --bootstrap HOST:PORT --topic T --log FILE
"""

from __future__ import annotations

import argparse
import logging
import math
import signal
import time

import trio

from tests.kafka.member import Diary, report_what_is_alive, setting
from transport import App, Delivery, DeliveryFailed, TransportError

# The most messages without an outcome, so that a long cut does not end in a flood.
IN_FLIGHT = 2000

Outcomes = trio.MemoryReceiveChannel[tuple[int, Delivery]]


async def feed(
    app: App,
    args: argparse.Namespace,
    diary: Diary,
    outcomes: trio.MemorySendChannel[tuple[int, Delivery]],
    asked: trio.Event,
) -> None:
    topic, number, interval = app.topic(args.topic), 0, 1 / args.rate
    next_at = trio.current_time()
    async with outcomes:
        while not asked.is_set():
            diary.write([f"sent {number}"])
            value = b"%d" % number
            if args.large_every and number % args.large_every == 0:
                value += bytes(args.large)
            try:
                delivery = await topic.send(key=b"%d" % number, value=value)
            except TransportError as error:
                write_failure(diary, number, error)
            else:
                await outcomes.send((number, delivery))
            number += 1
            next_at = max(next_at + interval, trio.current_time() - 1.0)
            await trio.sleep_until(next_at)


async def write_outcomes(outcomes: Outcomes, diary: Diary) -> None:
    async for number, delivery in outcomes:
        try:
            where = await delivery
        except DeliveryFailed as error:
            write_failure(diary, number, error)
        else:
            at = time.monotonic()
            diary.write([f"acked {number} {where.partition} {where.offset} {at:.6f}"])


def write_failure(diary: Diary, number: int, error: Exception) -> None:
    logging.warning("message %d failed: %r", number, error)
    diary.write([f"failed {number} {type(error).__name__} {time.monotonic():.6f}"])


async def wait_to_be_asked(
    asked: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            asked.set()


async def main(args: argparse.Namespace) -> None:
    diary = Diary.at(args.log)
    app = App("feeder", broker=f"kafka://{args.bootstrap}", **dict(args.setting))
    asked = trio.Event()
    send, receive = trio.open_memory_channel[tuple[int, Delivery]](IN_FLIGHT)
    async with trio.open_nursery() as nursery:
        await nursery.start(wait_to_be_asked, asked)
        async with app, trio.open_nursery() as beside:
            beside.start_soon(report_what_is_alive, diary)
            async with trio.open_nursery() as work:
                work.start_soon(feed, app, args, diary, send, asked)
                work.start_soon(write_outcomes, receive, diary)
            beside.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.faults.feeder")
    for name in ("bootstrap", "topic", "log"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rate", type=float, default=math.inf, help="messages a second")
    parser.add_argument("--large-every", type=int, default=0, help="every Nth message is large")
    parser.add_argument("--large", type=int, default=0, help="bytes added to a large one")
    parser.add_argument("--setting", type=setting, action="append", default=[], help="NAME=JSON")
    return parser.parse_args()


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
    trio.run(main, arguments())
