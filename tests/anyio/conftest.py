"""Fixtures for tests that anyio's own plugin runs on both backends of anyio."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.lanes import Place
from transport.drivers.memory import MemoryBroker


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("anyio") is not None:
            # The plugin of trio marks every coroutine function as its own.
            item.own_markers = [mark for mark in item.own_markers if mark.name != "trio"]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def there(request: pytest.FixtureRequest) -> Place:
    """A broker for the apps of a test that runs on the real clock."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    if request.param == "memory":
        # The broker outlives a guest, as Kafka does.
        broker: Any = MemoryBroker()
        return Place(broker, name)
    return Place(f"kafka://{request.getfixturevalue('kafka_bootstrap')}", name)
