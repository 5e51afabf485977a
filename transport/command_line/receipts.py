"""Receipts: records that say which dead letters were sent back to their source.

A redrive writes the message and its receipt in one transaction, so one exists exactly if the other
does. The receipts of `orders.dead` are in the topic `orders.dead.redriven`. The key of a receipt is
the place of the letter. The header `topic-id` is the id of the dead-letter topic, so a receipt does
not count for a later topic of the same name.
"""

from __future__ import annotations

from transport.command_line.connection import Connection
from transport.command_line.moments import BEGINNING, END
from transport.command_line.reader import reading
from transport.drivers.admin import Admin, TopicDescription
from transport.errors import UnknownTopic
from transport.types import Headers

_TOPIC_ID = "topic-id"
# Receipts are kept as long as the letters, so these configurations are copied.
_KEPT_AS = ("retention.ms",)


def receipts_topic(letters: str) -> str:
    """Return the name of the topic with the receipts of a dead-letter topic."""
    return f"{letters}.redriven"


def receipt_headers(letters: TopicDescription) -> Headers:
    return [(_TOPIC_ID, (letters.id or "").encode())]


async def create_receipts(admin: Admin, letters: str) -> None:
    """Create the topic of the receipts, if it does not exist."""
    name = receipts_topic(letters)
    try:
        await admin.topic(name)
    except UnknownTopic:
        configs = {
            each.name: each.value
            for each in await admin.configs(letters)
            if each.name in _KEPT_AS and not each.is_default and each.value is not None
        }
        await admin.create_topic(name, 1, None, {**configs, "cleanup.policy": "delete"})


async def redriven_letters(connection: Connection, letters: TopicDescription) -> frozenset[str]:
    """Return the places of the letters that have a receipt."""
    name, mine = receipts_topic(letters.name), (letters.id or "").encode()
    found: set[str] = set()
    try:
        async with reading(connection.reader(), name, BEGINNING, END) as reader:
            while not reader.is_at_end:
                for _, record in await reader.take():
                    if dict(record.headers).get(_TOPIC_ID) == mine:
                        found.add((record.key or b"").decode(errors="replace"))
    except UnknownTopic:
        return frozenset()
    return frozenset(found)
