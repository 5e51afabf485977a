"""The fast way to handle messages: batches of one partition each, which are acked as a whole.

Use it for work that is done once for each batch, such as a write to a database. `async with batch:`
acks the batch on a clean exit.
"""

import sys
from collections import Counter

import trio

from transport import App

app = App("totals", broker=sys.argv[1] if len(sys.argv) > 1 else "memory://")
clicks = app.topic("clicks")

CLICKS = 10_000


async def main() -> None:
    totals: Counter[bytes] = Counter()
    async with app:
        app.stop_on_signals()
        for number in range(CLICKS):
            await clicks.send(key=b"page-%d" % (number % 7), value=b"click")
        async for batch in clicks.batches(500, noack=True):
            async with batch:
                totals.update(message.key for message in batch)
            if totals.total() >= CLICKS:
                app.stop()
    for page, count in sorted(totals.items()):
        print(page.decode(), count)


trio.run(main)
