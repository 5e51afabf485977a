"""A member that reads, transforms and writes, exactly once: as a program, to be killed.

For each message of one topic it writes "PARTITION OFFSET" into another; SIGTERM stops it::

    python -m tests.kafka.copier --bootstrap HOST:PORT --group G --source T --target T --mode member
"""

from __future__ import annotations

import argparse
import logging
import signal

import trio

from transport import App, Topic


async def copy(source: Topic, target: Topic, pause: float) -> None:
    async for batch in source.batches(100):
        for message in batch:
            place = b"%d %d" % (message.partition, message.offset)
            await target.send(key=place, value=place)
        await trio.sleep(pause)


async def stop_when_asked(app: App, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            app.stop()


async def main(args: argparse.Namespace) -> None:
    app = App(
        args.group,
        broker=f"kafka://{args.bootstrap}",
        transactions=args.mode,
        transaction_timeout=8.0,
        commit_interval=0.2,
        commit_timeout=5.0,
        session_timeout=args.session,
        heartbeat_interval=0.5,
        max_poll_interval=20.0,
    )
    source, target = app.topic(args.source), app.topic(args.target)
    async with trio.open_nursery() as nursery:
        await nursery.start(stop_when_asked, app)
        async with app, trio.open_nursery() as handlers:
            for _ in range(2):
                handlers.start_soon(copy, source, target, args.pause)
        nursery.cancel_scope.cancel()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.kafka.copier")
    for name in ("bootstrap", "group", "source", "target", "mode"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds that a batch takes")
    parser.add_argument("--session", type=float, default=3.0, help="the session's timeout")
    return parser.parse_args()


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
    trio.run(main, arguments())
