"""The app and the transport, as far as the parts of a consumer use them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from transport.committing.transactions import TransactionManager
from transport.drivers.base import Driver
from transport.probe import Probe
from transport.producing.producer import Producer
from transport.settings import Settings
from transport.tracing import Spans
from transport.types import TP

if TYPE_CHECKING:
    from transport.consuming.conductor import Conductor
    from transport.consuming.consumer import Consumer
    from transport.consuming.fetcher import Fetcher


class Host(Protocol):
    """The app of a consumer."""

    @property
    def id(self) -> str: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def probe(self) -> Probe | None:
        """The probe that calls the monitor. None: there is no monitor."""

    @property
    def tracing(self) -> Spans | None:
        """The spans of messages. None: tracing is off."""

    @property
    def is_open(self) -> bool: ...

    @property
    def conductor(self) -> Conductor: ...

    @property
    def consumer(self) -> Consumer: ...

    @property
    def producer(self) -> Producer: ...

    def transaction_group(self, tp: TP) -> str:
        """Return the `group` in the transactional id of a partition."""


class Maker(Protocol):
    """The transport that makes the parts of a consumer."""

    @property
    def app(self) -> Host: ...

    @property
    def driver(self) -> Driver: ...

    @property
    def Fetcher(self) -> type[Fetcher]: ...  # noqa: N802 - the name of a class

    def create_transaction_manager(
        self, consumer: Consumer, producer: Producer
    ) -> TransactionManager:
        """Return the manager of a consumer's transactions, which writes with a producer."""
