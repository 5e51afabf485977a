"""The client's metadata, and the options that the client does not pass on to it.

Look here when a client creates a topic although `allow_auto_create_topics` is False.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The client accepts and documents these options, and builds its metadata without them.
HANDED_ON = ("allow_auto_create_topics", "retry_backoff_ms")


def hand_on(client: Any, options: Mapping[str, Any]) -> None:
    """Pass a new KafkaNetClient's metadata the options that were meant for it.

    This object makes every metadata request: for consumers, for producers, and for a wait for a
    topic. An admin client has no such option, and never lets a broker create a topic.
    """
    if given := {name: options[name] for name in HANDED_ON if name in options}:
        # `_manager`: the one owner of the metadata, from the client's first moment on.
        client._manager.cluster.config.update(given)
