"""A driver that reports to the model all calls between a member and its client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.model.reference import Reference
from tests.records import read
from transport import TP, ClientSettings, Fetched
from transport.drivers.base import ConsumerClient, Driver, ProducerClient, Rebalance, RebalanceKind
from transport.testing import InvariantViolated


class Spy:
    """A `Driver` that wraps another driver, and reports to the model."""

    def __init__(self, driver: Driver, reference: Reference, on_violation: Any) -> None:
        self._driver = driver
        self._reference = reference
        self._on_violation = on_violation

    @property
    def version(self) -> str:
        return self._driver.version

    def consumer(self, settings: ClientSettings) -> ConsumerClient:
        client: Any = _SpiedOn(self._driver.consumer(settings), self._reference, self._on_violation)
        return client

    def producer(self, settings: ClientSettings) -> ProducerClient:
        return self._driver.producer(settings)


class _SpiedOn:
    def __init__(self, client: ConsumerClient, reference: Reference, on_violation: Any) -> None:
        self._client = client
        self._reference = reference
        self._on_violation = on_violation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def next_rebalance(self) -> Rebalance:
        event = await self._client.next_rebalance()
        if event.kind is RebalanceKind.ASSIGNED:
            self._reference.on_assigned(event.partitions)
        elif event.kind is RebalanceKind.LOST:
            self._reference.on_released(event.partitions)
        else:
            self._note_release(event)
        return event

    async def poll(self) -> Mapping[TP, Sequence[Fetched]]:
        found = await self._client.poll()
        offsets = {tp: [record.offset for record in read(found[tp])] for tp in found}
        self._check(self._reference.on_fetched, offsets)
        return found

    async def seek(self, tp: TP, offset: int) -> None:
        await self._client.seek(tp, offset)
        self._check(self._reference.on_sought, tp, offset)

    async def commit(
        self, offsets: Mapping[TP, int], timeout: float, texts: Mapping[TP, str]
    ) -> None:
        await self._client.commit(offsets, timeout, texts)
        self._check(self._reference.on_committed, offsets)

    def _note_release(self, event: Rebalance) -> None:
        release = event._release

        def note_and_release(seek: Mapping[TP, int], pause: frozenset[TP]) -> None:
            self._reference.on_released(event.partitions)
            release(seek, pause)

        event._release = note_and_release

    def _check(self, on_event: Any, *args: Any) -> None:
        try:
            on_event(*args)
        except InvariantViolated as violation:
            self._on_violation(violation)
