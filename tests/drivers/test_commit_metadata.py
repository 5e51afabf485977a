"""The text of a program and the notes of the library share the metadata of a commit."""

from __future__ import annotations

import pytest

from transport.drivers.commit_metadata import joined, notes_of, text_of

NOTES = "kafka-nursery began=1 partitions=2 topic-id=b1e7a0f4-1f5c-4c8c-9d65-0a7b4f6c2d10"


@pytest.mark.parametrize("text", ["", "host-7", "two\nlines", "\n", NOTES, f"{NOTES}\n{NOTES}"])
def test_text_and_notes_are_read_as_written(text: str) -> None:
    metadata = joined(text, "", NOTES)
    assert (text_of(metadata), notes_of(metadata)) == (text, NOTES)


@pytest.mark.parametrize("text", ["", "host-7", "two\nlines", NOTES])
def test_text_without_notes_is_read_as_written(text: str) -> None:
    assert (text_of(joined(text)), notes_of(joined(text))) == (text, "")


@pytest.mark.parametrize("metadata", [None, "", "host-7", "a\nb", "kafka-nursery began=soon"])
def test_metadata_of_another_program_is_a_text_without_notes(metadata: str | None) -> None:
    assert (text_of(metadata), notes_of(metadata)) == (metadata or "", "")
