"""The broker of a run: that of KAFKA_BOOTSTRAP_SERVERS, or one that is started for the run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from kafka.admin import KafkaAdminClient

from tests.kafka.cluster import Broker


class Topics:
    """The topics of a run. `close` deletes the topics that `create` has created."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        self._created: list[str] = []

    def create(self, topic: str, partitions: int) -> None:
        wanted = {"num_partitions": partitions, "replication_factor": 1}
        self._admin.create_topics({topic: wanted})
        self._created.append(topic)

    def delete(self, topic: str) -> None:
        self._created.remove(topic)
        self._admin.delete_topics([topic])

    def close(self) -> None:
        if self._created:
            self._admin.delete_topics(self._created)
        self._admin.close()


@contextmanager
def topics() -> Iterator[Topics]:
    """Open the topics of the broker. Start a broker if none is configured."""
    bootstrap = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if not bootstrap:
        with Broker() as broker, _closing(Topics(broker.bootstrap)) as opened:
            yield opened
    else:
        with _closing(Topics(bootstrap)) as opened:
            yield opened


@contextmanager
def _closing(opened: Topics) -> Iterator[Topics]:
    try:
        yield opened
    finally:
        opened.close()
