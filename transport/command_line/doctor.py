"""The verb `doctor`: check the way to a broker, and what is there, and say what to do."""

from __future__ import annotations

import contextlib
import platform
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from typing import Annotated

import trio
from cyclopts import Parameter

from transport.command_line.checks import (
    clock_found,
    group_found,
    node_found,
    topic_found,
    version_found,
)
from transport.command_line.connection import Connection
from transport.command_line.finding import Finding, Level, ok, warning, wrong
from transport.command_line.group_lag import lag_of
from transport.command_line.output import Json, print_json, print_line
from transport.drivers.admin import Admin, Node
from transport.errors import AuthorizationFailed, BrokerUnavailable, TransportError, UnknownTopic

_CONNECT_TIMEOUT = 5.0  # seconds
_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.WRONG: "bold red"}


async def doctor(
    *,
    topic: Annotated[tuple[str, ...], Parameter(name=("--topic", "-t"), negative="")] = (),
    group: Annotated[tuple[str, ...], Parameter(name=("--group", "-g"), negative="")] = (),
    json: Json = False,
    connection: Connection = Connection(),
) -> int:
    """Check the connection, the brokers, topics and groups. Exit code 1 if something is wrong.

    Example: kafka-nursery doctor --topic orders --group billing

    Parameters
    ----------
    topic:
        A topic to check. May be repeated.
    group:
        A consumer group to check. May be repeated.
    """
    report = _Report(is_json=json)
    _check_library(report, connection)
    try:
        async with connection.admin() as admin:
            await _check_brokers(report, admin)
            for name in topic:
                await _check_topic(report, admin, name)
            for name in group:
                await _check_group(report, admin, name)
    except (BrokerUnavailable, AuthorizationFailed) as error:
        report.add(_unreached(error))
    return report.end()


class _Report:
    """The findings, which are printed as they come, or as one JSON array at the end."""

    def __init__(self, *, is_json: bool) -> None:
        self._is_json = is_json
        self._findings: list[Finding] = []

    def add(self, finding: Finding) -> None:
        self._findings.append(finding)
        if self._is_json:
            return
        style = _STYLES[finding.level]
        print_line((f"{finding.level.value:<9}", style), (f"{finding.subject}: {finding.text}", ""))
        if finding.advice:
            print_line((f"{'':9}-> {finding.advice}", ""))
        sys.stdout.flush()

    def add_all(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self.add(finding)

    def end(self) -> int:
        """Return the exit code."""
        if self._is_json:
            print_json(self._findings)
        return int(any(each.level is Level.WRONG for each in self._findings))


def _check_library(report: _Report, connection: Connection) -> None:
    python = platform.python_version()
    client = connection.driver().version
    report.add(ok("library", f"kafka-nursery {version('kafka-nursery')}, Python {python}"))
    if "records: pure" in client:
        report.add(
            warning(
                "client",
                f"{client}: records are decoded by Python code, which is slower",
                "install aiokafka, whose compiled code the library uses: pip install aiokafka",
            )
        )
    else:
        report.add(ok("client", client))


async def _check_brokers(report: _Report, admin: Admin) -> None:
    before = time.time()
    cluster = await admin.cluster()
    after = time.time()
    nodes = len(cluster.nodes)
    if any(node.port for node in cluster.nodes):
        report.add(version_found(cluster))
    report.add(ok("cluster", f"it answers, and has {nodes} broker{'s' if nodes > 1 else ''}"))
    report.add(clock_found(cluster, before, after))
    for node in cluster.nodes:
        if node.port:  # a broker in memory has neither port nor version
            report.add(node_found(node, await _failure_of(node)))


@trio.lowlevel.enable_ki_protection
async def _failure_of(node: Node) -> str | None:
    """Return why the address of a broker cannot be reached; None: it can."""
    try:
        with trio.fail_after(_CONNECT_TIMEOUT):
            stream = await trio.open_tcp_stream(node.host, node.port)
            await stream.aclose()
    except trio.TooSlowError:
        return f"no answer within {_CONNECT_TIMEOUT:g} s"
    except OSError as error:
        return str(error)
    return None


async def _check_topic(report: _Report, admin: Admin, name: str) -> None:
    try:
        topic = await admin.topic(name)
    except UnknownTopic:
        advice = f"create it: kafka-nursery topics create {name} --partitions 12"
        report.add(wrong(f"topic {name}", "this client sees no such topic", advice))
        return
    configs: dict[str, str | None] = {}
    with contextlib.suppress(AuthorizationFailed):
        configs = {each.name: each.value for each in await admin.configs(name)}
    report.add_all(topic_found(topic, configs))


async def _check_group(report: _Report, admin: Admin, name: str) -> None:
    try:
        group = await admin.group(name)
        behind = await lag_of(admin, name) if group.members or await admin.committed(name) else None
    except AuthorizationFailed:
        advice = "add it with kafka-acls.sh --add --operation Read --group"
        report.add(wrong(f"group {name}", "this client has no right to read it", advice))
        return
    report.add_all(group_found(group, behind))


def _unreached(error: TransportError) -> Finding:
    if isinstance(error, AuthorizationFailed):
        return wrong(
            "cluster",
            str(error),
            "check user, password, sasl_mechanism and certificates, and the rights of the user",
        )
    return wrong(
        "cluster",
        str(error),
        "check that the broker runs, its host, port and scheme, and the firewall between",
    )
