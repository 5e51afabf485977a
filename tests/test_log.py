"""The log lines: `transport/log.py`, the table in docs/logging.md, and lines of an app."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import structlog
import trio

from tests.apps import app_on, broker_with, take
from tests.nurseries.clock import jumping
from transport import TP
from transport.drivers.secret import Url
from transport.log import Fields, Log

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/logging.md").read_text()
ORDERS = [TP("orders", number) for number in range(3)]
METHODS = {"debug", "info", "warning", "error", "critical", "failure", "often", "_announce"}
# The logger of each part of the library.
LOGGERS = {
    "drivers/kafka": "transport.drivers.kafka",
    "handling": "transport.handler",
    "producing": "transport.producer",
    "committing": "transport.consumer",
    "consuming": "transport.consumer",
    "monitoring/tracing": "transport.tracing",
    "web": "transport.web",
    "": "transport.app",
}


def calls_of_log() -> Iterator[tuple[str, ast.Call]]:
    """Yield the calls in the library that write a line, each with the path of its module."""
    for path in sorted((ROOT / "transport").rglob("*.py")):
        if path.name == "log.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = ast.unparse(node.func.value).split(".")[-1]
            if node.func.attr in METHODS and owner in ("_log", "log", "self"):
                yield path.relative_to(ROOT / "transport").as_posix(), node


def events_in_code() -> set[tuple[str, str]]:
    """Return the logger and the name of each event."""
    found = set()
    for path, call in calls_of_log():
        logger = next(name for part, name in LOGGERS.items() if path.startswith(part))
        for argument in call.args[:2]:
            value = argument.value if isinstance(argument, ast.Constant) else None
            if isinstance(value, str) and value.isidentifier():
                found.add((logger, value))
                break
    return found


def rows_of_page() -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in PAGE.splitlines()
        if line.startswith("| `transport.")
    ]


def test_page_lists_each_event_and_no_other() -> None:
    listed = {(row[0].strip("`"), re.findall(r"`(\w+)`", row[1])[0]) for row in rows_of_page()}
    assert listed == events_in_code()


def test_page_lists_each_field_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (?:str|int|float) \|", PAGE, re.MULTILINE)
    assert rows == ["event_name", "app", *sorted(Fields.__annotations__)]
    for row in rows_of_page():
        named = set(re.findall(r"`(\w+)`", row[-1])) if len(row) > 3 else set()
        assert named <= {*rows, "error"}, row


def test_no_field_has_the_name_of_an_attribute_that_records_or_structlog_use() -> None:
    record = logging.LogRecord("name", logging.INFO, "path", 1, "text", (), None)
    taken = {*vars(record), "message", "asctime", "taskName", "event", "level", "timestamp"}
    assert not taken & {"event_name", "app", *get_type_hints(Fields)}
    assert get_args(Fields) == ()


def test_a_line_is_one_line_whatever_its_arguments_are(log_records: list[Any]) -> None:
    error = ValueError("first\nsecond" + "x" * 10_000)
    Log("transport.app", "an\napp").warning("lost", "failed: %s", error, error=error)
    [record] = log_records
    assert record.getMessage().startswith("an\\napp: failed: first\\nsecond")
    assert len(record.getMessage()) < 2200
    assert "\n" not in record.error
    assert len(record.error) < 300


def test_a_line_never_shows_the_password_of_a_url(log_records: list[Any]) -> None:
    Log("transport.app", "app").info("connected", "to %s", Url("kafka+sasl://me:secret@host:1"))
    assert log_records[0].getMessage() == "app: to kafka+sasl://me:***@host:1"


def test_a_line_names_the_place_that_wrote_it(log_records: list[Any]) -> None:
    log = Log("transport.app", "app")
    log.info("connected", "text")
    log.often(logging.INFO, "skipped", "text")
    assert {Path(record.pathname) for record in log_records} == {Path(__file__)}


def test_a_line_below_the_level_costs_no_formatting(caplog: pytest.LogCaptureFixture) -> None:
    class Costly:
        def __str__(self) -> str:
            raise AssertionError

    caplog.set_level(logging.WARNING, "transport")
    Log("transport.app", "app").info("connected", "%s", Costly())


def test_an_event_of_many_messages_is_one_line_in_ten_seconds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "transport")
    now = 0.0
    log = Log("transport.handler", "app", lambda: now)
    for second in range(25):
        now = float(second)
        log.often(logging.WARNING, "skipped", "skips %d", second)
    log.often(logging.WARNING, "dead_letter", "another event")
    lines: list[Any] = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert [(each.getMessage(), each.count) for each in lines] == [
        ("app: skips 0", 1),
        ("app: skips 10 (9 more since the last such line)", 10),
        ("app: skips 20 (9 more since the last such line)", 10),
        ("app: another event", 1),
    ]
    assert len(caplog.records) == 26, "at DEBUG each event is a line"


def test_structlog_gets_the_fields_as_in_the_example_of_the_page() -> None:
    """As docs/logging.md says. The text of the page runs as a program of its own."""
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder()],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
    )
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    logger = logging.getLogger("transport.consumer")
    logger.addHandler(handler)
    try:
        Log("transport.consumer", "kitchen").warning(
            "lost", "lost %s", "orders", partitions=ORDERS, error=ValueError("a\nb")
        )
    finally:
        logger.removeHandler(handler)
    assert json.loads(out.getvalue()) == {
        "app": "kitchen",
        "error": "ValueError('a\\nb')",
        "event": "kitchen: lost orders",
        "event_name": "lost",
        "level": "warning",
        "partitions": "orders[0-2]",
    }


# Lines of an app


@jumping
async def test_app_reports_its_life_in_a_few_lines(log_records: list[Any]) -> None:
    broker = broker_with(*ORDERS, records=100)
    async with app_on(broker, "kitchen") as app:
        for message in await take(app.topic("orders").noack(), 300):
            message.ack()
        await trio.sleep(100)
    assert [record.event_name for record in log_records] == ["connected", "joined", "closed"]
    connected, joined, closed = log_records
    assert {record.app for record in log_records} == {"kitchen"}
    assert connected.client.startswith("memory=")
    assert connected.broker
    assert (joined.group, joined.partitions) == ("kitchen", "orders[0-2]")
    assert joined.generation >= 1
    assert joined.member
    assert closed.seconds >= 0


@jumping
async def test_member_reports_what_it_releases_and_gets(log_records: list[Any]) -> None:
    broker = broker_with(*ORDERS)
    async with app_on(broker, "kitchen") as first:
        first.topic("orders").listen()
        await trio.sleep(10)
        async with app_on(broker, "kitchen") as second:
            second.topic("orders").listen()
            await trio.sleep(10)
        await trio.sleep(60)
    moved = [each for each in log_records if each.event_name in ("revoked", "assigned")]
    assert [each.event_name for each in moved][:2] == ["revoked", "assigned"]
    assert moved[0].partitions == moved[-1].partitions
    assert all(each.generation >= 1 for each in moved)


@jumping
async def test_shutdown_reports_unacked_messages_in_one_line(log_records: list[Any]) -> None:
    async with app_on(broker_with(*ORDERS, records=5), "kitchen") as app:
        await take(app.topic("orders").noack(), 7)
    [unacked] = [record for record in log_records if record.levelno >= logging.WARNING]
    assert unacked.event_name == "shut_down_unacked"
    assert unacked.count == 7
    assert unacked.partitions in ("orders[0-1]", "orders[0-2]")
    assert log_records[-1].event_name == "closed"


@jumping
async def test_debug_reports_each_commit_and_rebalance(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "transport")
    async with app_on(broker_with(ORDERS[0], records=2), "kitchen") as app:
        messages = aiter(app.topic("orders"))
        for _ in range(2):
            await anext(messages)
            await trio.sleep(5)
    debug: list[Any] = [each for each in caplog.records if each.levelno == logging.DEBUG]
    commits = [each for each in debug if each.event_name == "committed"]
    assert commits[0].getMessage() == "kitchen: committed orders-0 at 0"
    assert commits[-1].partitions == "orders-0"
    served = [each for each in debug if each.event_name == "rebalance_served"]
    assert served[0].partitions == "orders-0"
