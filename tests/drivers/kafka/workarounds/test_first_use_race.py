"""Two threads use a message of the client's protocol for the first time, at the same time."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kafka.protocol.api_header import ResponseClassRegistry
from kafka.protocol.consumer import ListOffsetsResponse
from kafka.protocol.schemas import StructField

import transport.drivers.kafka  # noqa: F401 - it adds the lock

# Long enough for the other thread to get as far as it can. A shorter time may hide a failure, but
# never causes one.
A_MOMENT = 0.3


@pytest.fixture
def fresh() -> Iterator[None]:
    """Remove all versions of the answer that were used before."""
    before = ListOffsetsResponse._VERSIONS
    ListOffsetsResponse._VERSIONS = {}
    yield
    ListOffsetsResponse._VERSIONS = before
    ResponseClassRegistry._response_class_registry[ListOffsetsResponse.API_KEY] = (
        ListOffsetsResponse
    )


@pytest.mark.usefixtures("fresh")
def test_class_of_version_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the registry may have a weak reference to the class that is lost."""
    register = ResponseClassRegistry.register_response_class
    second = threading.Thread(target=lambda: ListOffsetsResponse[3])

    def register_and_wait(response_class: Any) -> None:
        register(response_class)
        if second.ident is None:
            second.start()
            second.join(A_MOMENT)

    monkeypatch.setattr(ResponseClassRegistry, "register_response_class", register_and_wait)
    first = ListOffsetsResponse[3]
    second.join()
    gc.collect()
    assert ListOffsetsResponse[3] is first
    registered = ResponseClassRegistry._response_class_registry[ListOffsetsResponse.API_KEY]
    assert registered[3].API_KEY == ListOffsetsResponse.API_KEY


def test_decoders_of_two_versions_are_compiled_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the first thread resets shared state while the second thread compiles."""
    struct = ListOffsetsResponse._struct
    monkeypatch.setattr(struct, "_compiled_encoders", {})
    emit, classes = StructField.emit_decode_from, []
    second_has_begun, first_has_ended = threading.Event(), threading.Event()

    def decoder_of(version: int) -> object:
        return struct.compiled_decode_from(version, data_class=ListOffsetsResponse)

    second = threading.Thread(target=decoder_of, args=(4,))

    def emit_and_note(self: Any, *args: Any, **options: Any) -> None:
        if self is struct:
            if threading.current_thread() is second:
                second_has_begun.set()
                first_has_ended.wait(A_MOMENT)
            else:
                second.start()
                second_has_begun.wait(A_MOMENT)
            classes.append(self.data_class)
        emit(self, *args, **options)

    monkeypatch.setattr(StructField, "emit_decode_from", emit_and_note)
    decoder_of(3)
    first_has_ended.set()
    second.join()
    assert len(classes) == 2
    assert all(each is ListOffsetsResponse for each in classes)
