"""The transport: the driver of an app's broker, and the classes of the app's parts.

Look here to replace a part of the app by a subclass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from transport.committing import transactions
from transport.consuming import conductor, consumer, fetcher
from transport.consuming.host import Host
from transport.drivers import driver_for
from transport.drivers.base import Driver
from transport.drivers.memory import MemoryBroker, MemoryDriver
from transport.drivers.secret import Url
from transport.handling.observer import Observer
from transport.producing import producer


class Transport:
    """The driver of an app, and the factory of the app's parts.

    To replace a part, name another class for it in a subclass of `Transport`.

    Args:
        url: one or more URLs of one cluster, such as `kafka://127.0.0.1:9092` or `memory://`; or
            a `MemoryBroker`, or another `Driver`.

    Attributes:
        url: the given URLs. Each prints without its password, but contains it, so that another app
            can be opened with it.
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
                if not isinstance(each, str):
                    raise _wrong_type(
                        "each URL of broker", "a str, such as kafka://HOST:PORT", each
                    )
            self.url = [Url(each) for each in url]
            self.driver = driver_for(self.url)
        elif not all(hasattr(url, name) for name in ("version", "consumer", "producer")):
            expected = "a URL such as kafka://HOST:PORT, a MemoryBroker or another Driver"
            raise _wrong_type("broker", expected, url)
        else:
            self.driver = cast(Driver, url)

    @property
    def driver_version(self) -> str:
        """The name and version of the client in use, such as `kafka-python=3.0.12`."""
        return self.driver.version

    @property
    def observers(self) -> list[Observer]:
        """The observers of handlers that the driver brings along, as a driver for tests does."""
        observer = getattr(self.driver, "observer", None)
        return [] if observer is None else [observer]

    def create_consumer(
        self, callback: consumer.RecordsCallback, **kwargs: Any
    ) -> consumer.Consumer:
        """Return a new consumer. The keyword arguments are those of the `Consumer` class."""
        return self.Consumer(self, callback, **kwargs)

    def create_producer(self, **kwargs: Any) -> producer.Producer:
        """Return a new producer. The keyword arguments are those of the `Producer` class."""
        return self.Producer(self, **kwargs)

    def create_transaction_manager(
        self, consumer: consumer.Consumer, producer: producer.Producer, **kwargs: Any
    ) -> transactions.TransactionManager:
        """Return a new manager of the transactions in which a producer commits for a consumer."""
        return self.TransactionManager(self, consumer=consumer, producer=producer, **kwargs)

    def create_conductor(self, **kwargs: Any) -> conductor.Conductor:
        """Return a new conductor. The keyword arguments are those of the `Conductor` class."""
        return self.Conductor(self.app, **kwargs)


def _wrong_type(name: str, expected: str, value: object) -> TypeError:
    """Return an error that does not show the value, because it may have a password."""
    return TypeError(f"{name} must be {expected}, not one of type {type(value).__name__}")
