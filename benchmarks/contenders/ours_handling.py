"""This library: handlers that sleep or do nothing, with the default settings of an App."""

from __future__ import annotations

import gc
import time
from typing import Any

import trio
from job import CHECK, Done, Job, main
from ours_consuming import app_of

from transport import Message


def handlers(job: Job) -> Done:
    """Handle all messages. The clock starts at the first one, or at the end of the warm-up."""
    if job.options["tuned"]:
        tune()
    pause, warm_up = job.options["handler"], job.options["warm_up"]
    handled = total = 0
    began = ended = 0.0
    app = app_of(job)

    @app.handler(app.topic(job.topic), concurrency=job.options["tasks"], order=job.options["order"])
    async def handle(message: Message[Any, Any]) -> None:
        nonlocal handled, total, began, ended
        if not began:
            began = time.perf_counter()
        total += message.value[CHECK]
        if pause:
            await trio.sleep(pause)
        handled += 1
        if handled == warm_up:
            began = time.perf_counter()
        elif handled == job.messages:
            ended = time.perf_counter()
            app.stop()

    async def run() -> None:
        async with app:
            await app.wait_stopped()

    trio.run(run)
    seconds = ended - began
    return Done(handled, total, seconds, {"per_second": (handled - warm_up) / seconds})


def tune() -> None:
    """Let the garbage collector run less often, as docs/performance.md advises."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


if __name__ == "__main__":
    main({"handlers": handlers})
