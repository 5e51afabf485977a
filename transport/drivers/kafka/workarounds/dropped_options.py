"""Options that the client accepts and does not pass on to its metadata.

Look here when a client creates a topic although `allow_auto_create_topics` is False.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The client documents these options, and builds its metadata without them.
HANDED_ON = ("allow_auto_create_topics", "retry_backoff_ms")


def hand_on(client: Any, options: Mapping[str, Any]) -> None:
    """Pass these options on to the metadata of a new KafkaNetClient.

    This object makes every metadata request: for consumers, for producers, and for a wait for a
    topic. An admin client has no `allow_auto_create_topics`, and never lets a broker create a
    topic.
    """
    if given := {name: options[name] for name in HANDED_ON if name in options}:
        # `_manager`: it owns the metadata as soon as the client exists.
        client._manager.cluster.config.update(given)
