"""Short pauses for transactions that begin before the broker has completed the previous one.

A broker answers the commit of a transaction before the transaction is complete: the broker still
writes markers into the partitions, which takes a few milliseconds. Until then it refuses the first
request of the next transaction with CONCURRENT_TRANSACTIONS. After such a refusal the client's
network thread sleeps for `retry_backoff_ms`, and sends no message meanwhile.

This module repeats the request after 1, 2, 4 and 8 ms. If the last repetition is refused as well,
the client gets the refusal and sleeps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kafka.errors import ConcurrentTransactionsError, KafkaError
from kafka.future import Future
from kafka.protocol.producer import (
    AddOffsetsToTxnRequest,
    AddOffsetsToTxnResponse,
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse,
)

# Seconds before each repetition.
PAUSES = (0.001, 0.002, 0.004, 0.008)


def ask_again_soon(producer: Any) -> None:
    """Let a new transactional producer repeat a request that was refused as too early."""
    # `_sender`, `_client`, `_net`: the answers arrive on the network thread, and its loop runs the
    # timers. The client sends no other request of the transaction before it has the answer.
    client = producer._sender._client
    send = client.send

    def send_soon_again(node_id: Any, request: Any, **options: Any) -> Future:
        if not isinstance(request, (AddPartitionsToTxnRequest, AddOffsetsToTxnRequest)):
            return send(node_id, request, **options)
        return _ask(lambda: send(node_id, request, **options), client._net.call_later)

    client.send = send_soon_again


def _ask(
    ask: Callable[[], Future], call_later: Callable[[float, Callable[[], None]], Any]
) -> Future:
    """Repeat a request until it is not too early or no pause is left; return its last answer."""
    answer = Future()
    pauses = iter(PAUSES)

    def once() -> None:
        try:
            asked = ask()
        except KafkaError as error:  # the client is being closed
            answer.failure(error)
        else:
            asked.add_callback(look)
            asked.add_errback(answer.failure)

    def look(response: Any) -> None:
        pause = next(pauses, None) if _came_too_soon(response) else None
        if pause is None:
            answer.success(response)
        else:
            call_later(pause, once)

    once()
    return answer


def _came_too_soon(response: Any) -> bool:
    code = ConcurrentTransactionsError.errno
    if isinstance(response, AddOffsetsToTxnResponse):
        return bool(response.error_code == code)
    return isinstance(response, AddPartitionsToTxnResponse) and any(
        partition.partition_error_code == code
        for topic in response.results_by_topic_v3_and_below
        for partition in topic.results_by_partition
    )
