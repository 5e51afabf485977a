"""The types of objects on either backend: those of the trio side, or those of the asyncio side.

Each is a union of two classes with the same calls. So type checkers accept exactly the calls that
work on both backends, and infer the same keys and values from them.
"""

from __future__ import annotations

from typing import TypeAlias

from transport.anyio.app import AioApp
from transport.anyio.conductor import AioConductor
from transport.anyio.consumer import AioConsumer
from transport.anyio.deliveries import AioDelivery, AioFutureMessage, AioManyDeliveries
from transport.anyio.partitions import AioPartitions, AioPartitionStream
from transport.anyio.producer import AioProducer
from transport.anyio.topic import AioTopic
from transport.app import App
from transport.consuming.conductor import Conductor
from transport.consuming.consumer import Consumer
from transport.delivering.partitions import Partitions, PartitionStream
from transport.producing.delivery import Delivery, ManyDeliveries
from transport.producing.pending import FutureMessage
from transport.producing.producer import Producer
from transport.topic import Topic
from transport.types import K, V

AnyApp: TypeAlias = App | AioApp
"""An app that `open_app` has opened."""

AnyTopic: TypeAlias = Topic[K, V] | AioTopic[K, V]
"""A topic object of such an app: `AnyTopic[str, Order]`."""

AnyPartitions: TypeAlias = Partitions[K, V] | AioPartitions[K, V]
"""The result of `partitions` of such a topic object."""

AnyPartitionStream: TypeAlias = PartitionStream[K, V] | AioPartitionStream[K, V]
"""A partition that `AnyPartitions` returns."""

AnyConsumer: TypeAlias = Consumer | AioConsumer
"""The consumer of such an app."""

AnyConductor: TypeAlias = Conductor | AioConductor
"""The conductor of such an app."""

AnyProducer: TypeAlias = Producer | AioProducer
"""The producer of such an app."""

AnyDelivery: TypeAlias = Delivery | AioDelivery
"""The result of `send`."""

AnyManyDeliveries: TypeAlias = ManyDeliveries | AioManyDeliveries
"""The result of `send_many`."""

AnyFutureMessage: TypeAlias = FutureMessage | AioFutureMessage
"""The result of `send_soon`."""
