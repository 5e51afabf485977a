"""The transport for anyio programs, on either of its backends.

    from transport.anyio import open_app

    async with open_app(App("orders", broker="kafka://127.0.0.1:9092")) as app:
        orders = app.topic("orders")
        await orders.send(key=b"k", value=b"v")
        async for message in orders:
            ...

On trio, `app` is the app itself. On asyncio, the same tree runs as a trio *guest* of the asyncio
loop, in the same thread. Each loop has one guest, which runs while at least one app is open.

Start reading at `opening.py`. `guest.py` runs trio in the asyncio loop. `app.py`, `consumer.py`,
`producer.py`, `topic.py`, `partitions.py`, `reader.py` and `deliveries.py` have the calls for
asyncio tasks.
`either.py` has the types for programs that run on both backends. Nothing else in `transport`
imports this package.
"""

from transport.anyio.app import AioApp
from transport.anyio.conductor import AioConductor
from transport.anyio.consumer import AioConsumer
from transport.anyio.deliveries import AioDelivery, AioFutureMessage, AioManyDeliveries
from transport.anyio.either import (
    AnyApp,
    AnyConductor,
    AnyConsumer,
    AnyDelivery,
    AnyFutureMessage,
    AnyManyDeliveries,
    AnyPartitions,
    AnyPartitionStream,
    AnyProducer,
    AnyTopic,
)
from transport.anyio.opening import open_app
from transport.anyio.partitions import AioPartitions, AioPartitionStream
from transport.anyio.producer import AioProducer
from transport.anyio.reader import AioReader
from transport.anyio.topic import AioTopic

__all__ = [
    "AioApp",
    "AioConductor",
    "AioConsumer",
    "AioDelivery",
    "AioFutureMessage",
    "AioManyDeliveries",
    "AioPartitionStream",
    "AioPartitions",
    "AioProducer",
    "AioReader",
    "AioTopic",
    "AnyApp",
    "AnyConductor",
    "AnyConsumer",
    "AnyDelivery",
    "AnyFutureMessage",
    "AnyManyDeliveries",
    "AnyPartitionStream",
    "AnyPartitions",
    "AnyProducer",
    "AnyTopic",
    "open_app",
]
