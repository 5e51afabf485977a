"""This library: consume, transform and produce in transactions, per member or per partition."""

from __future__ import annotations

import time

import trio
from job import CHECK, COMMIT_INTERVAL, Done, Job, main
from ours_consuming import app_of


def transactions(job: Job) -> Done:
    """Copy in small transactions of a given number of messages."""

    async def run() -> Done:
        app = app_of(job, transactions=job.options["mode"], commit_interval=3600.0)
        async with app:
            target = app.topic(job.target)
            seen = total = number = 0
            began = 0.0
            async for batch in app.topic(job.topic).batches(job.options["each"], noack=True):
                if not seen:
                    began = time.perf_counter()
                for message in batch:
                    await target.send(key=message.key, value=message.value, source=batch)
                    total += message.value[CHECK]
                seen += len(batch)
                batch.ack()
                number += await app.consumer.commit()
                if seen >= job.messages:
                    break
            seconds = time.perf_counter() - began
        return Done(seen, total, seconds, {"transactions": number / seconds})

    return trio.run(run)


def exactly_once(job: Job) -> Done:
    """Copy as fast as possible, and commit every second."""

    async def run() -> Done:
        app = app_of(job, transactions=job.options["mode"], commit_interval=COMMIT_INTERVAL)
        async with app:
            target = app.topic(job.target)
            seen = total = 0
            began = 0.0
            async for message in app.topic(job.topic).noack():
                if not seen:
                    began = time.perf_counter()
                await target.send(key=message.key, value=message.value, source=message)
                total += message.value[CHECK]
                message.ack()
                seen += 1
                if seen == job.messages:
                    break
            await app.consumer.commit()
            seconds = time.perf_counter() - began
        return Done(seen, total, seconds)

    return trio.run(run)


if __name__ == "__main__":
    main({"transactions": transactions, "exactly_once": exactly_once})
