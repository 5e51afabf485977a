"""A producer's client without a broker, and apps that have it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import attrs
import trio

from tests.scripted import scripted
from transport import App, ClientClosed, RecordMetadata
from transport.drivers.base import Outcome, Outgoing, Reports
from transport.drivers.memory import MemoryBroker, MemoryDriver


@attrs.define
class HeldBack:
    """A producer's client that reports an outcome only when a test calls `end`.

    Attributes:
        takes_now: it takes messages in `send_now`, without a checkpoint.
    """

    report: Reports = lambda reports: None
    taken: list[Outgoing] = attrs.field(factory=list)
    is_open: bool = False
    asked: int = 0
    lingers: bool = True
    takes_now: bool = False

    async def open(self, report: Reports) -> None:
        self.report = report
        self.is_open = True

    async def keep_deadlines(self) -> NoReturn:
        await trio.sleep_forever()

    async def partition_count(self, topic: str, timeout: float) -> int:
        self.asked += 1
        return 4

    def topic_id(self, topic: str) -> object:
        return None

    def send_now(self, batch: Sequence[Outgoing]) -> bool:
        if self.takes_now:
            self.taken += batch
        return self.takes_now

    async def send(self, batch: Sequence[Outgoing]) -> None:
        await trio.lowlevel.checkpoint()
        if not self.is_open:
            raise ClientClosed("it was killed")
        self.taken += batch

    async def create_topic(
        self,
        topic: str,
        partitions: int,
        replication: int,
        config: Mapping[str, str],
        timeout: float,
        *,
        wait: bool = True,
    ) -> None: ...

    async def close(self, timeout: float) -> None:
        self.is_open = False

    async def kill(self) -> None:
        self.is_open = False

    @contextlib.contextmanager
    def without_linger(self) -> Iterator[None]:
        self.lingers = False
        yield
        self.lingers = True

    @property
    def values(self) -> list[bytes | None]:
        """The values of the messages that the client has."""
        return [outgoing.value for outgoing in self.taken]

    def end(self, count: int = 1, error: Exception | None = None) -> None:
        """Report the outcome of the first `count` messages that the client has."""
        ended, self.taken = self.taken[:count], self.taken[count:]
        outcomes: list[tuple[Outgoing, Outcome]] = [
            (outgoing, error or RecordMetadata(outgoing.topic, outgoing.partition or 0, 7, 1.0))
            for outgoing in ended
        ]
        self.report(outcomes)


def app_with(client: HeldBack, broker: MemoryBroker | None = None, **settings: Any) -> App:
    """Return an app that sends with `client`, and reads from `broker`."""

    class Driver(MemoryDriver):
        def producer(self, settings: object) -> Any:
            return client

    return scripted(App)("app", Driver(broker=broker), **settings)
