"""What the client knows of topics, and the options that it does not hand on to that.

Look here when a client creates a topic that it was not to create.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The client takes these options, documents them for its metadata, and builds that without them.
HANDED_ON = ("allow_auto_create_topics", "retry_backoff_ms")


def hand_on(client: Any, options: Mapping[str, Any]) -> None:
    """Give a new KafkaNetClient's metadata the options that were meant for it.

    Every request for metadata is made from there: for readers, for writers, and for what waits for
    a topic. An admin client has no such option; it never lets a topic be created.
    """
    if given := {name: options[name] for name in HANDED_ON if name in options}:
        # `_manager`: the one owner of the metadata, from the client's first moment on.
        client._manager.cluster.config.update(given)
