"""Metadata requests to the given addresses while no advertised address answers.

The client asks the given addresses (`bootstrap_servers`) once. From then on it asks only the
brokers that the answer named. If all of those have moved, the client never finds a broker again.
Also, an error can end the client's metadata loop, and then nothing requests metadata.
"""

from __future__ import annotations

import itertools
from typing import Any

import kafka.errors

from transport.drivers.kafka.workarounds.swallowed_errors import Crash
from transport.log import Log


def start_anew(client: Any, crash: Crash, log: Log) -> None:
    """Let a new client ask the given addresses again while no known broker answers."""
    # `_do_refresh_metadata`: asks the node that is passed, or the least busy advertised node.
    manager, cluster = client._manager, client.cluster
    refresh, beat = cluster._do_refresh_metadata, cluster._refresh_loop
    given = itertools.cycle(broker.node_id for broker in cluster.bootstrap_brokers())
    has_failed = False
    asks_given = False

    async def refresh_from_anywhere(node_id: Any) -> None:
        nonlocal has_failed, asks_given
        # In turn with the advertised addresses: the given addresses may be down as well.
        asks_given = has_failed and not asks_given
        given_id = next(given) if node_id is None and asks_given else None
        try:
            await refresh(node_id if given_id is None else given_id)
        except kafka.errors.KafkaError:
            has_failed = True
            raise
        finally:
            if given_id is not None:
                manager.close(given_id)  # the client also uses it for one request only
        if given_id is not None:
            log.debug(
                "addresses_refreshed",
                "the given addresses have returned the current addresses of the brokers",
            )
        has_failed = asks_given = False

    async def refresh_on() -> None:
        # `_refresh_loop`: ends if the request in flight of another caller fails.
        while not cluster.closed:
            try:
                await beat()
            except kafka.errors.KafkaError as error:
                log.debug(
                    "metadata_failed", "metadata requests continue after %s", error, error=error
                )
            except Exception as error:
                crash.note(error)
                raise

    cluster._do_refresh_metadata = refresh_from_anywhere
    cluster._refresh_loop = refresh_on
