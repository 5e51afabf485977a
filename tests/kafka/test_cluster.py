"""The test harness itself: a broker that starts, answers Kafka's own tools, freezes and ends."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kafka.cluster import (
    CONSOLE_PRODUCER,
    Broker,
    GroupOffset,
    ToolFailed,
    describe_group,
    end_offsets,
    tool,
)

pytestmark = pytest.mark.kafka

CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"
ROOT = Path(__file__).parents[2]


def produce(bootstrap: str, topic: str, count: int) -> None:
    """Write numbers from 0 on. The producer retries: a new topic may have no leader at first."""
    numbers = "".join(f"{number}\n" for number in range(count))
    retries = ("--message-send-max-retries", "100")
    tool(CONSOLE_PRODUCER, "--topic", topic, *retries, bootstrap=bootstrap, stdin=numbers)
    assert sum(end_offsets(bootstrap, topic).values()) == count


def consume(bootstrap: str, topic: str, count: int, *args: str) -> list[str]:
    text = tool(
        *(CONSUMER, "--topic", topic, "--max-messages", str(count), "--timeout-ms", "50000"),
        *("--from-beginning", *args),
        bootstrap=bootstrap,
    )
    return text.split()


@pytest.mark.usefixtures("kafka_java")
def test_kafkas_own_tools_agree(kafka_bootstrap: str, kafka_topic: Callable[..., str]) -> None:
    topic = kafka_topic(partitions=2)
    produce(kafka_bootstrap, topic, 20)

    values = consume(kafka_bootstrap, topic, 20, "--group", topic)

    assert sorted(map(int, values)) == list(range(20))
    ends = end_offsets(kafka_bootstrap, topic)
    assert set(ends) == {(topic, 0), (topic, 1)}
    assert sum(ends.values()) == 20
    assert describe_group(kafka_bootstrap, topic) == {
        tp: GroupOffset(committed=end, end=end, lag=0) for tp, end in ends.items()
    }


@pytest.mark.usefixtures("kafka_java")
def test_a_tool_that_fails_shows_its_output(kafka_bootstrap: str) -> None:
    with pytest.raises(ToolFailed, match="no-such-group"):
        describe_group(kafka_bootstrap, "no-such-group")


def test_a_topic_takes_configs(kafka_bootstrap: str, kafka_topic: Callable[..., str]) -> None:
    assert kafka_topic(1, cleanup_policy="compact") != kafka_topic(1)


def test_a_frozen_broker_is_silent_and_comes_back(kafka_broker: Broker) -> None:
    produce(kafka_broker.bootstrap, "t", 1)
    kafka_broker.freeze()
    with pytest.raises(ToolFailed, match="took over 3"):
        tool(
            *(CONSUMER, "--topic", "t", "--from-beginning", "--max-messages", "1"),
            bootstrap=kafka_broker.bootstrap,
            timeout=3,
        )
    kafka_broker.thaw()
    assert consume(kafka_broker.bootstrap, "t", 1) == ["0"]


def test_a_killed_broker_restarts_with_its_data(kafka_broker: Broker) -> None:
    bootstrap = kafka_broker.bootstrap
    produce(bootstrap, "t", 3)
    kafka_broker.kill()
    assert not listens(bootstrap)
    kafka_broker.restart()
    assert kafka_broker.bootstrap == bootstrap
    assert sorted(consume(bootstrap, "t", 3)) == ["0", "1", "2"]


@pytest.fixture
def command(kafka_java: None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run ``python -m tests.kafka.cluster``; yield the process, and the address that it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.kafka.cluster"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_with_its_broker(
    command: tuple[subprocess.Popen[str], str], number: signal.Signals
) -> None:
    process, bootstrap = command
    assert listens(bootstrap)
    process.send_signal(number)
    assert process.wait(30) == 0
    assert not listens(bootstrap)


def listens(bootstrap: str) -> bool:
    host, port = bootstrap.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0
