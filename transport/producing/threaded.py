"""Blocking sends, for threads other than trio's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from transport.producing.pending import outgoing_of
from transport.types import HeadersArg, RecordMetadata

if TYPE_CHECKING:
    from transport.producing.producer import Producer


class ThreadedProducer:
    """The blocking calls of a producer, for threads other than trio's.

    Each call switches to trio's thread and back. For many messages, `Producer.send_soon` is faster:
    it wakes trio's thread once for a batch of them.
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
        """Send a message, and block until its outcome is known.

        Raises what `Producer.send_and_wait` raises. RuntimeError: the call was made in trio's
        thread. AppClosed, trio.RunFinishedError: the app is not open.
        """
        # A wrong argument raises here, without a switch to trio's thread.
        outgoing_of(topic, key, value, partition, timestamp, headers)
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
