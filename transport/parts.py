"""The transport: which parts an app is made of, and the broker behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from transport.arguments import instance, wrong_type
from transport.committing import transactions
from transport.consuming import conductor, consumer, fetcher
from transport.consuming.host import Host
from transport.drivers import driver_for
from transport.drivers.base import Driver
from transport.drivers.memory import MemoryBroker, MemoryDriver
from transport.drivers.secret import Url
from transport.producing import producer


class Transport:
    """Holds the app that it serves, and creates its parts.

    A subclass that names another class for a part gets it used.

    Args:
        url: one or more URLs of one cluster, such as `kafka://127.0.0.1:9092` or `memory://`; or
            a `MemoryBroker`, or another `Driver`.

    Attributes:
        url: what was given; printed without its password, but good to open another app with.
    """

    Consumer: ClassVar[type[consumer.Consumer]] = consumer.Consumer
    Producer: ClassVar[type[producer.Producer]] = producer.Producer
    TransactionManager: ClassVar[type[transactions.TransactionManager]] = (
        transactions.TransactionManager
    )
    Conductor: ClassVar[type[conductor.Conductor]] = conductor.Conductor
    Fetcher: ClassVar[type[fetcher.Fetcher]] = fetcher.Fetcher

    def __init__(self, url: Sequence[str] | MemoryBroker | Driver, app: Host) -> None:
        self.app = app
        self.url: list[Url] = []
        self.driver: Driver
        if isinstance(url, MemoryBroker):
            self.url = [Url("memory://")]
            self.driver = MemoryDriver(broker=url)
        elif isinstance(url, Sequence) and not isinstance(url, (str, bytes)):
            for each in url:
                instance("each URL of broker", each, str, "a str, such as kafka://HOST:PORT")
            self.url = [Url(each) for each in url]
            self.driver = driver_for(self.url)
        elif not all(hasattr(url, name) for name in ("version", "consumer", "producer")):
            expected = "an URL such as kafka://HOST:PORT, a MemoryBroker or another Driver"
            raise wrong_type("broker", expected, url)
        else:
            self.driver = cast(Driver, url)

    @property
    def driver_version(self) -> str:
        """Name and version of the client in use, such as `kafka-python=3.0.12`."""
        return self.driver.version

    def create_consumer(
        self, callback: consumer.RecordsCallback, **kwargs: Any
    ) -> consumer.Consumer:
        """A new consumer; the keyword arguments are those of the `Consumer` class."""
        return self.Consumer(self, callback, **kwargs)

    def create_producer(self, **kwargs: Any) -> producer.Producer:
        """A new producer; the keyword arguments are those of the `Producer` class."""
        return self.Producer(self, **kwargs)

    def create_transaction_manager(
        self, consumer: consumer.Consumer, producer: producer.Producer, **kwargs: Any
    ) -> transactions.TransactionManager:
        """New transactions of a consumer, written by a producer."""
        return self.TransactionManager(self, consumer=consumer, producer=producer, **kwargs)

    def create_conductor(self, **kwargs: Any) -> conductor.Conductor:
        """A new conductor; the keyword arguments are those of the `Conductor` class."""
        return self.Conductor(self.app, **kwargs)
