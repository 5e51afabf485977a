"""The metadata of a committed offset: a text of the program, and the notes of the library. Pure.

The broker stores one text with each committed offset. The library needs it for two notes:

- when the group began with the topic: `Began` in `starts.py`
- the topic's id: `kafka/topic_ids.py`

A program may add a text of its own. It comes first, and a line break ends it:

    TEXT⏎kafka-nursery began=1767225600000 partitions=4 topic-id=7d0f...

Metadata that another program has committed has no notes, so all of it is text.
"""

from __future__ import annotations

import re

from transport.types import TP, GroupMetadata

_NOTES = re.compile(r"(kafka-nursery began=\d+ partitions=\d+)?(( |^)topic-id=[0-9a-f-]{36})?")


def joined(text: str, *notes: str) -> str:
    """Return the metadata with this text and these notes, of which some may be empty."""
    own = " ".join(filter(None, notes))
    return f"{text}\n{own}" if text else own


def text_of(metadata: str | None) -> str:
    """Return the program's text; "": there is none."""
    return _split(metadata)[0]


def notes_of(metadata: str | None) -> str:
    """Return the notes of the library; "": there are none."""
    return _split(metadata)[1]


def metadata_of(group: GroupMetadata, tp: TP, *notes: str) -> str:
    """Return the metadata of an offset that a transaction commits.

    Args:
        notes: more notes than the group's own.
    """
    return joined(group.texts.get(tp, ""), group.notes.get(tp.topic, ""), *notes)


def _split(metadata: str | None) -> tuple[str, str]:
    whole = metadata or ""
    text, _, notes = whole.rpartition("\n")
    return (text, notes) if _NOTES.fullmatch(notes) else (whole, "")
