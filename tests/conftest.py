"""Fixtures of both lanes and of the Kafka lane (``pytest -m kafka``).

They are synchronous, so both trio tests and plain tests can use them.
"""

import gc
import logging
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka.admin import KafkaAdminClient

import tests.effort  # noqa: F401 - it sets the number of Hypothesis examples
from tests.kafka.cluster import Broker, ToolchainMissing
from tests.kafka.toolchain import fetch_jars, find_java
from tests.lanes import BOTH, Place

GIVEN = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")

# A shell starts background processes with SIGINT ignored, and some tests press Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def kafka_java() -> None:
    """Check that Java and the jars are present, for tests that run Kafka's own tools.

    If KAFKA_BOOTSTRAP_SERVERS is set, these tests are skipped without Java. Otherwise the Kafka
    lane cannot run without Java, and its absence is an error.
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
    """Return bootstrap servers, as "HOST:PORT,...", that all tests share.

    They are KAFKA_BOOTSTRAP_SERVERS if it is set, and otherwise one broker for the session. A test
    that freezes or stops its broker uses ``kafka_broker`` instead.
    """
    if GIVEN:
        yield GIVEN
        return
    request.getfixturevalue("kafka_java")
    with Broker() as broker:
        yield broker.bootstrap


@pytest.fixture
def kafka_broker(kafka_java: None) -> Iterator[Broker]:
    """Start a broker for one test, which may freeze, kill and restart it. It takes about 3 s."""
    with Broker() as broker:
        yield broker


@pytest.fixture(scope="session")
def kafka_admin(kafka_bootstrap: str) -> Iterator[KafkaAdminClient]:
    """Return kafka-python's admin client of ``kafka_bootstrap``; its calls block."""
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap.split(","))
    yield admin
    admin.close()


@pytest.fixture
def kafka_topic(kafka_admin: KafkaAdminClient) -> Iterator[Callable[..., str]]:
    """Return ``kafka_topic(partitions=4, **configs)``, which creates a topic and returns its name.

    The call blocks for about 50 ms. The topic accepts records when it returns, and is deleted
    after the test. ``configs`` are topic configurations, with underscores for dots:
    ``cleanup_policy="compact"``.
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
    """Return a broker for apps: `memory://` in the memory lane, Kafka in the Kafka lane."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    if request.param == "memory":
        return Place(f"memory://{name}", name)
    return Place(f"kafka://{request.getfixturevalue('kafka_bootstrap')}", name)


@pytest.fixture
def log_records() -> Iterator[list[Any]]:
    """Return the log records of the library from INFO on, whose fields are attributes."""
    records: list[Any] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("transport")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield records
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(handler)


@pytest.fixture
def quiet_client() -> Iterator[None]:
    """Turn off the client's log, whose records would keep errors and their sockets in memory."""
    log = logging.getLogger("kafka")
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(logging.NOTSET)
    gc.collect()
