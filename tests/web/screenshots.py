"""Make the pictures of docs/page.md: `make screenshots`. It takes three minutes.

An app runs beside a browser. A second member comes and goes, the handler is slow for a while, and
in the end it fails.
"""

from __future__ import annotations

import random
from pathlib import Path

import trio
from playwright.sync_api import Locator, Page

from tests.addresses import reserved_address
from tests.apps import broker_with
from tests.web.scene import Beside, chromium
from transport import TP, App, Message, Retry

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
WIDE = {"width": 1280, "height": 900}
TALL = {"width": 1280, "height": 1130}
NARROW = {"width": 390, "height": 844}


class Play:
    """The app of the pictures, and what happens to it."""

    def __init__(self, address: str) -> None:
        self.broker = broker_with(*[TP("orders", number) for number in range(6)], TP("failed", 0))
        self.app = self._app(web=address)
        self.second_comes, self.second_goes = trio.Event(), trio.Event()
        self.pause = 0.0  # seconds that each message takes more
        self.must_fail = False
        self._random = random.Random(7)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery, self.app:
            nursery.start_soon(self._send)
            task_status.started()
            await self.second_comes.wait()
            async with self._app():
                await self.second_goes.wait()
            await trio.sleep_forever()

    def _app(self, **settings: str) -> App:
        app = App("billing", self.broker, commit_interval=0.5, **settings)  # type: ignore[arg-type]
        app.handler(
            app.topic("orders"),
            self.charge_customer,
            name="bill",
            concurrency=8,
            order="key",
            retry=Retry(attempts=2, wait_initial=0.5),
            dead_letters=app.topic("failed"),
        )
        app.handler(app.topic("failed"), self.alert, name="alert", dead_letters="fail")
        return app

    async def charge_customer(self, message: Message) -> None:
        await trio.sleep(self._random.uniform(0.02, 0.12) + self.pause)
        if message.offset % 211 == 40:
            raise LookupError("the bank knows no such customer")

    async def alert(self, message: Message) -> None:
        if self.must_fail:
            raise ConnectionError("no connection to the pager at 10.2.0.7")

    async def _send(self) -> None:
        orders = self.app.topic("orders")
        while True:
            for _ in range(self._random.randrange(1, 12)):
                await orders.send(key=b"%d" % self._random.randrange(200), value=b"order")
            await trio.sleep(0.1)


def section(page: Page, id: str) -> Locator:
    """Return the card that has the element of this id."""
    return page.locator("section", has=page.locator(f"#{id}"))


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with reserved_address() as address, chromium() as browser:
        play = Play(address)
        apps = Beside(play.run)
        pages = {
            name: browser.new_page(color_scheme=scheme, viewport=size)  # type: ignore[arg-type]
            for name, scheme, size in (
                ("light", "light", WIDE),
                ("dark", "dark", WIDE),
                ("narrow", "light", NARROW),
            )
        }
        for page in pages.values():
            page.goto(f"http://{address}/")
        wait = pages["light"].wait_for_timeout
        wait(40_000)
        apps.do(play.second_comes.set)
        wait(25_000)
        apps.do(play.second_goes.set)
        wait(25_000)
        play.pause = 0.3
        wait(14_000)
        pages["dark"].screenshot(path=FOLDER / "slow.png")
        section(pages["dark"], "tree").screenshot(path=FOLDER / "tree.png")
        play.pause = 0.0
        wait(24_000)
        pages["light"].set_viewport_size(TALL)  # type: ignore[arg-type]
        wait(1_000)
        pages["light"].screenshot(path=FOLDER / "page.png")
        pages["light"].set_viewport_size(WIDE)  # type: ignore[arg-type]
        section(pages["light"], "errors").screenshot(path=FOLDER / "errors.png")
        pages["narrow"].screenshot(path=FOLDER / "narrow.png")
        play.must_fail = True
        pages["light"].locator("#banner b").wait_for(timeout=60_000)
        wait(1_000)
        pages["light"].evaluate("scrollTo(0, 0)")
        pages["light"].screenshot(path=FOLDER / "crash.png")
        apps.end()


if __name__ == "__main__":
    main()
