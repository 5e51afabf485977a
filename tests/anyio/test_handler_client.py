"""`handler_client` on either backend of anyio, with the real clock."""

from __future__ import annotations

import pytest

from tests.testing import enrichment
from tests.testing.enrichment import Order, app, audit, enrich, enriched
from transport.testing import handler_client

pytestmark = pytest.mark.anyio


async def test_handler_is_called_without_the_delays_of_its_retries() -> None:
    enrichment.failures[:] = [OSError("busy")]
    async with handler_client(app) as client:
        result = await client.call(enrich, key="a", value=Order("anna", 1))
    assert (result.outcome, result.retries, result.acked) == ("handled", 1, True)
    assert [sent.value for sent in result.sent_to(enriched)] == [Order("anna", 2)]


async def test_error_of_the_handler_is_raised() -> None:
    async with handler_client(app) as client:
        with pytest.raises(ValueError, match="too much"):
            await client.call(audit, value=Order("anna", 5000))
        assert (await client.call(audit, value=Order("anna", 1))).acked
