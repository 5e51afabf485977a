"""The page of an app without a browser: its files, its states, and the requests that it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import attrs
import httpx
import pytest
import trio
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.addresses import reserved_address
from tests.apps import app_on, broker_with
from tests.nurseries.clock import jumping
from transport import TP, App
from transport.anyio import open_app
from transport.web import RecentEvents, page
from transport.web.page import _FILES, Feed, page_with

ORDERS = TP("orders", 0)
PATHS = ("/", "/page.css", "/page.js", "/icon.svg", "/status.json")
HERE = ("127.0.0.1", 50000)


def client_of(asgi: Any, client: tuple[str, int] = HERE, host: str = "localhost") -> Any:
    transport = httpx.ASGITransport(asgi, client=client)
    return httpx.AsyncClient(transport=transport, base_url=f"http://{host}")


def streaming(app: App) -> Any:
    """Return the page with a stream, as the server of `web` has it."""
    return page_with(app, Feed(app), remote=False)


# The files


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
        ("/status.json", "application/json"),
    ],
)
async def test_each_answer_allows_only_files_of_the_same_server(path: str, kind: str) -> None:
    async with client_of(page(App("orders"))) as client:
        answer = await client.get(path)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, kind)
    policy = dict(
        rule.strip().split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    for kind in ("script-src", "style-src", "connect-src", "img-src"):
        assert policy[kind] == "'self'"
    for kind in ("base-uri", "form-action", "frame-ancestors", "trusted-types"):
        assert policy[kind] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_the_page_has_only_files_of_its_own_and_no_inline_code() -> None:
    html = (_FILES / "page.html").read_text()
    named = set(re.findall(r'(?:src|href)="([^"]*)"', html))
    assert named == {"icon.svg", "page.css", "page.js", "status.json"}
    assert not re.search(r"<style|<script(?! src)|\son\w+=|\sstyle=", html)
    assert not re.search(r"@import|url\(", (_FILES / "page.css").read_text())


def test_the_script_makes_no_html_of_texts() -> None:
    script = (_FILES / "page.js").read_text()
    unsafe = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\("
    assert not re.search(unsafe, script)
    assert re.findall(r"https?://[^\"]*", script) == ["http://www.w3.org/2000/svg"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_the_page_can_change_nothing(method: str) -> None:
    async with client_of(streaming(App("orders"))) as client:
        for path in (*PATHS, "/events"):
            assert (await client.request(method, path)).status_code == 405
        assert (await client.get("/../settings.py")).status_code == 404


async def test_head_answers_without_a_body() -> None:
    async with client_of(streaming(App("orders"))) as client:
        for path in (*PATHS, "/events"):
            answer = await client.head(path)
            assert (answer.status_code, answer.content) == (200, b"")


# The requests that it refuses


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:8080", "127.8.9.1", "[::1]:8080"],
)
async def test_a_name_of_this_machine_gets_an_answer(host: str) -> None:
    async with client_of(page(App("orders"))) as client:
        for path in PATHS:
            assert (await client.get(path, headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:8080",
        "10.0.0.5",
        "0.0.0.0",
        "[::1].evil.example",
        "[fe80::1]",
        "",
    ],
)
async def test_another_name_is_refused_because_a_web_site_may_have_given_it(host: str) -> None:
    async with client_of(streaming(App("orders"))) as client:
        for path in (*PATHS, "/events"):
            answer = await client.get(path, headers={"Host": host})
            assert answer.status_code == 403
            assert 'web_page="remote"' in answer.text
            assert "Content-Security-Policy" in answer.headers


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("127.0.0.1", 200),
        ("::1", 200),
        ("::ffff:127.0.0.1", 200),
        ("10.0.0.5", 403),
        ("::ffff:10.0.0.5", 403),
        ("172.17.0.1", 403),
    ],
)
async def test_only_programs_of_this_machine_get_an_answer(address: str, code: int) -> None:
    async with client_of(page(App("orders")), (address, 50000)) as client:
        for path in PATHS:
            assert (await client.get(path)).status_code == code


async def test_a_remote_page_answers_all() -> None:
    asgi = page(App("orders"), remote=True)
    async with client_of(asgi, ("10.0.0.5", 50000), "app.example") as client:
        for path in PATHS:
            assert (await client.get(path)).status_code == 200


# The state


async def test_the_state_has_the_partitions_the_tree_and_the_events() -> None:
    recent = RecentEvents()
    async with app_on(broker_with(ORDERS, records=3), monitor=recent) as app:
        messages = app.topic("orders").noack()
        await anext(messages)
        async with client_of(page(app)) as client:
            state = (await client.get("/status.json")).json()
    (partition,) = state["status"]["partitions"]
    assert (partition["topic"], partition["lag"], partition["unacked"]) == ("orders", 3, 1)
    assert state["status"]["tree"]["name"] == "App(group)"
    assert state["health"] == {"live": True, "ready": True, "reasons": []}
    assert [each["kind"] for each in state["rebalances"]] == ["assigned"]
    assert (state["has_events"], state["is_last"]) == (True, False)


async def test_an_app_that_is_not_open_has_a_state() -> None:
    async with client_of(page(App("orders"))) as client:
        state = (await client.get("/status.json")).json()
    assert state["health"]["reasons"] == ["the app is not open yet"]
    assert state["has_events"] is False


async def test_the_state_has_no_secret() -> None:
    broker = "kafka+sasl://user:hunter2@127.0.0.1:1"
    app = App("orders", broker, web="127.0.0.1:0")
    async with client_of(page(app)) as client:
        assert "hunter" not in (await client.get("/status.json")).text


def test_an_asyncio_program_mounts_the_page_in_its_own_app() -> None:
    async def main() -> None:
        app = App("orders", "memory://", monitor=RecentEvents())
        async with open_app(app) as opened:
            own = Starlette(routes=[Mount("/kafka", page(opened))])
            async with client_of(own) as client:
                assert "page.js" in (await client.get("/kafka/")).text
                assert (await client.get("/kafka")).headers["Location"].endswith("/kafka/")
                assert (await client.get("/kafka/status.json")).json()["has_events"] is True
                # A stream would hold up the end of a server that waits for its requests.
                assert (await client.get("/kafka/events")).status_code == 404

    asyncio.run(main())


# The stream of states


@attrs.define
class Reader:
    """A program that reads a stream: what it has got, and its end of the connection."""

    got: Any
    gone: Any
    starts: list[Any]

    async def state(self) -> Any:
        body: bytes = await self.got.receive()
        assert body.startswith(b"data: ")
        assert body.endswith(b"\n\n")
        return json.loads(body[len(b"data: ") :])

    async def rest(self) -> list[Any]:
        """Return the states until the stream ends."""
        return [json.loads(body[len(b"data: ") :]) async for body in self.got]


@asynccontextmanager
async def reader_of(feed: Feed) -> AsyncIterator[Reader]:
    """Read a stream in the block, at the end of which the reader disconnects."""
    inlet, outlet = anyio.create_memory_object_stream[bytes](math.inf)
    reader = Reader(outlet, anyio.Event(), [])

    async def receive() -> Any:
        await reader.gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            reader.starts.append(message)
        elif message["body"]:
            await inlet.send(message["body"])

    async def read() -> None:
        with inlet:
            await feed({"type": "http", "method": "GET", "headers": []}, receive, send)

    with outlet:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            yield reader
            reader.gone.set()


@jumping
async def test_a_reader_gets_a_state_at_once_and_then_one_each_second() -> None:
    async with app_on(broker_with(ORDERS)) as app, reader_of(Feed(app)) as reader:
        began = trio.current_time()
        times = []
        for _ in range(4):
            await reader.state()
            times.append(round(trio.current_time() - began))
    assert times == [0, 1, 2, 3]
    assert reader.starts[0]["headers"] == [(b"content-type", b"text/event-stream; charset=utf-8")]


@jumping
async def test_the_stream_ends_with_a_last_state_when_the_app_has_ended() -> None:
    async with trio.open_nursery() as nursery:
        app = app_on(broker_with(ORDERS))
        async with app:
            reader = await nursery.start(read_all, Feed(app))
            await trio.sleep(2.5)
        await trio.sleep(2.5)
    assert [state["is_last"] for state in reader[-2:]] == [False, True]
    assert reader[-1]["health"]["live"] is False


async def read_all(
    feed: Feed, *, task_status: trio.TaskStatus[list[Any]] = trio.TASK_STATUS_IGNORED
) -> None:
    states: list[Any] = []
    task_status.started(states)
    async with reader_of(feed) as reader:
        states += await reader.rest()


@jumping
async def test_end_sends_the_last_state_at_once_to_all_readers() -> None:
    async with app_on(broker_with(ORDERS)) as app:
        feed = Feed(app)
        async with reader_of(feed) as one, reader_of(feed) as two:
            for reader in (one, two):
                await reader.state()
            began = trio.current_time()
            await feed.end()
            assert trio.current_time() == began
            for reader in (one, two):
                assert [state["is_last"] for state in await reader.rest()] == [True]


@jumping
async def test_end_returns_at_once_without_readers() -> None:
    async with app_on(broker_with(ORDERS)) as app:
        feed = Feed(app)
        async with reader_of(feed) as reader:
            await reader.state()
        began = trio.current_time()
        await feed.end()
        assert trio.current_time() == began


class Counted(App):
    """An app that counts how often it computes its status."""

    calls = 0

    def status(self) -> Any:
        self.calls += 1
        return super().status()


@jumping
async def test_each_state_costs_one_status() -> None:
    async with app_on(broker_with(ORDERS), kind=Counted) as app:
        async with reader_of(Feed(app)) as reader:
            for _ in range(3):
                await reader.state()
        assert app.calls == 3


@jumping
async def test_a_reader_that_has_gone_costs_nothing_more() -> None:
    async with app_on(broker_with(ORDERS), kind=Counted) as app:
        async with reader_of(Feed(app)) as reader:
            await reader.state()
        before = app.calls
        await trio.sleep(60)
        assert app.calls == before


@jumping
async def test_the_seventeenth_reader_is_refused() -> None:
    async with app_on(broker_with(ORDERS)) as app, trio.open_nursery() as nursery:
        feed = Feed(app)
        for _ in range(16):
            await nursery.start(read_all, feed)
        await trio.testing.wait_all_tasks_blocked(0.1)
        async with reader_of(feed) as reader:
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert [start["status"] for start in reader.starts] == [503]
        nursery.cancel_scope.cancel()


# The server in the tree


@pytest.fixture
def address() -> Iterator[str]:
    """Return an address at which no server listens."""
    with reserved_address() as address:
        yield address


async def test_the_app_serves_the_page_beside_the_probes(address: str) -> None:
    async with (
        app_on(broker_with(ORDERS), web=address),
        httpx.AsyncClient(base_url=f"http://{address}") as client,
    ):
        assert "<title>" in (await client.get("/")).text
        assert (await client.get("/livez")).json()["live"] is True
        assert (await client.get("/", headers={"Host": "evil.example"})).status_code == 403
        assert (await client.get("/readyz", headers={"Host": "evil.example"})).status_code == 200


async def test_a_remote_page_is_a_setting(address: str) -> None:
    async with (
        app_on(broker_with(ORDERS), web=address, web_page="remote"),
        httpx.AsyncClient(base_url=f"http://{address}") as client,
    ):
        assert (await client.get("/", headers={"Host": "app.example"})).status_code == 200


async def test_without_the_page_only_the_probes_are_served(address: str) -> None:
    async with (
        app_on(broker_with(ORDERS), web=address, web_page="off"),
        httpx.AsyncClient(base_url=f"http://{address}") as client,
    ):
        for path in PATHS:
            assert (await client.get(path)).status_code == 404
        assert (await client.get("/livez")).status_code == 200


async def test_an_open_page_gets_the_error_that_has_ended_the_app(address: str) -> None:
    app = app_on(broker_with(ORDERS, records=1), web=address)
    reading = trio.Event()

    async def handle(message: Any) -> None:
        await reading.wait()
        raise ValueError("no such customer")

    app.handler(app.topic("orders"), handle)
    states: list[Any] = []

    async def read(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", "/events", timeout=30) as stream:
            async for line in stream.aiter_lines():
                if line:
                    states.append(json.loads(line.removeprefix("data: ")))
                    reading.set()

    with pytest.RaisesGroup(ValueError, flatten_subgroups=True):
        async with (
            httpx.AsyncClient(base_url=f"http://{address}") as client,
            trio.open_nursery() as nursery,
            app,
        ):
            nursery.start_soon(shielded, read, client)
            await trio.sleep(30)
    last = states[-1]
    assert last["is_last"] is True
    assert last["status"]["has_crashed"] is True
    assert [error["text"] for error in last["errors"]] == ["no such customer"]
    assert not any(state["is_last"] for state in states[:-1])


@pytest.mark.parametrize("error", [ValueError("of the block"), None])
@jumping
async def test_the_last_state_has_a_crash_if_the_block_has_failed(error: Exception | None) -> None:
    recent = RecentEvents()
    app = app_on(broker_with(ORDERS), monitor=recent)
    with contextlib.suppress(ExceptionGroup):
        async with app:
            if error is not None:
                raise error
    async with client_of(page(app)) as client:
        state = (await client.get("/status.json")).json()
    assert state["has_crashed"] is (error is not None)
    assert state["is_last"] is True


async def shielded(fn: Any, *args: Any) -> None:
    with trio.CancelScope(shield=True):
        await fn(*args)


async def test_a_page_that_does_not_read_does_not_hold_up_the_end(address: str) -> None:
    host, _, port = address.rpartition(":")
    async with App("orders", web=address):
        stream = await trio.open_tcp_stream(host, int(port))
        await stream.send_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await trio.sleep(0.5)
        began = trio.current_time()
    assert trio.current_time() - began < 5
    await stream.aclose()
