"""The records that a topic's configuration refuses, by Kafka's rules. Pure.

- A compacted topic takes no record without a key.
- A record's time must be within `message.timestamp.before.max.ms` and `.after.max.ms` of the
  broker's clock. Kafka has a default for the second (an hour). Here there is none, because the
  clock of this broker is not the wall clock.
- A record must not be larger than `max.message.bytes`.

Other settings have no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from transport.errors import DeliveryFailed, MessageTooLarge
from transport.types import TP

# The bytes of a batch and a record beside key, value and headers, at most.
_OVERHEAD = 82


def why_refused(
    tp: TP,
    config: Mapping[str, str],
    key: bytes | None,
    size: int,
    timestamp_ms: int,
    clock: Callable[[], int],
) -> DeliveryFailed | None:
    """Return why the topic refuses such a record; None: it accepts the record.

    Args:
        config: the topic's configuration.
        size: bytes of key, value and headers.
        clock: gives the broker's time, in milliseconds; asked only where a bound is set.
    """
    if key is None and "compact" in config.get("cleanup.policy", ""):
        return DeliveryFailed(f"{tp} refuses the message: a compacted topic takes none without key")
    most = config.get("max.message.bytes")
    if most is not None and size + _OVERHEAD > int(most):
        return MessageTooLarge(f"{tp} refuses the message: {size} bytes, {most} fit in a batch")
    if config.get("message.timestamp.type") == "LogAppendTime":
        return None  # the broker takes its own
    before = config.get("message.timestamp.before.max.ms")
    after = config.get("message.timestamp.after.max.ms")
    if before is None and after is None:
        return None
    now_ms = clock()
    if (before is not None and now_ms - timestamp_ms > int(before)) or (
        after is not None and timestamp_ms - now_ms > int(after)
    ):
        return DeliveryFailed(
            f"{tp} refuses the message: its time {timestamp_ms} ms is too far from {now_ms} ms"
        )
    return None
