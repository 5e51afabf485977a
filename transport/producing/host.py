"""The protocols of the app and the transport, as far as a producer uses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from transport.drivers.base import Driver
from transport.probe import Probe
from transport.settings import Settings
from transport.tracing import Spans

if TYPE_CHECKING:
    from transport.producing.producer import Producer


class Host(Protocol):
    """The app that a producer belongs to."""

    @property
    def id(self) -> str: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def probe(self) -> Probe | None:
        """The probe that calls the app's monitor. None: there is no monitor."""

    @property
    def tracing(self) -> Spans | None:
        """The spans of messages. None: tracing is off."""


class Maker(Protocol):
    """The transport that creates an app's producers."""

    @property
    def app(self) -> Host: ...

    @property
    def driver(self) -> Driver: ...

    def create_producer(self, **kwargs: Any) -> Producer:
        """Return a new producer. The keyword arguments are those of its class."""
