"""A program that copies a topic exactly once with a handler, for tests that kill it.

For each message of the source it writes "PARTITION OFFSET PID OUTCOME" into the target, with the
message's key. PID is that of this process. OUTCOME says whether the attempt "works" or "fails".
Some messages fail in the first attempt of each process, and some in every attempt: these become
dead letters. Half of the failing attempts write before they fail. SIGTERM stops the program.

It prints a line "written PARTITION OFFSET" when a message is written, within an open transaction::

    python -m tests.kafka.handler_copier --bootstrap HOST:PORT --group G --source T --target T \\
        --dead T --mode member
"""

from __future__ import annotations

import argparse
import logging
import os

import trio

from transport import App, Message, Retry

ATTEMPTS = 3
PAUSE = 0.1  # seconds from the write to the end of an attempt
KINDS = 100  # of so many messages, one fails always, and two fail at first


class Broken(Exception):
    """The failure of an attempt."""


def is_bad(partition: int, offset: int) -> bool:
    """Return whether every attempt to copy this message fails."""
    return (31 * partition + offset) % KINDS == 7


def is_shaky(partition: int, offset: int) -> bool:
    """Return whether the first attempt of each process to copy this message fails."""
    return (31 * partition + offset) % KINDS in (11, 62)


def app_of(args: argparse.Namespace) -> App:
    app = App(
        args.group,
        broker=f"kafka://{args.bootstrap}",
        transactions=args.mode,
        commit_interval=0.5,
        commit_timeout=5.0,
        transaction_timeout=8.0,
        session_timeout=6.0,
        heartbeat_interval=0.5,
        max_poll_interval=20.0,
    )
    target = app.topic(args.target)
    tried: set[tuple[int, int]] = set()

    @app.handler(
        app.topic(args.source),
        concurrency=20,
        order="key",
        retry=Retry(attempts=ATTEMPTS, wait_initial=0.05, wait_max=0.5, wait_jitter=0.1),
        dead_letters=app.topic(args.dead),
    )
    async def copy(message: Message) -> None:
        place = message.partition, message.offset
        fails = is_bad(*place) or (is_shaky(*place) and place not in tried)
        tried.add(place)
        if not fails or message.offset % 2:
            value = b"%d %d %d %s" % (*place, os.getpid(), b"fails" if fails else b"works")
            delivery = await target.send(key=message.key, value=value)
            if not fails:
                await delivery
                # One argument: a kill may come between the writes of several.
                print(f"written {message.partition} {message.offset}", flush=True)
        await trio.sleep(PAUSE)
        if fails:
            raise Broken(place)

    return app


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.kafka.handler_copier")
    for name in ("bootstrap", "group", "source", "target", "dead", "mode"):
        parser.add_argument(f"--{name}", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
    app_of(arguments()).run()
