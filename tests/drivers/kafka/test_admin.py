"""The admin client of Kafka without a Kafka: how it ends if the client's code hangs."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from transport.drivers.kafka.admin import _MOVED, KafkaAdmin
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


async def test_a_group_is_described_again_while_its_broker_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors = [f"[Error {kind.errno}] {kind.__name__}: None" for kind in _MOVED]

    def describe_groups(groups: list[str]) -> dict[str, Any]:
        (name,) = groups
        described = {
            "group_id": name,
            "error": errors.pop() if errors else None,
            "group_state": "Empty",
            "protocol_data": "",
            "members": [],
            "authorized_operations": None,
        }
        return {name: described}

    client = SimpleNamespace(
        _net=SimpleNamespace(_exception=None), close=lambda: None, describe_groups=describe_groups
    )

    def connect(admin: KafkaAdmin) -> None:
        admin._admin = client
        admin._built(client)

    monkeypatch.setattr(KafkaAdmin, "_connect", connect)
    async with KafkaAdmin(
        {"client_id": "cli", "request_timeout_ms": 10_000}, Waiting("cli", [])
    ) as admin:
        assert (await admin.group("billing")).state == "Empty"
    assert errors == []
