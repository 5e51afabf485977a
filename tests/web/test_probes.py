"""The probes and the metrics of an app over HTTP."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import trio
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.addresses import reserved_address
from tests.apps import app_on, broker_with
from transport import TP, App, Health
from transport.anyio import open_app
from transport.monitoring.prometheus import PrometheusSensor
from transport.web import probes

ORDERS = TP("orders", 0)


def client_of(asgi: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(asgi), base_url="http://app")


class Answering:
    """An app with a fixed health."""

    def __init__(self, *, live: bool, ready: bool, reasons: tuple[str, ...]) -> None:
        self._health = Health(live=live, ready=ready, reasons=reasons)

    def health(self) -> Health:
        return self._health


@pytest.mark.parametrize(
    ("live", "ready", "codes"),
    [(True, True, (200, 200)), (True, False, (200, 503)), (False, False, (503, 503))],
)
async def test_a_probe_answers_with_the_health(
    live: bool, ready: bool, codes: tuple[int, int]
) -> None:
    reasons = () if ready else ("why",)
    async with client_of(probes(Answering(live=live, ready=ready, reasons=reasons))) as client:
        answers = [await client.get(path) for path in ("/livez", "/readyz")]
    assert tuple(answer.status_code for answer in answers) == codes
    for answer in answers:
        assert answer.json() == {"live": live, "ready": ready, "reasons": list(reasons)}
        assert answer.headers["Cache-Control"] == "no-store"


async def test_the_metrics_are_those_of_the_registry() -> None:
    registry = CollectorRegistry()
    async with app_on(broker_with(ORDERS), monitor=PrometheusSensor(registry)) as app:
        await app.topic("orders").send_and_wait(value=b"value")
        async with client_of(probes(app, registry)) as client:
            answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert "kafka_nursery_sent_messages" in names


async def test_without_the_extra_the_metrics_are_not_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("transport.web.asgi.find_spec", lambda name: None)
    async with client_of(probes(App("orders"))) as client:
        answer = await client.get("/metrics")
        assert answer.status_code == 404
        assert "pip install 'kafka-nursery[prometheus]'" in answer.text
        assert (await client.get("/livez")).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_nothing_can_be_changed(method: str) -> None:
    async with client_of(probes(App("orders"))) as client:
        for path in ("/livez", "/readyz", "/metrics"):
            assert (await client.request(method, path)).status_code == 405
        assert (await client.get("/")).status_code == 404


def test_an_asyncio_program_mounts_them_in_its_own_app() -> None:
    async def main() -> None:
        async with open_app(App("orders", "memory://")) as app:
            own = Starlette(routes=[Mount("/kafka", probes(app))])
            async with client_of(own) as client:
                assert (await client.get("/kafka/readyz")).json()["ready"] is True

    asyncio.run(main())


# The server in the tree


@pytest.fixture
def address() -> Iterator[str]:
    """Return an address at which no server listens."""
    with reserved_address() as address:
        yield address


async def test_the_app_serves_them_from_its_start_to_its_end(address: str) -> None:
    async with httpx.AsyncClient(base_url=f"http://{address}") as client:
        async with app_on(broker_with(ORDERS), web=address) as app:
            assert (await client.get("/readyz")).json()["ready"] is True
            assert app.tree().children[0].name == "WebServer"
            app.stop()
            assert (await client.get("/livez")).status_code == 200
        with pytest.raises(httpx.ConnectError):
            await client.get("/livez")


async def test_the_log_has_the_address(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="transport.web")
    async with App("orders", web="127.0.0.1:0"):
        pass
    (line,) = [each.getMessage() for each in caplog.records if "/livez" in each.getMessage()]
    served = "the page, /livez, /readyz and /metrics"
    assert line.startswith(f"orders: serves {served} at http://127.0.0.1:")
    assert not line.endswith(":0")


@pytest.mark.parametrize(
    ("chosen", "level"), [(logging.NOTSET, logging.WARNING), (logging.DEBUG, logging.DEBUG)]
)
async def test_the_server_logs_only_warnings_unless_the_program_sets_a_level(
    chosen: int, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(chosen, logger="transport.web.hypercorn")
    async with App("orders", web="127.0.0.1:0"):
        assert logging.getLogger("transport.web.hypercorn").level == level


async def test_an_address_in_use_is_an_error_that_names_it(address: str) -> None:
    async with App("one", web=address):
        with pytest.RaisesGroup(
            pytest.RaisesExc(OSError, match=f"web: no server can listen at {address}: .*in use"),
            flatten_subgroups=True,
        ):
            async with App("two", web=address):
                pass


async def test_a_request_that_never_ends_does_not_hold_up_the_end(address: str) -> None:
    host, _, port = address.rpartition(":")
    async with App("orders", web=address):
        stream = await trio.open_tcp_stream(host, int(port))
        await stream.send_all(b"GET /livez HTTP/1.1\r\n")
        began = trio.current_time()
    assert trio.current_time() - began < 5
    await stream.aclose()


def test_without_the_extra_the_error_names_it() -> None:
    program = (
        "import sys, trio; sys.modules['starlette'] = None\n"
        "from transport import App\n"
        "async def main():\n"
        "    async with App('orders', web='127.0.0.1:0'): pass\n"
        "try: trio.run(main)\n"
        "except* ImportError as group: print(repr(group))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "needs the extra web: pip install 'kafka-nursery[web]'" in ended.stdout, ended.stderr
