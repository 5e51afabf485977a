"""Members end within their grace, with a dead broker and with stuck handlers."""

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
# Seconds that a process takes to end after its app, with a reserve for a busy machine.
EXIT = 2.0


@pytest.mark.parametrize("is_killed", [False, True], ids=["frozen", "killed"])
def test_members_end_within_the_grace_without_a_broker(
    kafka_broker: Broker, tmp_path: Path, is_killed: bool
) -> None:
    """Three members end while no broker answers: by SIGTERM, by Ctrl-C, and by Ctrl-C twice."""
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
            time.sleep(0.5)  # during the orderly end, which takes seconds now
            twice.process.send_signal(signal.SIGINT)
            terminated.process.send_signal(signal.SIGTERM)
            for member in members:
                code = member.process.wait(began + 0.5 + GRACE + EXIT - time.monotonic())
                assert code == 1, f"the failed last commit was not reported: {member.errors}"
                assert "CommitUnknown" in member.errors
        finally:
            if not is_killed:
                kafka_broker.thaw()


@pytest.mark.parametrize("rebalancing", [False, True], ids=["alone", "in a rebalance"])
def test_a_member_with_a_stuck_handler_ends_within_the_grace(
    crew: Crew, kafka_topic: Callable[..., str], rebalancing: bool
) -> None:
    """The handler is cancelled after the program's own grace. A warning names its message, which is
    redelivered to the next member. A second SIGTERM changes nothing."""
    topic = kafka_topic(1)
    send(crew.bootstrap, topic, {0: [b"x", b"wait 1000 s", b"x"]})
    # A member that joins makes it drain all its partitions, and waits for that.
    settings: dict[str, Any] = {"assignment": "eager", "heartbeat_interval": 0.5, "grace": GRACE}
    stuck = crew.start(topic, topic, tasks=1, stop_grace=1.0, **settings)
    stuck.until(lambda diary: len(diary.begun) == 2, "stuck")
    if rebalancing:
        heir = crew.start(topic, topic, tasks=2, stop_grace=1.0, **settings)
        heir.until(lambda _: is_rebalancing(crew.bootstrap, topic), "waiting for the stuck one")

    stuck.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)  # the system may merge two signals that are pending at once
    took = stuck.end(signal.SIGTERM, code=0, within=1.0 + GRACE + EXIT)

    assert took > 0.5  # the rest of the program's own grace
    assert "1 delivered message was not acked at shutdown" in stuck.errors
    if not rebalancing:
        heir = crew.start(topic, topic, tasks=2, stop_grace=1.0, **settings)
    heir.until(lambda diary: len(diary.acked) == 1, "acking the message after it")
    assert [place for place, _ in heir.diary.begun] == [(0, 1), (0, 2)]
    heir.end(signal.SIGINT, code=INTERRUPTED, within=GRACE + EXIT)


@pytest.mark.parametrize("mode", ["member", "partition"])
def test_a_member_with_a_stuck_handler_in_a_transaction_ends_within_the_grace(
    crew: Crew, kafka_topic: Callable[..., str], mode: str
) -> None:
    """The whole transaction is aborted, and its messages are redelivered."""
    topic = kafka_topic(1)
    send(crew.bootstrap, topic, {0: [b"x", b"wait 1000 s", b"x"]})
    settings: dict[str, Any] = {"transactions": mode, "grace": GRACE, "commit_interval": 0.5}
    stuck = crew.start(topic, topic, tasks=1, stop_grace=1.0, **settings)
    stuck.until(lambda diary: len(diary.begun) == 2, "stuck")

    stuck.end(signal.SIGTERM, code=0, within=1.0 + GRACE + EXIT)

    assert "a transaction was aborted" in stuck.errors
    assert "1 delivered message was not acked at shutdown" not in stuck.errors, (
        "a message of the aborted transaction counts as unacked"
    )
    heir = crew.start(topic, topic, tasks=2, stop_grace=1.0, **settings)
    heir.until(lambda diary: len(diary.begun) == 3, "handling all of it")
    assert [place for place, _ in heir.diary.begun] == [(0, 0), (0, 1), (0, 2)]
    heir.end(signal.SIGINT, code=INTERRUPTED, within=GRACE + EXIT)


def is_rebalancing(bootstrap: str, group: str) -> bool:
    command = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
    shown = tool(command, "--describe", "--state", "--group", group, bootstrap=bootstrap)
    return "PreparingRebalance" in shown
