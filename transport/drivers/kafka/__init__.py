"""The Kafka driver: kafka-python 3, whose blocking clients run in worker threads.

Start reading at `consumer.py` and `producer.py`. `workarounds/` has one file for each unexpected
behavior of the client. `records/` decodes and encodes records. Only this package uses private parts
of the client. A comment at each use gives the reason. `tests/drivers/kafka/test_private_names.py`
tests each name that the package relies on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import kafka

from transport.drivers.kafka.admin import KafkaAdmin
from transport.drivers.kafka.consumer import KafkaConsumerClient
from transport.drivers.kafka.options import admin_options, consumer_options
from transport.drivers.kafka.producer import KafkaProducerClient
from transport.drivers.kafka.records.choice import codec_for
from transport.drivers.kafka.records.codec import Codec
from transport.drivers.kafka.waiting import Waiting
from transport.drivers.kafka.workarounds import (
    first_use_race,  # noqa: F401 - it adds a lock
    unclosed_socket,  # noqa: F401 - it closes sockets
)
from transport.drivers.secret import secretive
from transport.drivers.settings import ClientSettings

__all__ = ["KafkaConsumerClient", "KafkaDriver", "KafkaProducerClient"]


class KafkaDriver:
    """A `Driver` for a Kafka cluster.

    Args:
        servers: "HOST:PORT" of some of its brokers.
        security: options of the client for TLS and SASL; not shown by repr().
    """

    def __init__(self, servers: Sequence[str], security: Mapping[str, Any] | None = None) -> None:
        if not servers:
            raise ValueError("a cluster has at least one broker: give HOST:PORT")
        self.servers = tuple(servers)
        self._security = secretive(security or {})
        self._waiting: dict[str, Waiting] = {}
        self._codec: Codec | None = None  # the codec of the latest client

    def __repr__(self) -> str:
        return f"KafkaDriver({list(self.servers)!r})"

    @property
    def version(self) -> str:
        """The version of the client, and the name of the record codec."""
        codec = self._codec or codec_for("auto")[0]
        return f"kafka-python={kafka.__version__} (records: {codec.name})"

    def consumer(self, settings: ClientSettings) -> KafkaConsumerClient:
        """Return a new consumer. Raises ValueError for settings that the client rejects."""
        options = consumer_options(self.servers, self._security, settings)
        codec = self._codec_of(settings)
        return KafkaConsumerClient(settings, options, self._waiting_of(settings), codec)

    def producer(self, settings: ClientSettings) -> KafkaProducerClient:
        """Return a new producer. Raises ValueError for settings that the client rejects."""
        self._codec_of(settings)
        waiting = self._waiting_of(settings)
        return KafkaProducerClient(self.servers, self._security, settings, waiting)

    def admin(self, settings: ClientSettings) -> KafkaAdmin:
        """Return a new admin client. Raises ValueError for settings that the client rejects."""
        options = admin_options(self.servers, self._security, settings)
        return KafkaAdmin(options, self._waiting_of(settings))

    def _codec_of(self, settings: ClientSettings) -> Codec:
        """Return the codec that the settings ask for. The first client logs it."""
        log = self._waiting_of(settings).log
        codec, reason = codec_for(settings.record_codec)
        if self._codec is None or self._codec.name != codec.name:
            log.info(
                "record_codec", "records are encoded and decoded by %s: %s", codec.name, reason
            )
        self._codec = codec
        return codec

    def _waiting_of(self, settings: ClientSettings) -> Waiting:
        """Return one `Waiting` for all clients of an app, so that each change is logged once."""
        name = settings.group_id or settings.client_id
        return self._waiting.setdefault(name, Waiting(name, self.servers))
