"""Messages of tests: they are written by an app, as a user's program would."""

from __future__ import annotations

from typing import Any

from tests.lanes import Place
from transport import App


async def written(place: Place, topic: str, *messages: dict[str, Any], partitions: int = 1) -> None:
    """Create a topic if it does not exist, and write messages to it, in order."""
    async with App("writer", broker=place.url, client_only=True) as app:
        await app.producer.create_topic(topic, partitions)
        for message in messages:
            await app.topic(topic).send_and_wait(**message)


def numbered(count: int, **more: Any) -> list[dict[str, Any]]:
    """Return messages with the keys k0, k1, ... and the values v0, v1, ..."""
    return [
        {"key": b"k%d" % each, "value": b"v%d" % each, "partition": 0, **more}
        for each in range(count)
    ]
