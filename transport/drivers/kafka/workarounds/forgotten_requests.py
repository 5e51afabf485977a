"""Retries of requests for a producer id or for a transaction.

The client does not retry these requests after two kinds of failure:

- It forgets a request whose connection fails before the request is sent. Then it sends nothing
  until its messages reach the delivery timeout.
- It treats a late answer as a fatal error. That error fails every message that the producer holds,
  and every later message.

This module makes both failures look like a lost connection, after which the client repeats the
request. The broker accepts each of these requests more than once.
"""

from __future__ import annotations

from typing import Any

import kafka.errors
from kafka.future import Future
from kafka.protocol.producer import ProduceRequest


def keep_requests(producer: Any) -> None:
    """Let a new producer repeat unanswered requests, except those that carry messages."""
    # `_sender`, `_client`: the client repeats a request if `await_ready` returns False, and forgets
    # the request if `await_ready` raises.
    sender = producer._sender
    client, backoff_ms = sender._client, sender.config["retry_backoff_ms"]
    await_ready, send = client.await_ready, client.send

    def is_ready(*args: Any, **options: Any) -> bool:
        try:
            return bool(await_ready(*args, **options))
        except kafka.errors.KafkaError:
            # Without this wait the client repeats the request without a pause.
            client.poll(timeout_ms=backoff_ms, future=Future())
            return False

    def send_it(node_id: Any, request: Any, **options: Any) -> Future:
        future = send(node_id, request, **options)
        # The client itself retries messages, and their errors must keep their type.
        if isinstance(request, ProduceRequest):
            return future
        answer = Future()
        future.add_callback(answer.success)
        future.add_errback(lambda error: answer.failure(_no_answer(error)))
        return answer

    client.await_ready, client.send = is_ready, send_it


def _no_answer(error: Exception) -> Exception:
    """Return the error to report for a request.

    The client repeats a request only after a lost connection. So each retriable error, such as a
    timeout, becomes a lost connection.
    """
    if not isinstance(error, kafka.errors.RetriableError):
        return error
    lost: Exception = kafka.errors.KafkaConnectionError(f"{type(error).__name__}: {error}")
    return lost
