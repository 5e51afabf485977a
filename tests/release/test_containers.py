"""The service of the Dockerfile and the brokers of compose.yaml, run without Docker."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kafka.admin import KafkaAdminClient

from tests.faults.brokers import Node
from tests.kafka.cluster import free_ports
from transport import App

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
BROKERS = {name: service for name, service in SERVICES.items() if name != "service"}
# As Docker does: a namespace of processes, in which the command is the first one.
NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]
# Run the service. When the app is open, print the process id in the namespace, and that outside.
STARTED = """
import os, runpy, sys
from transport import App

async def wait_stopped(app, wait=App.wait_stopped):
    print(os.getpid(), os.readlink("/proc/self"), flush=True)
    await wait(app)

App.wait_stopped = wait_stopped
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def settings(name: str) -> dict[str, str]:
    """Return the properties that the image makes from the environment of a broker."""
    return {
        key.removeprefix("KAFKA_").lower().replace("_", "."): str(value)
        for key, value in BROKERS[name]["environment"].items()
        if key.startswith("KAFKA_")
    }


@pytest.fixture
def namespace() -> None:
    """Skip the test where the kernel allows no namespace, as in some containers."""
    if not shutil.which("unshare") or subprocess.run([*NAMESPACE, "true"]).returncode:
        pytest.skip("this kernel lets the tests make no namespace of processes")


@pytest.mark.usefixtures("namespace")
def test_the_service_ends_in_order_at_sigterm_as_the_first_process() -> None:
    (program,) = re.findall(r"^COPY (\S+) service\.py$", DOCKERFILE, re.MULTILINE)
    with subprocess.Popen(
        [*NAMESPACE, sys.executable, "-c", STARTED, program, "memory://"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        own, outside = process.stdout.readline().split()
        os.kill(int(outside), signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert own == "1"
    assert process.returncode == 0
    assert "SIGTERM received: the app stops in order" in errors


def test_each_broker_has_its_own_id_and_its_own_addresses() -> None:
    assert len(BROKERS) == 3
    voters = set()
    for name, service in BROKERS.items():
        node = service["environment"]["KAFKA_NODE_ID"]
        ((published),) = service["ports"]
        address, _, inside = published.rpartition(":")
        advertised = service["environment"]["KAFKA_ADVERTISED_LISTENERS"]
        assert advertised == f"NETWORK://{name}:19092,HOST://{address}"
        assert f"HOST://:{inside}," in service["environment"]["KAFKA_LISTENERS"]
        voters.add(f"{node}@{name}:9093")
        assert f"{name}:19092" in SERVICES["service"]["command"][0]
        assert service["environment"]["KAFKA_CONTROLLER_QUORUM_VOTERS"].count(f"@{name}:") == 1
    assert set(settings("kafka-1")["controller.quorum.voters"].split(",")) == voters


@pytest.fixture
def bootstrap(kafka_java: None) -> Iterator[str]:
    """Run the brokers of compose.yaml on this machine, on free ports."""
    ports = iter(free_ports(3 * len(BROKERS)))
    listeners = ("NETWORK", "HOST", "CONTROLLER")
    places = {name: {each: next(ports) for each in listeners} for name in BROKERS}
    with contextlib.ExitStack() as stack:
        nodes = []
        for name in BROKERS:
            node = Node(int(settings(name)["node.id"]), properties(name, places))
            nodes.append(stack.enter_context(node))
        for node in nodes:
            node.wait_until_started()
        yield ",".join(f"127.0.0.1:{each['HOST']}" for each in places.values())


def properties(name: str, places: dict[str, dict[str, int]]) -> str:
    """Return the properties of a broker, with an address on this machine for each of its own."""

    def here(match: re.Match[str]) -> str:
        listener, host = match["listener"], match["host"]
        broker = host if host in places else name
        return f"{match['start']}127.0.0.1:{places[broker][listener or 'CONTROLLER']}"

    address = re.compile(r"(?P<start>(?P<listener>[A-Z]+)://|\d@)(?P<host>[\w.-]*):\d+")
    return "".join(f"{key}={address.sub(here, value)}\n" for key, value in settings(name).items())


@pytest.mark.kafka
async def test_the_brokers_form_a_cluster_with_three_copies_of_each_topic(bootstrap: str) -> None:
    async with App("shop", broker=f"kafka://{bootstrap}") as app:
        orders = app.topic("orders")
        orders.listen()
        for number in range(3):
            await orders.send_and_wait(key=b"%d" % number, value=b"v")
        got = set()
        async for message in orders:
            got.add(message.key)
            if len(got) == 3:
                app.stop()
    assert got == {b"0", b"1", b"2"}
    admin = KafkaAdminClient(bootstrap_servers=bootstrap.split(","))
    try:
        (topic,) = admin.describe_topics(["orders"])
    finally:
        admin.close()
    for partition in topic["partitions"]:
        assert sorted(partition["replica_nodes"]) == [1, 2, 3]
