"""The end is reached in time: with a dead broker, and with handlers that are stuck."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kafka.cluster import Broker, tool
from tests.kafka.member import INTERRUPTED
from tests.kafka.members import Crew, send

pytestmark = pytest.mark.kafka

GRACE = 5.0
# What a process takes to end once its app has; and then some, on a busy machine.
EXIT = 2.0


@pytest.mark.parametrize("is_killed", [False, True], ids=["frozen", "killed"])
def test_the_broker_is_dead(kafka_broker: Broker, tmp_path: Path, is_killed: bool) -> None:
    """Three that consume are told to end while nothing answers: one of them twice."""
    topic = "dead"
    send(kafka_broker.bootstrap, topic, {p: [b"x"] * 20_000 for p in range(4)})
    with contextlib.closing(Crew(tmp_path, kafka_broker.bootstrap)) as crew:
        members = [
            crew.start(
                f"group-{number}", topic, batch=10, pause=0.02, grace=GRACE, stop_grace=GRACE
            )
            for number in range(3)
        ]
        for member in members:
            member.until(lambda diary: len(diary.acked) > 500, "acking")
        kafka_broker.kill() if is_killed else kafka_broker.freeze()
        try:
            began = time.monotonic()
            terminated, interrupted, twice = members
            for member in (interrupted, twice):
                member.process.send_signal(signal.SIGINT)
            time.sleep(0.5)  # into the orderly end, which is seconds long now
            twice.process.send_signal(signal.SIGINT)
            terminated.process.send_signal(signal.SIGTERM)
            for member in members:
                code = member.process.wait(began + 0.5 + GRACE + EXIT - time.monotonic())
                assert code == 1, f"it hid that the last commit failed: {member.errors}"
                assert "CommitUnknown" in member.errors
        finally:
            if not is_killed:
                kafka_broker.thaw()


@pytest.mark.parametrize("rebalancing", [False, True], ids=["alone", "asked for its partition"])
def test_a_handler_is_stuck(crew: Crew, kafka_topic: Callable[..., str], rebalancing: bool) -> None:
    """It is cancelled past the program's own grace, and named; what it had is delivered to the next
    one. A second SIGTERM changes nothing."""
    topic = kafka_topic(1)
    send(crew.bootstrap, topic, {0: [b"x", b"wait 1000 s", b"x"]})
    # Whoever joins makes it let go of all that it has, and waits for that.
    settings: dict[str, Any] = {"assignment": "eager", "heartbeat_interval": 0.5, "grace": GRACE}
    stuck = crew.start(topic, topic, tasks=1, stop_grace=1.0, **settings)
    stuck.until(lambda diary: len(diary.begun) == 2, "stuck")
    if rebalancing:
        heir = crew.start(topic, topic, tasks=2, stop_grace=1.0, **settings)
        heir.until(lambda _: is_rebalancing(crew.bootstrap, topic), "waiting for the other one")

    stuck.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)  # or the system may take the two for one
    took = stuck.end(signal.SIGTERM, code=0, within=1.0 + GRACE + EXIT)

    assert took > 0.5  # the rest of the program's own grace
    assert f"{topic}-0: 1 delivered message was not acked at shutdown" in stuck.errors
    if not rebalancing:
        heir = crew.start(topic, topic, tasks=2, stop_grace=1.0, **settings)
    heir.until(lambda diary: len(diary.acked) == 1, "acking what comes after it")
    assert [place for place, _ in heir.diary.begun] == [(0, 1), (0, 2)]
    heir.end(signal.SIGINT, code=INTERRUPTED, within=GRACE + EXIT)


@pytest.mark.parametrize("mode", ["member", "partition"])
def test_a_handler_is_stuck_in_a_transaction(
    crew: Crew, kafka_topic: Callable[..., str], mode: str
) -> None:
    """All of the transaction is undone, and comes again."""
    topic = kafka_topic(1)
    send(crew.bootstrap, topic, {0: [b"x", b"wait 1000 s", b"x"]})
    settings: dict[str, Any] = {"transactions": mode, "grace": GRACE, "commit_interval": 0.5}
    stuck = crew.start(topic, topic, tasks=1, stop_grace=1.0, **settings)
    stuck.until(lambda diary: len(diary.begun) == 2, "stuck")

    stuck.end(signal.SIGTERM, code=0, within=1.0 + GRACE + EXIT)

    assert "a transaction was aborted" in stuck.errors
    assert f"{topic}-0: 1 delivered message was not acked at shutdown" not in stuck.errors, (
        "it was undone"
    )
    heir = crew.start(topic, topic, tasks=2, stop_grace=1.0, **settings)
    heir.until(lambda diary: len(diary.begun) == 3, "handling all of it")
    assert [place for place, _ in heir.diary.begun] == [(0, 0), (0, 1), (0, 2)]
    heir.end(signal.SIGINT, code=INTERRUPTED, within=GRACE + EXIT)


def is_rebalancing(bootstrap: str, group: str) -> bool:
    command = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
    shown = tool(command, "--describe", "--state", "--group", group, bootstrap=bootstrap)
    return "PreparingRebalance" in shown
