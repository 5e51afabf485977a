"""A program that copies a topic exactly once, for tests that kill it.

For each message of the source it writes "PARTITION OFFSET" into the target; SIGTERM stops it. It
prints a line for each batch that is written and not acked yet::

    python -m tests.kafka.copier --bootstrap HOST:PORT --group G --source T --target T --mode member

With `--zombie` it writes one batch, and waits until it was stopped and continued. With "commits" it
then commits the batch before it receives the loss of its partitions; with "hears" it receives that
first. After that it copies as usual. With `--log FILE` it writes a diary, as `tests.kafka.member`
does.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import time
from typing import Any

import trio

from tests.kafka.member import Diary, report_what_is_alive, setting
from tests.scripted import Function, replace, scripted
from transport import TP, App, Batch, Topic, TransactionAborted
from transport.drivers.base import Rebalance

# Seconds that a zombie's commit may take: the commit of an evicted member may be retried.
COMMIT_PATIENCE = 3.0
NEVER = 1e6


async def write(batch: Batch, target: Topic) -> None:
    deliveries = []
    for message in batch:
        place = b"%d %d" % (message.partition, message.offset)
        deliveries.append(await target.send(key=place, value=place, source=batch))
    for delivery in deliveries:
        await delivery
    print("written", flush=True)


async def copy(source: Topic, target: Topic, pause: float, diary: Diary) -> None:
    async for batch in source.batches(100):
        begun = time.monotonic()
        try:
            await write(batch, target)
        except TransactionAborted:
            continue  # the batch is redelivered
        await trio.sleep(pause)
        ended = time.monotonic()
        diary.write(
            [
                f"done {m.partition} {m.offset} {m.generation_id} {m.epoch} {begun:.6f}"
                f" {ended:.6f} {os.getpid()}"
                for m in batch
            ]
        )


class Copier(App):
    """An app that sets an event when partitions are revoked or lost."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.has_lost = trio.Event()

    async def on_partitions_revoked(self, revoked: frozenset[TP]) -> None:
        if revoked:
            self.has_lost.set()


class Hearing:
    """Withholds rebalances from an app, after its first partitions and until `again` is set."""

    def __init__(self, app: App) -> None:
        self.again = trio.Event()
        has_some = False

        async def hear(next_rebalance: Function) -> Rebalance:
            nonlocal has_some
            if has_some:
                await self.again.wait()
            rebalance: Rebalance = await next_rebalance()
            has_some = has_some or bool(rebalance.partitions)
            return rebalance

        replace(app, "next_rebalance", hear)


async def rise_again(
    app: Copier, source: Topic, target: Topic, commits: bool, diary: Diary
) -> None:
    hearing = Hearing(app)
    with trio.open_signal_receiver(signal.SIGCONT) as continued:
        batch = await anext(source.batches(100, noack=True))
        await write(batch, target)
        await anext(continued)
    if commits:
        batch.ack()
        with trio.move_on_after(COMMIT_PATIENCE), contextlib.suppress(TransactionAborted):
            await app.consumer.commit()
    hearing.again.set()
    await app.has_lost.wait()
    print("lost", flush=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(commit_now_and_then, app)
        await copy(source, target, 0.05, diary)
        nursery.cancel_scope.cancel()


async def commit_now_and_then(app: App) -> None:
    while True:
        await trio.sleep(0.2)
        with contextlib.suppress(TransactionAborted):
            await app.consumer.commit()


async def stop_when_asked(app: App, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            app.stop()


async def main(args: argparse.Namespace) -> None:
    diary = Diary.at(args.log)
    settings = {
        "transaction_timeout": args.transaction_timeout,
        "commit_interval": NEVER if args.zombie else 0.2,
        "commit_timeout": 5.0,
        "session_timeout": args.session,
        "heartbeat_interval": 0.5,
        "max_poll_interval": 20.0,
        **dict(args.setting),
    }
    kind = scripted(Copier) if args.zombie else Copier
    app = kind(args.group, broker=f"kafka://{args.bootstrap}", transactions=args.mode, **settings)
    source, target = app.topic(args.source), app.topic(args.target)
    async with trio.open_nursery() as nursery:
        await nursery.start(stop_when_asked, app)
        async with app, trio.open_nursery() as beside:
            beside.start_soon(report_what_is_alive, diary)
            async with trio.open_nursery() as handlers:
                if args.zombie:
                    commits = args.zombie == "commits"
                    handlers.start_soon(rise_again, app, source, target, commits, diary)
                else:
                    for _ in range(2):
                        handlers.start_soon(copy, source, target, args.pause, diary)
            beside.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.kafka.copier")
    for name in ("bootstrap", "group", "source", "target", "mode"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds that a batch takes")
    parser.add_argument("--session", type=float, default=6.0, help="the session's timeout")
    parser.add_argument("--transaction-timeout", type=float, default=8.0, help="seconds")
    parser.add_argument("--zombie", choices=["commits", "hears"], help="what the zombie does first")
    parser.add_argument("--log", default=os.devnull)
    parser.add_argument("--setting", type=setting, action="append", default=[], help="NAME=JSON")
    return parser.parse_args()


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
    trio.run(main, arguments())
