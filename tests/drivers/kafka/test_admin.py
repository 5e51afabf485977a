"""The admin client of Kafka without a Kafka: how it ends if the client's code hangs."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import trio

from transport.drivers.kafka.admin import KafkaAdmin
from transport.drivers.kafka.waiting import Waiting
from transport.errors import TransportError


async def test_closing_abandons_a_client_that_hangs_and_names_the_thread(
    autojump_clock: trio.abc.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    hanging = SimpleNamespace(
        _net=SimpleNamespace(_exception=None), close=lambda: release.wait(timeout=20)
    )
    monkeypatch.setattr(KafkaAdmin, "_connect", lambda self: self._built(hanging))
    admin = KafkaAdmin({"client_id": "cli", "request_timeout_ms": 1000}, Waiting("cli", []))
    with pytest.raises(TransportError, match="abandoned: worker 'admin cli: closing' is stuck"):
        async with admin:
            pass
    release.set()
