"""The verb `doctor`: what it finds on both brokers, and the rules of each check."""

from __future__ import annotations

from typing import Any

import pytest

from tests.command_line.conftest import Result, Run
from tests.command_line.messages import numbered, written
from tests.lanes import Place
from transport.__main__ import main
from transport.command_line.checks import clock_found, group_found, topic_found, version_found
from transport.command_line.finding import Finding, Level
from transport.command_line.group_lag import GroupLag, PartitionLag
from transport.drivers.admin import (
    Cluster,
    GroupDescription,
    GroupMember,
    Partition,
    TopicDescription,
)
from transport.types import TP


def about(result: Result, subject: str) -> list[dict[str, Any]]:
    return [each for each in result.json if each["subject"] == subject]


async def test_a_good_broker_has_exit_code_0(run: Run, place: Place) -> None:
    await written(place, place.name, *numbered(2))
    good = await run("doctor", "--topic", place.name, "--json")
    assert good.code == 0
    assert {each["level"] for each in good.json} <= {"ok", "warning"}
    assert about(good, f"topic {place.name}")
    # A broker in memory has no version of Kafka.
    assert len(about(good, "version")) == place.url.startswith("kafka")
    text = await run("doctor")
    assert text.lines[0].startswith("ok")


async def test_a_topic_that_does_not_exist_is_wrong_with_advice(run: Run) -> None:
    bad = await run("doctor", "--topic", "absent-topic", "--json")
    assert bad.code == 1
    (finding,) = about(bad, "topic absent-topic")
    assert finding["level"] == "wrong"
    assert "topics create absent-topic" in finding["advice"]
    assert "-> create it" in (await run("doctor", "--topic", "absent-topic")).out


async def test_a_group_that_does_not_exist_is_a_warning(run: Run) -> None:
    bad = await run("doctor", "--group", "absent-group", "--json")
    assert bad.code == 0
    assert about(bad, "group absent-group")[0]["level"] == "warning"


def test_a_broker_that_does_not_answer_is_wrong_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main(["doctor", "--broker", "kafka://127.0.0.1:1", "--timeout", "0.5", "--json"])
    away = Result(code, *capsys.readouterr())
    assert (away.code, away.err) == (1, "")
    (finding,) = about(away, "cluster")
    assert "127.0.0.1:1" in finding["text"]
    assert finding["advice"]


# The rules


def levels(findings: Any) -> list[str]:
    return [each.level.value for each in findings]


def topic(*partitions: Partition, rights: frozenset[str] | None = None) -> TopicDescription:
    return TopicDescription("t", False, partitions, rights)


@pytest.mark.parametrize(
    ("partition", "configs", "expected"),
    [
        (Partition(0, 1, (1, 2, 3), (1, 2, 3)), {}, []),
        (Partition(0, None, (1, 2), (1, 2)), {}, ["wrong"]),
        (Partition(0, 1, (1, 2), (1,)), {}, ["warning"]),
        (Partition(0, 1, (1,), (1,)), {}, ["warning"]),
        (Partition(0, 1, (1, 2), (1, 2)), {"min.insync.replicas": "3"}, ["wrong"]),
        (Partition(0, 1, (1, 2), (1, 2)), {"min.insync.replicas": "2"}, []),
    ],
)
def test_partitions_without_leader_or_copies_are_found(
    partition: Partition, configs: dict[str, str | None], expected: list[str]
) -> None:
    assert levels(topic_found(topic(partition), configs))[1:] == expected


def test_a_missing_right_is_named() -> None:
    replicated = Partition(0, 1, (1, 2), (1, 2))
    findings = list(topic_found(topic(replicated, rights=frozenset({"READ"})), {}))
    assert "WRITE" in findings[-1].text
    assert findings[-1].level is Level.WARNING


@pytest.mark.parametrize(
    ("version", "expected"), [("4.3", Level.OK), ("3.9", Level.OK), ("2.8", Level.WARNING)]
)
def test_a_broker_older_than_the_tested_ones_is_a_warning(version: str, expected: Level) -> None:
    assert version_found(Cluster(None, version, None, ())).level is expected


def clocks(clock: float | None) -> Finding:
    return clock_found(Cluster(None, "4.3", None, (), clock=clock), 1000.0, 1002.0)


def test_a_skew_counts_only_beyond_the_time_of_the_answer() -> None:
    assert clocks(1001.0).level is Level.OK
    assert clocks(999.5).level is Level.OK
    assert clocks(None).level is Level.OK
    behind, ahead = clocks(990.0), clocks(1100.0)
    assert (behind.level, "10.0 s behind ours" in behind.text) == (Level.WARNING, True)
    assert (ahead.level, "98.0 s ahead of ours" in ahead.text) == (Level.WRONG, True)


def test_a_partition_with_a_lag_that_no_member_reads_is_wrong() -> None:
    member = GroupMember("m", "c", "h", None, frozenset({TP("t", 0)}))
    group = GroupDescription("g", "Stable", "", (member,))
    read, idle = (
        PartitionLag(TP("t", 0), 1, 5, "m", "h"),
        PartitionLag(TP("t", 1), 1, 5, None, None),
    )
    assert "wrong" not in levels(group_found(group, GroupLag("g", "Stable", (read,))))
    assert "wrong" in levels(group_found(group, GroupLag("g", "Stable", (read, idle))))
