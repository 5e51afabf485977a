"""The page in a real browser: a rebalance, a slow handler and a crash are under way."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from playwright.sync_api import Browser, Page, expect
from starlette.applications import Starlette
from starlette.routing import Mount

import transport.web
from tests.addresses import reserved_address
from tests.apps import broker_with, write
from tests.web.scene import Beside, BrowserMissing, Watched, beside, chromium, find_chromium
from transport import TP, App, MemoryBroker, Message
from transport.web import RecentEvents

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
_PATIENCE = 60_000  # milliseconds, for a busy machine
expect.set_options(timeout=_PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def address() -> Iterator[str]:
    with reserved_address() as address:
        yield address


@pytest.fixture
def watched(browser: Browser, address: str) -> Iterator[Watched]:
    """Return a new page of the browser, which shows nothing yet."""
    page = browser.new_page()
    page.set_default_timeout(_PATIENCE)
    yield Watched(page, f"http://{address}")
    page.close()


def rows(page: Page, section: str) -> Any:
    return page.locator(f"#{section} tbody tr")


def row(page: Page, section: str, text: str) -> Any:
    return rows(page, section).filter(has_text=re.compile(text))


def partitions(count: int) -> list[TP]:
    return [TP("orders", number) for number in range(count)]


async def ignore(message: Message) -> None:
    pass


def app_with(
    broker: MemoryBroker, handle: Callable[[Message], Any], id: str = "billing", **settings: Any
) -> App:
    app = App(id, broker, commit_interval=0.2, **settings)
    app.handler(app.topic("orders"), handle, name="bill")
    return app


async def until_cancelled(
    app: App, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    async with app:
        task_status.started()
        await trio.sleep_forever()


# The scenes


def test_a_rebalance_is_on_the_timeline_and_moves_partitions(
    watched: Watched, address: str
) -> None:
    broker, page = broker_with(*partitions(4)), watched.page
    second_comes, second_goes = trio.Event(), trio.Event()

    async def main(*, task_status: trio.TaskStatus[None]) -> None:
        async with app_with(broker, ignore, web=address):
            task_status.started()
            await second_comes.wait()
            async with app_with(broker, ignore):
                await second_goes.wait()
            await trio.sleep_forever()

    with beside(main) as apps:
        watched.visit()
        expect(page.get_by_role("heading", level=1)).to_have_text("billing")
        expect(rows(page, "partitions")).to_have_count(4)
        expect(page.locator("#timeline .mark.assigned")).to_have_count(1)
        expect(page.locator("#timeline .mark.revoked")).to_have_count(0)
        apps.do(second_comes.set)
        expect(page.locator("#timeline .mark.revoked")).to_have_count(1)
        expect(rows(page, "partitions")).to_have_count(2)
        expect(row(page, "rebalances", r"revoked.*orders\[\d-\d\]")).to_have_count(1)
        apps.do(second_goes.set)
        expect(page.locator("#timeline .mark.assigned")).to_have_count(2)
        expect(rows(page, "partitions")).to_have_count(4)
        timeline = page.locator("#timeline svg")
        expect(timeline).to_have_attribute("aria-label", re.compile("3 rebalances"))
        watched.check()


def test_a_slow_handler_shows_where_it_waits_and_how_far_it_is_behind(
    watched: Watched, address: str
) -> None:
    broker, page = broker_with(*partitions(1), records=30), watched.page
    go_on = trio.Event()

    async def wait_for_the_bank(message: Message) -> None:
        await go_on.wait()

    with beside(until_cancelled, app_with(broker, wait_for_the_bank, web=address)) as apps:
        watched.visit()
        lag = page.locator("#lag-chart .legend b")
        worker = page.locator("#tree .node").filter(has_text=re.compile("^worker 1"))
        expect(worker).to_contain_text("wait_for_the_bank")
        expect(row(page, "partitions", "orders-0").locator("td").nth(1)).to_have_text("30")
        expect(lag).to_have_text("30")
        expect(row(page, "handlers", "bill")).to_contain_text("1 of 1")
        expect(page.locator("#flight-chart .legend b").first).to_have_text("30")
        page.wait_for_timeout(6000)  # a rate is the mean of up to 5 s
        apps.do(write, broker, TP("orders", 0), 12)
        expect(lag).to_have_text("42")
        written = page.locator("#rates-chart .legend b").first
        expect(written).to_have_text(re.compile(r"^([2-9]\.\d|10|11)$"))  # of 12 records
        expect(written).to_have_text("0")  # and none after them
        apps.do(go_on.set)
        expect(lag).to_have_text("0")
        expect(row(page, "handlers", "bill").locator("td").nth(4)).to_have_text("42")
        expect(worker).not_to_contain_text("wait_for_the_bank")
        watched.check()


def test_a_crash_leaves_the_error_on_the_open_page(watched: Watched, address: str) -> None:
    broker, page = broker_with(*partitions(1), records=3), watched.page
    fail = trio.Event()

    async def handle(message: Message) -> None:
        await fail.wait()
        raise ValueError(f"no such customer {HOSTILE}")

    apps = Beside(functools.partial(until_cancelled, app_with(broker, handle, web=address)))
    try:
        watched.visit()
        expect(page.locator("#connection")).to_have_text("Live, updated each second")
        apps.do(fail.set)
        expect(page.locator("#banner")).to_contain_text("The app has crashed at")
        expect(page.locator("#banner")).to_contain_text("handler bill, orders-0 offset 0")
        expect(page.locator("#banner")).to_contain_text(f"ValueError: no such customer {HOSTILE}")
        assert isinstance(apps.wait(), BaseExceptionGroup)
        expect(row(page, "errors", "ValueError")).to_contain_text("the app ends")
        expect(page.locator("#badges")).to_have_text("crashed")
        expect(row(page, "partitions", "orders-0")).to_have_count(1)
        page.wait_for_timeout(4000)  # the page has tried to connect again
        expect(page.locator("#banner")).to_contain_text("The app has crashed at")
        expect(page.locator("main img, main script, header img, header script")).to_have_count(0)
        watched.check(allow_lost_connection=True)
    finally:
        apps.end()


def test_an_error_of_the_block_is_a_crash_too(watched: Watched, address: str) -> None:
    page, fail = watched.page, trio.Event()

    async def main(*, task_status: trio.TaskStatus[None]) -> None:
        async with App("billing", broker_with(*partitions(1)), web=address):
            task_status.started()
            await fail.wait()
            raise ZeroDivisionError("of the block")

    apps = Beside(main)
    try:
        watched.visit()
        expect(page.locator("#connection")).to_have_text("Live, updated each second")
        apps.do(fail.set)
        expect(page.locator("#banner")).to_contain_text("The app has crashed at")
        expect(page.locator("#banner")).to_contain_text("ZeroDivisionError: of the block")
        watched.check(allow_lost_connection=True)
    finally:
        apps.end()


def test_a_mounted_page_asks_for_each_state(watched: Watched, address: str) -> None:
    broker, page, must_end = broker_with(*partitions(1), records=5), watched.page, trio.Event()

    async def main(*, task_status: trio.TaskStatus[None]) -> None:
        app = app_with(broker, ignore, monitor=RecentEvents())
        site: Any = Starlette(routes=[Mount("/kafka", transport.web.page(app))])
        config = Config()
        config.bind = [address]
        async with trio.open_nursery() as nursery:
            await nursery.start(functools.partial(serve, site, config))
            async with app:
                task_status.started()
                await must_end.wait()
            await trio.sleep_forever()

    with beside(main) as apps:
        page.goto(f"{watched.origin}/kafka/")
        committed = row(page, "partitions", "orders-0").locator("td").nth(5)
        expect(committed).to_have_text("5")
        apps.do(write, broker, TP("orders", 0), 4)
        expect(committed).to_have_text("9")
        expect(page.locator("#timeline .mark.assigned")).to_have_count(1)
        apps.do(must_end.set)
        expect(page.locator("#badges")).to_have_text("closed")
        watched.check()


def test_a_page_connects_again_to_a_restarted_app(watched: Watched, address: str) -> None:
    page = watched.page
    broker = broker_with(*partitions(2))
    with beside(until_cancelled, app_with(broker, ignore, web=address)):
        watched.visit()
        expect(rows(page, "partitions")).to_have_count(2)
    expect(page.locator("#connection")).to_have_text("The app has ended")
    with beside(until_cancelled, app_with(broker_with(*partitions(3)), ignore, web=address)):
        expect(page.locator("#connection")).to_have_text("Live, updated each second")
        expect(page.locator("#banner")).to_be_hidden()
        expect(rows(page, "partitions")).to_have_count(3)
    watched.check(allow_lost_connection=True)


def test_a_dead_letter_and_a_retry_are_shown(watched: Watched, address: str) -> None:
    broker, page = broker_with(*partitions(1), TP("dead", 0), records=0), watched.page
    write(broker, TP("orders", 0), 1)

    async def handle(message: Message) -> None:
        raise ValueError(HOSTILE)

    app = App("billing", broker, web=address)
    app.handler(app.topic("orders"), handle, name="bill", dead_letters=app.topic("dead"))
    with beside(until_cancelled, app):
        watched.visit()
        letter = row(page, "letters", "bill")
        expect(letter).to_have_count(1)
        for text in ("orders-0", "dead", "ValueError", HOSTILE):
            expect(letter).to_contain_text(text)
        expect(row(page, "errors", "becomes a dead letter in dead")).to_have_count(1)
        watched.check()


# The page itself


def test_hostile_names_are_only_text(watched: Watched, address: str) -> None:
    broker, page = broker_with(*partitions(1), records=1), watched.page
    app = App(HOSTILE, broker, web=address)
    app.handler(app.topic("orders"), ignore, name=HOSTILE)
    with beside(until_cancelled, app):
        watched.visit()
        expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
        expect(row(page, "handlers", "orders").locator("td").first).to_have_text(HOSTILE)
        expect(page.locator("#tree")).to_contain_text(f"Handler {HOSTILE}")
        expect(page.locator("main img, main script, header img, header script")).to_have_count(0)
        watched.check()


def test_the_policy_stops_code_that_the_page_does_not_have(watched: Watched, address: str) -> None:
    page = watched.page
    with beside(until_cancelled, app_with(broker_with(*partitions(1)), ignore, web=address)):
        watched.visit()
        for code in (
            "document.body.innerHTML = '<b>no</b>'",
            "const s = document.createElement('script'); s.src = 'http://127.0.0.1:1/x.js';"
            " document.head.append(s)",
        ):
            outcome = page.evaluate(
                "(code) => { try { return Function(code)() } catch (e) { return e.name } }", code
            )
            assert outcome in ("EvalError", "TypeError")
        assert any("violation of" in problem for problem in watched.problems)


def test_five_hundred_partitions_show_the_worst_ones_a_filter_and_all(
    watched: Watched, address: str
) -> None:
    broker, page = broker_with(*partitions(500)), watched.page
    for number in (7, 123):
        write(broker, TP("orders", number), number)
    never = trio.Event()

    async def handle(message: Message) -> None:
        await never.wait()

    with beside(until_cancelled, app_with(broker, handle, web=address, grace=1.0)):
        watched.visit()
        expect(rows(page, "partitions")).to_have_count(20)
        expect(rows(page, "partitions").nth(0)).to_contain_text("orders-123")
        expect(rows(page, "partitions").nth(1)).to_contain_text("orders-7")
        expect(page.locator("#partitions-note")).to_contain_text("of 500")
        page.get_by_label("Filter").fill("ORDERS-499")
        expect(rows(page, "partitions")).to_have_count(1)
        page.get_by_label("Filter").fill("nothing")
        expect(page.locator("#partitions")).to_contain_text("No partition matches the filter.")
        page.get_by_label("Filter").fill("")
        page.get_by_label("Show all").check()
        expect(rows(page, "partitions")).to_have_count(500)
        page.get_by_label("Filter").fill("orders-499")  # the page answers while it draws all
        expect(rows(page, "partitions")).to_have_count(1)
        watched.check()


@pytest.mark.parametrize(("width", "height"), [(360, 740), (768, 1024), (1280, 900)])
def test_the_page_fits_the_width_of_the_screen(
    watched: Watched, address: str, width: int, height: int
) -> None:
    page = watched.page
    page.set_viewport_size({"width": width, "height": height})
    broker = broker_with(*partitions(3), TP("a" * 200, 0), records=3)
    with beside(until_cancelled, app_with(broker, ignore, web=address)):
        watched.visit()
        expect(rows(page, "partitions")).to_have_count(3)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        watched.check()


def test_each_section_has_a_heading_and_each_table_column_too(
    watched: Watched, address: str
) -> None:
    page = watched.page
    broker = broker_with(*partitions(3), records=3)
    with beside(until_cancelled, app_with(broker, ignore, web=address)):
        watched.visit()
        expect(rows(page, "partitions")).to_have_count(3)
        headings = page.get_by_role("heading", level=2).all_text_contents()
        assert headings == [
            *("Lag", "Rates", "In flight", "Partitions", "Handlers"),
            *("Rebalances", "Last errors", "Last dead letters", "Tree"),
        ]
        for heading in headings:
            expect(page.get_by_role("region", name=heading, exact=True).first).to_be_visible()
        expect(page.get_by_role("columnheader", name="Lag", exact=True)).to_be_visible()
        for chart in page.locator("svg[role=img]").all():
            assert chart.get_attribute("aria-label")


def test_without_a_browser_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BrowserMissing, match="apt-get install chromium"):
        find_chromium()
