"""Sending from threads that are not trio's, and waiting there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from transport.producing.pending import outgoing_of
from transport.types import HeadersArg, RecordMetadata

if TYPE_CHECKING:
    from transport.producing.producer import Producer


class ThreadedProducer:
    """The producer for threads that are not trio's: each call crosses over and back.

    Threads that send much do better with `Producer.send_soon`, which crosses by the batch.
    """

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    def send_and_wait(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: HeadersArg = None,
    ) -> RecordMetadata:
        """Send a message and block until it is delivered; raises as `Producer.send_and_wait` does.

        From any thread but trio's own (RuntimeError). Raises AppClosed, or trio.RunFinishedError,
        where the app is gone.
        """
        outgoing_of(topic, key, value, partition, timestamp, headers)  # refused without crossing
        token = self._producer.buffer.token
        return trio.from_thread.run(
            self._producer.send_and_wait,
            topic,
            key,
            value,
            partition,
            timestamp,
            headers,
            trio_token=token,
        )
