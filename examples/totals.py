"""The fast path: batches, each of one partition, acked as a whole.

Work that is done once a batch, such as a write to a database, belongs in here: `async with batch:`
acks it on a clean exit.
"""

import sys
from collections import Counter

import trio

from transport import App

app = App("totals", broker=sys.argv[1] if len(sys.argv) > 1 else "memory://")
clicks = app.topic("clicks")

CLICKS = 10_000


async def main():
    totals = Counter()
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
