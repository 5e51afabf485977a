"""The command as a process on a real Kafka, compared with Kafka's own tools."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from kafka.admin import ACLOperation, KafkaAdminClient, ResourceType

from tests.command_line.processes import ended, ended_by, run_command, started
from tests.kafka.cluster import describe_group, tool, tool_command
from tests.kafka.secured import SecuredBroker

pytestmark = pytest.mark.kafka

MakeTopic = Callable[..., str]


@pytest.fixture
def broker(kafka_bootstrap: str) -> str:
    return f"kafka://{kafka_bootstrap}"


@pytest.fixture
def topic(kafka_topic: MakeTopic, broker: str) -> str:
    """Return a topic with the messages 0 to 99 in its only partition."""
    name = kafka_topic(partitions=1)
    lines = "".join(f"k{number}:{number}\n" for number in range(100))
    assert run_command(broker, "send", name, "-K", ":", stdin=lines) == (0, "", "")
    return name


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_signal_ends_tail_without_a_traceback(
    broker: str, topic: str, number: signal.Signals, code: int
) -> None:
    with started(broker, "tail", topic, "--follow") as process:
        assert process.stdout is not None
        first = process.stdout.readline()  # it reads now
        assert "\tk90\t90" in first
        got, _, err = ended_by(process, number)
        assert (got, err) == (code, "")


def test_ctrl_c_in_bench_deletes_its_topic(broker: str) -> None:
    with started(broker, "bench", "--seconds", "600", "-n", "10", "-r", "1") as process:
        deadline = time.monotonic() + 30
        while not (topics := own_topics(broker)):
            assert time.monotonic() < deadline
        code, out, err = ended_by(process, signal.SIGINT)
    assert (code, out, err) == (130, "", "")
    assert own_topics(broker).isdisjoint(topics)


def own_topics(broker: str) -> set[str]:
    """Return the topics of `bench`."""
    _, out, _ = run_command(broker, "topics", "list", "--json")
    names = {row["topic"] for row in json.loads(out)}
    return {name for name in names if name.startswith("kafka-nursery-bench-")}


def test_a_reader_that_leaves_ends_tail_also_if_no_message_comes(broker: str, topic: str) -> None:
    with started(broker, "tail", topic, "--from", "0", "--follow", "--json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["value"] == "0"
        process.stdout.close()
        process.stdout = None
        code, _, err = ended(process)
        assert (code, err) == (141, "")


def test_head_gets_its_lines_and_no_error_is_shown(broker: str, topic: str) -> None:
    command = f"{sys.executable} -m transport tail {topic} --from 0 --broker {broker} | head -n 3"
    shell = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert [line.split("\t")[3] for line in shell.stdout.splitlines()] == ["0", "1", "2"]
    assert shell.stderr == ""


def test_ctrl_c_ends_a_verb_whose_broker_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        broker = f"kafka://127.0.0.1:{silent.getsockname()[1]}"
        with started(broker, "topics", "list", "--timeout", "300") as process:
            silent.accept()
            code, out, err = ended_by(process, signal.SIGINT)
            assert (code, out, err) == (130, "", "")


def test_kafkas_consumer_reads_what_send_has_written(
    kafka_bootstrap: str, kafka_java: None, topic: str
) -> None:
    text = tool(
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        *("--topic", topic, "--from-beginning", "--max-messages", "100"),
        *("--formatter-property", "print.key=true"),
        bootstrap=kafka_bootstrap,
    )
    assert text.splitlines() == [f"k{number}\t{number}" for number in range(100)]


def test_lag_and_seek_agree_with_kafkas_tool(
    broker: str, kafka_bootstrap: str, kafka_java: None, topic: str
) -> None:
    group = f"{topic}-group"
    code, _, err = run_command(broker, "seek", group, "--topic", topic, "--to-offset", "40")
    assert (code, err) == (0, "")
    assert describe_group(kafka_bootstrap, group) == {(topic, 0): (40, 100, 60)}
    shown = json.loads(run_command(broker, "lag", group, "--json")[1])
    (row,) = shown["partitions"]
    assert (row["committed"], row["end"], row["lag"], shown["lag"]) == (40, 100, 60, 60)


def test_lag_watches_with_rates_until_ctrl_c(broker: str, topic: str) -> None:
    group = f"{topic}-group"
    run_command(broker, "seek", group, "--topic", topic, "--to-beginning")
    with started(broker, "lag", group, "--watch", "--every", "0.2", "--json") as process:
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        code, _, err = ended_by(process, signal.SIGINT)
    assert (code, err) == (130, "")
    assert "read_per_second" not in first["partitions"][0]
    assert second["partitions"][0]["read_per_second"] == 0
    assert second["partitions"][0]["seconds_to_catch_up"] is None


def test_tail_makes_no_group(broker: str, topic: str, kafka_admin: KafkaAdminClient) -> None:
    before = {group["group_id"] for group in kafka_admin.list_groups()}
    assert run_command(broker, "tail", topic)[0] == 0
    after = {group["group_id"] for group in kafka_admin.list_groups()}
    assert after <= before


def test_seek_refuses_while_a_group_of_the_newer_protocol_has_members(
    broker: str, kafka_bootstrap: str, kafka_java: None, topic: str
) -> None:
    """The client cannot describe such a group, but it sees that the group is not empty."""
    group = f"{topic}-newer"
    command = tool_command(
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        *("--topic", topic, "--group", group, "--from-beginning"),
        *("--consumer-property", "group.protocol=consumer"),
        bootstrap=kafka_bootstrap,
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE) as member:
        try:
            assert member.stdout is not None
            assert b"0\n" in member.stdout  # reads up to the first message: it has partitions now
            code, _, err = run_command(broker, "seek", group, "-t", topic, "--to-beginning")
            assert code == 1
            assert "nothing was changed" in err
            assert "has members" in err
        finally:
            member.terminate()


# A secured broker


@pytest.fixture(scope="module")
def secured(kafka_java: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    with SecuredBroker(tmp_path_factory.mktemp("secured-verbs")) as broker:
        broker.set_password("anna", "anna-pw")
        broker.create_topic("open")
        broker.allow("anna", ResourceType.TOPIC, "open", ACLOperation.ALL)
        broker.allow("guest", ResourceType.TOPIC, "open", ACLOperation.READ)
        yield broker


def with_login(secured: SecuredBroker, login: str, *more: str) -> tuple[str, list[str]]:
    options = [f"ssl_cafile={secured.folder / 'ca.pem'}", *more]
    return secured.url("LOGIN", login), [word for each in options for word in ("--option", each)]


def test_verbs_work_with_a_login_over_tls(secured: SecuredBroker) -> None:
    url, options = with_login(secured, "anna:anna-pw", "sasl_mechanism=SCRAM-SHA-512")
    assert run_command(url, "send", "open", *options, stdin="hello\n") == (0, "", "")
    code, out, err = run_command(url, "tail", "open", "--json", *options)
    assert (code, err, json.loads(out)["value"]) == (0, "", "hello")
    code, out, _ = run_command(url, "topics", "list", "--json", *options)
    assert [row["topic"] for row in json.loads(out)] == ["open"]


def test_a_refused_login_is_one_line_without_the_password(secured: SecuredBroker) -> None:
    url, options = with_login(secured, "guest:wrong-pw")
    for verb in (("topics", "list"), ("tail", "open"), ("doctor",)):
        code, out, err = run_command(url, *verb, *options)
        assert code == 1
        assert "wrong-pw" not in out + err
        assert len(err.splitlines()) == (0 if verb == ("doctor",) else 1)


def test_a_missing_right_is_one_line_that_names_its_object(secured: SecuredBroker) -> None:
    url, options = with_login(secured, "guest:guest-pw")
    for verb in (("lag", "hidden"), ("topics", "create", "hidden"), ("tail", "hidden")):
        code, out, err = run_command(url, *verb, *options)
        assert (code, out) == (1, "")
        assert "hidden" in err
        assert "[Error" not in err
    assert run_command(url, "topics", "describe", "open", *options)[0] == 0


def test_doctor_names_missing_rights(secured: SecuredBroker) -> None:
    url, options = with_login(secured, "guest:guest-pw")
    code, out, err = run_command(url, "doctor", "-t", "open", "-g", "g", "--json", *options)
    findings = json.loads(out)
    assert (code, err) == (1, "")
    assert any(
        each["subject"] == "topic open" and "WRITE" in each["text"] and each["advice"]
        for each in findings
    )
    assert any(each["subject"] == "group g" and each["level"] == "wrong" for each in findings)
