"""A request of the producer's own, such as one for a producer id, is made until it has an answer.

The client sends such requests for a transaction, and for the id of an idempotent producer. It
handles two failures of them badly:

- It forgets a request whose connection fails before the request is sent. Then it sends nothing
  until its messages reach the delivery timeout.
- It takes a request whose answer is late for a fatal error. That error fails every message that the
  producer holds, and every later one.

Here both are what they are: a request without an answer, which is made again. The broker allows
that for each of these requests.
"""

from __future__ import annotations

from typing import Any

import kafka.errors
from kafka.future import Future
from kafka.protocol.producer import ProduceRequest


def keep_requests(producer: Any) -> None:
    """Let a new producer make a request again that has got no answer; not those with messages."""
    # `_sender`, `_client`: the client makes a request again where `await_ready` says that the
    # node is not ready, and forgets it where that raises why.
    sender = producer._sender
    client, backoff_ms = sender._client, sender.config["retry_backoff_ms"]
    await_ready, send = client.await_ready, client.send

    def is_ready(*args: Any, **options: Any) -> bool:
        try:
            return bool(await_ready(*args, **options))
        except kafka.errors.KafkaError:
            # It would try again at once, as often as it can, for as long as the node is away.
            client.poll(timeout_ms=backoff_ms, future=Future())
            return False

    def send_it(node_id: Any, request: Any, **options: Any) -> Future:
        future = send(node_id, request, **options)
        # The client retries messages by itself, and their outcome names the true reason.
        if isinstance(request, ProduceRequest):
            return future
        answer = Future()
        future.add_callback(answer.success)
        future.add_errback(lambda error: answer.failure(_no_answer(error)))
        return answer

    client.await_ready, client.send = is_ready, send_it


def _no_answer(error: Exception) -> Exception:
    """Why there was no answer. The client makes a request again whose connection was lost, and
    counts any other reason, such as one that took too long, as the end of the producer."""
    if not isinstance(error, kafka.errors.RetriableError):
        return error
    lost: Exception = kafka.errors.KafkaConnectionError(f"{type(error).__name__}: {error}")
    return lost
