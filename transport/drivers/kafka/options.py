"""The translation of `ClientSettings` into kafka-python's options, with their names and units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

from transport.drivers.kafka.workarounds.stale_claims import CooperativeAssignor
from transport.drivers.secret import secretive
from transport.drivers.settings import ClientSettings

# The client's default is 30 s. A restarted broker would then be found up to 30 s too late.
RECONNECT_BACKOFF_MAX_MS = 1000
TRANSACTION_BACKOFF_MS = 20
# The share of delivery_timeout after which the client gives a message up.
GIVES_UP_AFTER = 0.9

_BY_PASSWORD = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_STRATEGIES = {
    "cooperative": (CooperativeAssignor,),
    "eager": (RangePartitionAssignor, RoundRobinPartitionAssignor),
}


def consumer_options(
    servers: Sequence[str], security: Mapping[str, Any], settings: ClientSettings
) -> dict[str, Any]:
    """Return the options of a KafkaConsumer. Raises ValueError for settings that it rejects."""
    options = {
        **_common(servers, security, settings),
        "group_id": None if settings.client_only else settings.group_id,
        "group_instance_id": settings.group_instance_id if settings.is_member else None,
        "auto_offset_reset": "none",  # `starts.py` applies the rule
        "partition_assignment_strategy": _STRATEGIES[settings.assignment],
        "enable_auto_commit": False,
        "check_crcs": True,
        "isolation_level": settings.isolation,
        "session_timeout_ms": _ms(settings.session_timeout),
        "heartbeat_interval_ms": _ms(settings.heartbeat_interval),
        "max_poll_interval_ms": _ms(settings.max_poll_interval),
        "fetch_max_bytes": settings.fetch_max_bytes,
        "max_partition_fetch_bytes": settings.max_partition_fetch_bytes,
        **_chosen(settings, KafkaConsumer),
    }
    _check_waiting(options)
    return options


def producer_options(
    servers: Sequence[str], security: Mapping[str, Any], settings: ClientSettings
) -> dict[str, Any]:
    """Return the options of a KafkaProducer. Raises ValueError for settings that it rejects."""
    # The client gives up a little before the driver's deadline. A message that the client fails
    # costs no other. A message that the driver fails costs all messages of the client. Besides the
    # linger, the client requires time for one request.
    delivery = _ms(settings.delivery_timeout * GIVES_UP_AFTER)
    linger = _ms(settings.producer_linger)
    request = min(_ms(settings.request_timeout), delivery - linger)
    if request < 1:
        name = "linger" if settings.transactional_id is None else "transaction_linger"
        least = math.ceil((linger + 1) / GIVES_UP_AFTER) / 1000
        raise ValueError(
            f"delivery_timeout must be at least {least:g} s, not {settings.delivery_timeout:g} s:"
            f" the client gives a message up after {GIVES_UP_AFTER:.0%} of it, and {name}"
            f" ({settings.producer_linger:g} s) is a part of that time"
        )
    return {
        **_common(servers, security, settings),
        "acks": settings.acks,
        "linger_ms": linger,
        "batch_size": settings.max_batch_size,
        "max_request_size": settings.max_request_size,
        "compression_type": settings.compression_type,
        "delivery_timeout_ms": delivery,
        "request_timeout_ms": request,
        # `init_transactions` waits this long at most. No message waits for metadata in the client.
        "max_block_ms": _ms(settings.connect_timeout),
        **_transactional(settings),
        **_chosen(settings, KafkaProducer),
    }


def _transactional(settings: ClientSettings) -> dict[str, Any]:
    if settings.transactional_id is None:
        return {}
    return {
        "transactional_id": settings.transactional_id,
        "transaction_timeout_ms": _ms(settings.transaction_timeout),
        # The client sleeps this long for each request that comes too soon after the previous
        # transaction. With its default of 100, a transaction takes 108 ms, and with this 5 ms.
        "retry_backoff_ms": TRANSACTION_BACKOFF_MS,
    }


def admin_options(
    servers: Sequence[str], security: Mapping[str, Any], settings: ClientSettings
) -> dict[str, Any]:
    """Return the options of a KafkaAdminClient."""
    known = KafkaAdminClient.DEFAULT_CONFIG
    wanted = {**_common(servers, security, settings), **settings.client_options}
    return {name: value for name, value in wanted.items() if name in known}


def _common(
    servers: Sequence[str], security: Mapping[str, Any], settings: ClientSettings
) -> dict[str, Any]:
    _check_security(security, settings)
    return {
        "bootstrap_servers": list(servers),
        "client_id": settings.client_id,
        "request_timeout_ms": _ms(settings.request_timeout),
        "bootstrap_timeout_ms": _ms(settings.connect_timeout),
        "metadata_max_age_ms": _ms(settings.metadata_max_age),
        "reconnect_backoff_max_ms": RECONNECT_BACKOFF_MAX_MS,
        # The transport has its own statistics. The client's metrics cost time on every fetch and
        # batch.
        "metrics_enabled": False,
        **secretive(security),  # the client logs its options at DEBUG
        **({} if settings.ssl_context is None else {"ssl_context": settings.ssl_context}),
    }


def _chosen(settings: ClientSettings, client: Any) -> dict[str, Any]:
    """Return the user's client options that this client class has; the settings checked them."""
    mine = client.DEFAULT_CONFIG
    return {name: value for name, value in settings.client_options.items() if name in mine}


