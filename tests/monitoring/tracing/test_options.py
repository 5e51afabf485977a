"""The arguments of `Tracing`, and an app without it or without its extra."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from trio.testing import MockClock

from tests.apps import app_on, broker_with
from tests.monitoring.tracing.recording import ORDERS, Recorder, handled, ignore
from transport import App
from transport.monitoring.spans.attributes import SpanAttributes
from transport.monitoring.tracing import Tracing


async def test_keys_that_are_short_texts_are_shown_on_request(
    recorder: Recorder, autojump_clock: MockClock
) -> None:
    broker = broker_with(ORDERS)
    async with app_on(broker, tracing=recorder.tracing(keys=True)) as app:
        app.handler(app.topic("orders"), ignore)
        for key in (b"Zo\xc3\xab", b"\xff", b"a\nb", b"k" * 128, b"k" * 129, None):
            await app.topic("orders").send_and_wait(key=key, value=b"value")
        await app.topic("orders").send_and_wait(key=b"gone")
        await handled(app, 7)
    for name in ("send orders", "process orders"):
        spans = recorder.spans(name)
        keys = [span.attributes.get("messaging.kafka.message.key") for span in spans]
        assert keys == ["Zoë", None, None, "k" * 128, None, None, "gone"]
        stones = [span.attributes.get("messaging.kafka.message.tombstone") for span in spans]
        assert stones == [None] * 6 + [True]


def test_wrong_arguments_are_refused() -> None:
    for wrong in ({"tracer_provider": 5}, {"propagator": 5}, {"new_trace": 1}, {"keys": 1}):
        [name] = wrong
        with pytest.raises(TypeError, match=f"{name} must be"):
            Tracing(**wrong)  # type: ignore[arg-type]


def test_a_tracing_belongs_to_one_app() -> None:
    tracing = Tracing()
    App("one", "memory://", tracing=tracing)
    with pytest.raises(ValueError, match="belongs to the app 'one'"):
        App("two", "memory://", tracing=tracing)


@pytest.mark.parametrize(
    ("broker", "server"),
    [
        ("kafka://broker.example:9092", {"server.address": "broker.example", "server.port": 9092}),
        ("kafka+sasl://me:p%40ss@[::1]:9092", {"server.address": "::1", "server.port": 9092}),
        ("kafka://one:9092,two:9092", {}),
        (["kafka://one:9092", "kafka://two:9092"], {}),
        ("memory://", {}),
    ],
)
def test_the_server_is_named_if_there_is_only_one(broker: Any, server: dict[str, Any]) -> None:
    attributes = SpanAttributes(keys=False)
    attributes.open(App("one", broker))
    _, named = attributes.of_sending("orders")
    assert {name: value for name, value in named.items() if name.startswith("server")} == server


def test_without_tracing_nothing_of_opentelemetry_is_imported() -> None:
    program = (
        "import sys, trio, transport.anyio, transport.monitoring.monitor\n"
        "from transport import App, Monitor\n"
        "app = App('one', 'memory://', monitor=Monitor())\n"
        "@app.handler(app.topic('orders'))\n"
        "async def note(message): app.stop()\n"
        "async def main():\n"
        "    async with app:\n"
        "        await app.producer.create_topic('orders', 1)\n"
        "        await app.topic('orders').send(value=b'value')\n"
        "        await app.wait_stopped()\n"
        "trio.run(main)\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout.strip() == "[]", ended.stderr


def test_without_the_extra_the_error_names_it() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "try: import transport.monitoring.tracing\n"
        "except ImportError as error: print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout.strip() == (
        "Tracing needs the extra opentelemetry: pip install 'kafka-nursery[opentelemetry]'"
    )
