"""A crawler that is polite: one request at a time to each host, and a pause between two of them.

python examples/crawler.py [BROKER]

The key of a message is its host. With order="key", the pages of a host are fetched one after the
other, and the hosts at the same time. So a slow host holds up no other.
"""

import sys
from collections import Counter
from urllib.parse import urlsplit

import trio

from transport import App, Message, Retry

PAUSE = 0.01  # seconds between two requests to one host
PAGES = [f"http://host-{number % 20}.example/page/{number}" for number in range(200)]

app = App("crawler", broker=sys.argv[1] if len(sys.argv) > 1 else "memory://")
pages = app.topic("pages", key_type=str, value_type=str)

fetched: Counter[str] = Counter()


async def fetch(url: str) -> bytes:
    """Stand in for an HTTP client: replace it by a call of httpx."""
    await trio.sleep(0.002)
    return b"<html>"


@app.handler(pages, concurrency=50, order="key", timeout=30, retry=Retry(attempts=3))
async def crawl(message: Message[str, str]) -> None:
    await fetch(message.value)
    fetched[message.key] += 1
    if fetched.total() == len(PAGES):
        app.stop()  # a service does not stop here
    await trio.sleep(PAUSE)


async def main() -> None:
    async with app:
        app.stop_on_signals()
        for url in PAGES:
            await pages.send(key=urlsplit(url).hostname, value=url)
        await app.wait_stopped()
    print(f"{fetched.total()} pages of {len(fetched)} hosts")


trio.run(main)
