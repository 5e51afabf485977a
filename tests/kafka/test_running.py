"""A program that calls `app.run()` on a real Kafka: the group after one signal, and after two."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition

from tests.kafka.cluster import Broker
from tests.kafka.members import send

pytestmark = pytest.mark.kafka

PROGRAM = """
import sys, trio
from transport import App

broker, topic = sys.argv[1:]
app = App(topic, broker, grace=20)


@app.handler(app.topic(topic))
async def handle(message):
    if message.offset == 3:
        print("in the middle of", message.offset)
        await app.wait_stopped()
        print("stopping")
        await trio.sleep(0.5)


app.run()
print("ended")
"""

GRACE = 20.0
# Starts the program with a broker and a topic, which is also its group.
Run = Callable[[str, str], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Run]:
    """Return a function that starts the program, and returns it in the middle of its work."""
    programs = []

    def run(bootstrap: str, topic: str) -> subprocess.Popen[str]:
        send(bootstrap, topic, {0: [b"x"] * 10})
        program = subprocess.Popen(
            [sys.executable, "-u", "-c", PROGRAM, f"kafka://{bootstrap}", topic],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        programs.append(program)
        assert program.stdout is not None
        assert program.stdout.readline() == "in the middle of 3\n"
        return program

    yield run
    for program in programs:
        program.kill()
        program.communicate()


def state_of(admin: KafkaAdminClient, group: str) -> tuple[int | None, int]:
    """Return the committed offset and the number of members of the group."""
    offsets: dict[Any, Any] = admin.list_group_offsets(group)[group]
    committed = offsets.get(TopicPartition(group, 0))
    members = admin.describe_groups([group])[group]["members"]
    return committed and committed.offset, len(members)


def test_sigterm_in_the_middle_of_work_commits_the_done_messages_and_leaves_the_group(
    start: Run,
    kafka_bootstrap: str,
    kafka_topic: Callable[..., str],
    kafka_admin: KafkaAdminClient,
) -> None:
    topic = kafka_topic(1)
    program = start(kafka_bootstrap, topic)
    assert state_of(kafka_admin, topic)[1] == 1
    program.send_signal(signal.SIGTERM)
    output, errors = program.communicate(timeout=30)
    assert (program.returncode, output) == (0, "stopping\nended\n")
    assert errors.startswith(f"{topic}: SIGTERM received: the app stops in order, within 20 s.")
    assert state_of(kafka_admin, topic) == (4, 0)


def test_a_second_signal_ends_a_program_whose_threads_wait_for_a_frozen_broker_at_once(
    start: Run, kafka_broker: Broker
) -> None:
    program = start(kafka_broker.bootstrap, "frozen")
    kafka_broker.freeze()
    try:
        program.send_signal(signal.SIGTERM)
        assert program.stderr is not None
        assert program.stderr.readline().startswith("frozen: SIGTERM received")
        began = time.monotonic()
        program.send_signal(signal.SIGTERM)
        output, errors = program.communicate(timeout=30)
        assert time.monotonic() - began < GRACE / 2
    finally:
        kafka_broker.thaw()
    assert program.returncode == 143
    assert "ended" not in output
    assert "frozen: SIGTERM received again: the process ends at once\n" in errors
