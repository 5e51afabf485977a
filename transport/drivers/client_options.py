"""The options of kafka-python that `client_options` may hold, and why it refuses others. Pure.

Every option of the client's consumer, producer and admin client is in one of two tables:

- `PASSED`: the option has an effect. It is checked here and passed to the client.
- `REFUSED`: a setting of the app has the same meaning, the app has no use for the option, or the
  client itself ignores it. The text gives the reason and what to do.

Look here when an option is refused. The tables do not depend on the driver: memory:// refuses the
same options as kafka://.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

import attrs

from transport.arguments import MOST, choice, flag, function, instance, text, whole, wrong_type

Check = Callable[[str, Any], object]


@attrs.frozen
class Option:
    """An option that is passed to the client.

    Attributes:
        kind: the type of its values; object: only the client knows.
    """

    kind: type
    check: Check


def _whole(least: int = 0, most: int = MOST) -> Option:
    return Option(int, lambda name, value: whole(name, value, least=least, most=most))


def _one_of(*choices: str) -> Option:
    return Option(str, lambda name, value: choice(name, value, choices))


def _check_str(name: str, value: Any) -> None:
    instance(name, value, str, "a str")


def _check_path(name: str, value: Any) -> None:
    instance(name, value, (str, os.PathLike), "the path of a file")


def _check_hidden(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not one of type {type(value).__name__}")


def _check_socket_options(name: str, value: Any) -> None:
    expected = "a list of arguments of socket.setsockopt, such as [(level, option, value)]"
    if not isinstance(value, (list, tuple)):
        raise wrong_type(name, expected, value)
    for each in value:
        if not isinstance(each, tuple) or len(each) not in (3, 4):
            raise wrong_type(f"each of {name}", "a tuple (level, option, value)", each)


_FLAG = Option(bool, flag)
_TEXT = Option(str, text)
_PATH = Option(str, _check_path)
_HIDDEN = Option(str, _check_hidden)
_ANY = Option(object, lambda name, value: None)

PASSED: Mapping[str, Option] = {
    "allow_auto_create_topics": _FLAG,
    "client_dns_lookup": _one_of("use_all_dns_ips", "resolve_canonical_bootstrap_servers_only"),
    "client_rack": Option(str, _check_str),
    "connections_max_idle_ms": _whole(1),
    "enable_idempotence": _FLAG,
    "enable_incremental_fetch_sessions": _FLAG,
    "fetch_max_wait_ms": _whole(),
    "fetch_min_bytes": _whole(),
    # With more than 5 the client gives up idempotence and only logs that.
    "max_in_flight_requests_per_connection": _whole(1, 5),
    "metadata_max_age_ms": _whole(1),
    "proxy_url": _HIDDEN,
    "receive_message_max_bytes": _whole(1),
    "reconnect_backoff_max_ms": _whole(1),
    "reconnect_backoff_ms": _whole(1),
    "retry_backoff_ms": _whole(1),
    "sasl_kerberos_domain_name": _TEXT,
    "sasl_kerberos_name": _ANY,
    "sasl_kerberos_service_name": _TEXT,
    "sasl_mechanism": _TEXT,
    "sasl_oauth_token_provider": _ANY,
    "sasl_plain_password": _HIDDEN,
    "sasl_plain_username": _TEXT,
    "security_protocol": _one_of("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    "selector": Option(object, function),
    "socket_options": Option(list, _check_socket_options),
    "ssl_cafile": _PATH,
    "ssl_certfile": _PATH,
    "ssl_check_hostname": _FLAG,
    "ssl_crlfile": _PATH,
    "ssl_keyfile": _PATH,
    "ssl_password": _HIDDEN,
}

_BY_MONITOR = "here it is monitor, a Sensor that receives the events of the app"
_BY_TYPE = "here a topic has types: App.topic(name, {0}_type=str), or JSON, or a Codec"
_BY_SOCKET = "kafka-python ignores it: set {0} among the socket_options of client_options"

REFUSED: Mapping[str, str] = {
    "acks": "here it is acks, a setting of App",
    "api_version": "not needed: the client asks the broker for its versions",
    "auto_commit_interval_ms": "here it is commit_interval, in seconds",
    "auto_offset_reset": "here it is auto_offset_reset, a setting of App",
    "batch_size": "here it is max_batch_size, in bytes",
    "bootstrap_servers": "here it is the broker argument of App, such as kafka://HOST:PORT",
    "bootstrap_timeout_ms": "here it is connect_timeout, in seconds",
    "check_crcs": "not needed: the checksums of records are always checked",
    "client_id": "here it is client_id, a setting of App",
    "compression_type": "here it is compression_type, a setting of App",
    "consumer_timeout_ms": "not needed: cancel the call, such as with trio.move_on_after",
    "default_offset_commit_callback": "here Consumer.commit raises the error of a commit, and"
    " monitor, a Sensor, receives each commit",
    "delivery_timeout_ms": "here it is delivery_timeout, in seconds",
    "enable_auto_commit": "not needed: acked messages are committed every commit_interval, in"
    " seconds, and no others; client_only=True commits nothing",
    "exclude_internal_topics": "not needed: a pattern of App.topic never matches internal topics",
    "fetch_max_bytes": "here it is fetch_max_bytes, a setting of App",
    "group_id": "here it is the first argument of App",
    "group_instance_id": "here it is group_instance_id, a setting of App",
    "heartbeat_interval_ms": "here it is heartbeat_interval, in seconds",
    "isolation_level": "here it is isolation, a setting of App",
    "kafka_client": "the driver makes it, so that an error names why a connection failed",
    "key_deserializer": _BY_TYPE.format("key"),
    "key_serializer": _BY_TYPE.format("key"),
    "linger_ms": "here it is linger, in seconds",
    "max_block_ms": "here it is connect_timeout, in seconds",
    "max_partition_fetch_bytes": "here it is max_partition_fetch_bytes, a setting of App",
    "max_poll_interval_ms": "here it is max_poll_interval, in seconds",
    "max_poll_records": "not needed: buffer_size bounds the messages that are fetched and not"
    " acked, and Topic.batches(max_size) bounds a batch",
    "max_request_size": "here it is max_request_size, a setting of App",
    "metric_group_prefix": _BY_MONITOR,
    "metric_reporters": _BY_MONITOR,
    "metrics_enabled": _BY_MONITOR,
    "metrics_num_samples": _BY_MONITOR,
    "metrics_sample_window_ms": _BY_MONITOR,
    "partition_assignment_strategy": 'here it is assignment: "cooperative" or "eager"',
    "partitioner": "here it is partitioner, a setting of App",
    "receive_buffer_bytes": _BY_SOCKET.format("SO_RCVBUF"),
    "request_timeout_ms": "here it is request_timeout, in seconds",
    "retries": "not needed: a message is retried until delivery_timeout, in seconds",
    "send_buffer_bytes": _BY_SOCKET.format("SO_SNDBUF"),
    "session_timeout_ms": "here it is session_timeout, in seconds",
    "socks5_proxy": "here it is proxy_url, one of the client_options",
    "ssl_ciphers": "kafka-python ignores it: set the ciphers of an ssl_context",
    "ssl_context": "here it is ssl_context, a setting of App",
    "transaction_timeout_ms": "here it is transaction_timeout, in seconds",
    "transactional_id": "here it is transactions, which chooses the ids",
    "value_deserializer": _BY_TYPE.format("value"),
    "value_serializer": _BY_TYPE.format("value"),
}


def check_client_options(name: str, options: Any) -> None:
    """Check `client_options`.

    Raises TypeError, ValueError: the text names the option, the problem and the remedy. It shows no
    value that may be secret.
    """
    instance(name, options, Mapping, 'a mapping such as {"client_rack": "r1"}')
    for option, value in options.items():
        if not isinstance(option, str):
            raise wrong_type(f"each key of {name}", "an option of kafka-python", option)
        if option in REFUSED:
            raise ValueError(f"{option} in {name}: {REFUSED[option]}")
        if option not in PASSED:
            raise ValueError(_unknown(name, option))
        if value is not None:
            PASSED[option].check(f"{option} in {name}", value)


def _unknown(name: str, option: str) -> str:
    text = f"{option} in {name}: kafka-python has no such client option"
    near = nearest(option, [*PASSED, *REFUSED])
    return f"{text}; did you mean {near}?" if near else text


def nearest(name: str, names: Collection[str]) -> str | None:
    """Return the name in `names` that is most similar to `name`; None: none is similar."""
    found = difflib.get_close_matches(name, names, n=1)
    return found[0] if found else None
