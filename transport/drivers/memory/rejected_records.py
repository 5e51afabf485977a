"""The records that a topic's configuration rejects, by Kafka's rules. Pure.

- A compacted topic accepts no record without a key.
- A record's timestamp must be within `message.timestamp.before.max.ms` and `.after.max.ms` of the
  broker's clock. Kafka has a default for the second (an hour). This broker has none, because its
  clock is not the wall clock.
- A record must not be larger than `max.message.bytes`.

Other settings have no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from transport.errors import DeliveryFailed, MessageTooLarge
from transport.types import TP

# The maximum bytes of a batch with one record, without key, value and headers.
_OVERHEAD = 82


def why_refused(
    tp: TP,
    config: Mapping[str, str],
    key: bytes | None,
    size: int,
    timestamp_ms: int,
    clock: Callable[[], int],
) -> DeliveryFailed | None:
    """Return the error with which the topic rejects such a record; None: it accepts the record.

    Args:
        config: the topic's configuration.
        size: bytes of key, value and headers.
        clock: returns the broker's time, in milliseconds; called only if a bound is set.
    """
    if key is None and "compact" in config.get("cleanup.policy", ""):
        return DeliveryFailed(
            f"{tp} rejects the message: a compacted topic accepts no message without key"
        )
    most = config.get("max.message.bytes")
    if most is not None and size + _OVERHEAD > int(most):
        return MessageTooLarge(
            f"{tp} rejects the message: {size} bytes, but max.message.bytes is {most}"
        )
    if config.get("message.timestamp.type") == "LogAppendTime":
        return None  # the broker sets the timestamp
    before = config.get("message.timestamp.before.max.ms")
    after = config.get("message.timestamp.after.max.ms")
    if before is None and after is None:
        return None
    now_ms = clock()
    if (before is not None and now_ms - timestamp_ms > int(before)) or (
        after is not None and timestamp_ms - now_ms > int(after)
    ):
        return DeliveryFailed(
            f"{tp} rejects the message: its timestamp {timestamp_ms} ms is too far from the"
            f" broker's time {now_ms} ms"
        )
    return None