def _check_waiting(options: Mapping[str, Any]) -> None:
    """Check the options that a KafkaConsumer would refuse only when it is opened."""
    waits = options.get("fetch_max_wait_ms", KafkaConsumer.DEFAULT_CONFIG["fetch_max_wait_ms"])
    idle = options.get(
        "connections_max_idle_ms", KafkaConsumer.DEFAULT_CONFIG["connections_max_idle_ms"]
    )
    timeout = options["request_timeout_ms"]
    if not waits < timeout < idle:
        raise ValueError(
            f"request_timeout must be more than fetch_max_wait_ms ({waits / 1000:g} s) and less"
            f" than connections_max_idle_ms ({idle / 1000:g} s), both in client_options, not"
            f" {timeout / 1000:g} s"
        )


def _check_security(security: Mapping[str, Any], settings: ClientSettings) -> None:
    """Refuse options that have no effect on a connection of this kind."""
    options = settings.client_options
    chosen = {**security, **options}
    protocol = chosen.get("security_protocol", "PLAINTEXT")
    tls = sorted(name for name in options if name.startswith("ssl_"))
    login = sorted(name for name in options if name.startswith("sasl_"))
    if settings.ssl_context is not None:
        if tls:
            raise ValueError(
                f"{tls[0]} in client_options has no effect beside ssl_context: set it in that"
                " context"
            )
        tls = ["ssl_context"]
    if tls and protocol not in ("SSL", "SASL_SSL"):
        raise ValueError(
            f"{tls[0]} has no effect without TLS: for TLS, the broker's URL must begin with"
            " kafka+ssl:// or kafka+sasl+ssl://"
        )
    if login and protocol not in ("SASL_PLAINTEXT", "SASL_SSL"):
        raise ValueError(
            f"{login[0]} in client_options has no effect without a login: begin the broker's URL"
            " with kafka+sasl:// or kafka+sasl+ssl://, or set security_protocol in client_options"
        )
    if protocol in ("SASL_PLAINTEXT", "SASL_SSL") and chosen.get("sasl_mechanism") in _BY_PASSWORD:
        for name in ("sasl_plain_username", "sasl_plain_password"):
            if not chosen.get(name):
                raise ValueError(
                    f"no {name}: a login is USER:PASSWORD@ before the hosts in the broker's URL,"
                    " or sasl_plain_username and sasl_plain_password in client_options"
                )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
