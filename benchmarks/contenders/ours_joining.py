"""This library: a second member joins a group, with default settings."""

from __future__ import annotations

import time

import trio
from job import Done, Job, group, main
from traffic import traffic

from transport import App

PATIENCE = 60.0  # seconds


class Member:
    """An app that reads."""

    def __init__(self, job: Job, group_id: str) -> None:
        self._job = job
        self._group_id = group_id
        self._partitions: set[int] = set()  # from which it has messages
        self._latest = 0.0  # the time of its latest message
        self._news = trio.Event()  # set at its next message

    async def run(self) -> None:
        async with App(self._group_id, broker=f"kafka://{self._job.bootstrap}") as app:
            async for message in app.topic(self._job.target):
                self._partitions.add(message.partition)
                self._latest = time.perf_counter()
                self._news.set()
                self._news = trio.Event()

    async def has_all(self) -> None:
        """Wait until the member has received a message from each partition."""
        while len(self._partitions) < self._job.partitions:
            await self._news.wait()

    async def after(self, moment: float) -> float:
        """Wait for a message after this moment, and return the time of the latest one."""
        while self._latest <= moment:
            await self._news.wait()
        return self._latest


def join(job: Job) -> Done:
    """Measure the time from the start of the second member until both receive messages."""
    group_id = group()

    async def run() -> Done:
        first, second = Member(job, group_id), Member(job, group_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.run)
            with trio.fail_after(PATIENCE):
                await first.has_all()
            await trio.sleep(job.options["settle"])
            began = time.perf_counter()
            nursery.start_soon(second.run)
            with trio.fail_after(PATIENCE):
                both = await first.after(await second.after(0.0))
            nursery.cancel_scope.cancel()
        return Done(0, 0, both - began)

    with traffic(job):
        return trio.run(run)


if __name__ == "__main__":
    main({"join": join})
