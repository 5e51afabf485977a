"""Fixtures of both lanes and of the Kafka lane (``pytest -m kafka``).

They are sync, for trio and plain tests alike.
"""

import gc
import logging
import os
import signal
import uuid
from collections.abc import Callable, Iterator

import pytest
from kafka.admin import KafkaAdminClient

import tests.effort  # noqa: F401 - which sets how hard Hypothesis tries
from tests.kafka.cluster import Broker, ToolchainMissing
from tests.kafka.toolchain import fetch_jars, find_java
from tests.lanes import BOTH, Place

GIVEN = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")

# A shell starts what it runs in the background with SIGINT ignored, and the tests press Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def kafka_java() -> None:
    """For a test that runs Kafka's own tools: Java and the jars are there.

    Where KAFKA_BOOTSTRAP_SERVERS stands in for the broker such a test is skipped without Java; else
    nothing of the lane can run, and this is an error.
    """
    try:
        find_java()
        fetch_jars()
    except ToolchainMissing as error:
        if not GIVEN:
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def kafka_bootstrap(request: pytest.FixtureRequest) -> Iterator[str]:
    """Bootstrap servers, "HOST:PORT,...": KAFKA_BOOTSTRAP_SERVERS, else one broker for the session.

    Shared by all tests: a test that freezes or stops its broker takes ``kafka_broker``.
    """
    if GIVEN:
        yield GIVEN
        return
    request.getfixturevalue("kafka_java")
    with Broker() as broker:
        yield broker.bootstrap


@pytest.fixture
def kafka_broker(kafka_java: None) -> Iterator[Broker]:
    """A broker of the test's own, to be frozen, killed and restarted at will; about 3 s."""
    with Broker() as broker:
        yield broker


@pytest.fixture(scope="session")
def kafka_admin(kafka_bootstrap: str) -> Iterator[KafkaAdminClient]:
    """kafka-python's admin client on ``kafka_bootstrap``; its calls block."""
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap.split(","))
    yield admin
    admin.close()


@pytest.fixture
def kafka_topic(kafka_admin: KafkaAdminClient) -> Iterator[Callable[..., str]]:
    """``kafka_topic(partitions=4, **configs)`` makes a topic of a new name and returns the name.

    The topic takes records when the call returns (it blocks for some 50 ms) and is deleted after
    the test. ``configs`` are the topic's, with underscores for dots: ``cleanup_policy="compact"``.
    """
    made: list[str] = []

    def make(partitions: int = 4, **configs: str) -> str:
        name = f"test-{uuid.uuid4().hex[:12]}"
        options = {
            "num_partitions": partitions,
            "configs": {key.replace("_", "."): value for key, value in configs.items()},
        }
        kafka_admin.create_topics({name: options}, wait_for_metadata=True)
        made.append(name)
        return name

    yield make
    if made:
        kafka_admin.delete_topics(made)


@pytest.fixture(params=BOTH)
def place(request: pytest.FixtureRequest) -> Place:
    """A broker for apps: `memory://` in the fast lane, Kafka in the other."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    if request.param == "memory":
        return Place(f"memory://{name}", name)
    return Place(f"kafka://{request.getfixturevalue('kafka_bootstrap')}", name)


@pytest.fixture
def quiet_client() -> Iterator[None]:
    """Pytest would keep the client's log records, and with them errors, and with them sockets."""
    log = logging.getLogger("kafka")
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(logging.NOTSET)
    gc.collect()
