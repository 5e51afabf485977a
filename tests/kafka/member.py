"""A program that is a member of a group, as a user would write it, with a diary.

Each step of a message is a line in an append-only file. The line is written before the next step,
so it survives a SIGKILL. Fields are separated by blanks. Times are those of the machine's monotonic
clock, which all processes share::

    begun PARTITION OFFSET TIME
    done PARTITION OFFSET GENERATION EPOCH BEGUN ENDED PID
    acked PARTITION OFFSET TIME               after ack() has returned True
    seen TIME GENERATION UNACKED BEGUN HELD RSS     every 50 ms; RSS in bytes
    alive TIME RSS TASKS THREADS FILES        every second: resources that could leak

SIGTERM stops the app and cancels it after a grace. Ctrl-C is left to trio, as in most programs. A
record that begins with "wait SECONDS " is handled for that time. A record "block SECONDS FILE"
blocks the whole program of the first member that gets it::

    python -m tests.kafka.member --bootstrap HOST:PORT --group G --topic T --log FILE
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import trio

from transport import App, Message, Topic

# The exit code of a user's program after Ctrl-C.
INTERRUPTED = 130
_WATCH_INTERVAL = 0.05
_ALIVE_INTERVAL = 1.0


@attrs.frozen
class Diary:
    """The diary's file; each call of `write` is one write to it."""

    fd: int

    @classmethod
    def at(cls, path: str) -> Diary:
        return cls(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))

    def write(self, lines: Sequence[str]) -> None:
        os.write(self.fd, ("\n".join(lines) + "\n").encode())


def rss() -> int:
    """Return the resident memory of this process, in bytes."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS in /proc/self/status")


async def work(
    messages: Sequence[Message], ack: Callable[[], bool], diary: Diary, pause: float
) -> None:
    """Handle messages of one partition as one piece of work."""
    begun = time.monotonic()
    diary.write([f"begun {m.partition} {m.offset} {begun:.6f}" for m in messages])
    for message in messages:
        block_if_asked(message)
    await trio.sleep(max(pause, *map(asked_pause, messages)))
    ended = time.monotonic()
    diary.write(
        [
            f"done {m.partition} {m.offset} {m.generation_id} {m.epoch} {begun:.6f} {ended:.6f}"
            f" {os.getpid()}"
            for m in messages
        ]
    )
    if ack():
        at = time.monotonic()
        diary.write([f"acked {m.partition} {m.offset} {at:.6f}" for m in messages])


def asked_pause(message: Message) -> float:
    value = message.value
    return float(value.split()[1]) if value is not None and value.startswith(b"wait ") else 0.0


def block_if_asked(message: Message) -> None:
    match (message.value or b"").split():
        case [b"block", seconds, file] if not os.path.exists(file):
            os.close(os.open(file, os.O_CREAT | os.O_EXCL))
            time.sleep(float(seconds))


async def handle(topic: Topic, diary: Diary, batch: int, pause: float) -> None:
    if batch > 1:
        async for several in topic.batches(batch, noack=True):
            await work(several, several.ack, diary, pause)
    else:
        async for message in topic.noack():
            await work([message], message.ack, diary, pause)


async def watch(app: App, topic: Topic, diary: Diary) -> None:
    usage = topic.channel.usage
    while True:
        generation = app.consumer.assignment.generation if app.consumer.assignment else -1
        diary.write(
            [
                f"seen {time.monotonic():.3f} {generation} {len(app.consumer.unacked)}"
                f" {usage.begun} {usage.held} {rss()}"
            ]
        )
        await trio.sleep(_WATCH_INTERVAL)


async def report_what_is_alive(diary: Diary) -> None:
    while True:
        tasks = trio.lowlevel.current_statistics().tasks_living
        threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
        diary.write([f"alive {time.monotonic():.3f} {rss()} {tasks} {threads} {files}"])
        await trio.sleep(_ALIVE_INTERVAL)


async def obey(
    app: App,
    grace: float,
    work: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Stop the app on SIGTERM, and cancel `work` after the grace.

    It runs from the start to the end of the program: without a receiver SIGTERM would kill it.
    """
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            app.stop()
            work.deadline = min(work.deadline, trio.current_time() + grace)


async def main(args: argparse.Namespace) -> None:
    diary = Diary.at(args.log)
    app = App(args.group, broker=f"kafka://{args.bootstrap}", **dict(args.setting))
    async with trio.open_nursery() as nursery:
        work = trio.CancelScope()
        await nursery.start(obey, app, args.stop_grace, work)
        with work:
            async with app:
                topic = app.topic(args.topic)
                async with trio.open_nursery() as beside:
                    beside.start_soon(watch, app, topic, diary)
                    beside.start_soon(report_what_is_alive, diary)
                    async with trio.open_nursery() as handlers:
                        for _ in range(args.tasks):
                            handlers.start_soon(handle, topic, diary, args.batch, args.pause)
                    beside.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


def setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    return name, json.loads(value)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.kafka.member")
    for name in ("bootstrap", "group", "topic", "log"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--tasks", type=int, default=4, help="concurrent handlers")
    parser.add_argument("--batch", type=int, default=1, help="most messages of a piece of work")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds a piece of work takes")
    parser.add_argument(
        "--stop-grace", type=float, default=5.0, help="seconds from SIGTERM to cancel"
    )
    parser.add_argument("--setting", type=setting, action="append", default=[], help="NAME=JSON")
    return parser.parse_args()


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
    code = 0
    try:
        trio.run(main, arguments())
    except* KeyboardInterrupt:
        code = INTERRUPTED  # `sys.exit` in this block would raise a group
    sys.exit(code)
