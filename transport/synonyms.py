"""Names of settings in other libraries, and what to write here instead. Pure.

Look here when `App` refuses a setting that it does not know.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from transport.drivers.client_options import PASSED, REFUSED, nearest

_IN_SECONDS = "here it is {}, in seconds"
_IN_BYTES = "here it is {}, in bytes"
_BROKER = "here it is the broker argument of App, such as kafka://HOST:PORT"
_LOGIN = "here it is in the broker argument of App: kafka+sasl+ssl://USER:PASSWORD@HOST:PORT"
_MONITOR = "here it is monitor, a Sensor that receives the events of the app"
_CREATE = "here it is an argument of app.producer.create_topic"

# The names in librdkafka (with dots as underscores), aiokafka and Faust. `client_options.py` has
# those in kafka-python.
_OTHERS: Mapping[str, str] = {
    # Other names of the arguments of App.
    "url": _BROKER,
    "brokers": _BROKER,
    "broker_url": _BROKER,
    "servers": _BROKER,
    "metadata_broker_list": _BROKER,
    "broker_credentials": _LOGIN,
    "broker_consumer": _BROKER,
    "broker_producer": _BROKER,
    "group": REFUSED["group_id"],
    "name": REFUSED["group_id"],
    # Faust
    "broker_api_version": REFUSED["api_version"],
    "broker_check_crcs": REFUSED["check_crcs"],
    "broker_client_id": REFUSED["client_id"],
    "broker_commit_every": "here it is commit_interval, in seconds; messages are not counted",
    "broker_commit_interval": "here it is commit_interval, in seconds",
    "broker_commit_livelock_soft_timeout": _IN_SECONDS.format("commit_livelock_soft_timeout"),
    "broker_heartbeat_interval": _IN_SECONDS.format("heartbeat_interval"),
    "broker_max_poll_interval": _IN_SECONDS.format("max_poll_interval"),
    "broker_max_poll_records": REFUSED["max_poll_records"],
    "broker_rebalance_timeout": "here it is max_poll_interval, in seconds, and drain_timeout",
    "broker_request_timeout": _IN_SECONDS.format("request_timeout"),
    "broker_session_timeout": _IN_SECONDS.format("session_timeout"),
    "consumer_auto_offset_reset": REFUSED["auto_offset_reset"],
    "consumer_group_instance_id": REFUSED["group_instance_id"],
    "consumer_max_fetch_size": _IN_BYTES.format("max_partition_fetch_bytes"),
    "processing_guarantee": 'here it is transactions: "partition" or "member" for exactly once',
    "producer_acks": REFUSED["acks"],
    "producer_compression_type": REFUSED["compression_type"],
    "producer_linger": _IN_SECONDS.format("linger"),
    "producer_linger_ms": REFUSED["linger_ms"],
    "producer_max_batch_size": _IN_BYTES.format("max_batch_size"),
    "producer_max_request_size": _IN_BYTES.format("max_request_size"),
    "producer_partitioner": REFUSED["partitioner"],
    "producer_request_timeout": _IN_SECONDS.format("request_timeout"),
    "producer_threaded": "not needed: Topic.send_soon may be called from any thread",
    "stream_buffer_maxsize": "here it is buffer_size, a number of messages",
    "topic_partitions": _CREATE,
    "topic_replication_factor": _CREATE,
    # aiokafka
    "loop": "not needed: an app runs in trio, or in asyncio through transport.anyio",
    "rebalance_timeout_ms": REFUSED["max_poll_interval_ms"],
    # librdkafka, and so confluent-kafka
    "batch_num_messages": "here max_batch_size bounds a batch, in bytes",
    "compression_codec": REFUSED["compression_type"],
    "enable_auto_offset_store": "not needed: acked messages are committed, and no others",
    "enable_partition_eof": "here Consumer.getmany(timeout) ends when nothing is left to read",
    "error_cb": "here `async with app` raises the errors",
    "fetch_message_max_bytes": _IN_BYTES.format("max_partition_fetch_bytes"),
    "fetch_wait_max_ms": "here it is fetch_max_wait_ms, one of the client_options",
    "group_protocol": "not supported: groups use the classic protocol",
    "interceptor_classes": _MONITOR,
    "interceptors": _MONITOR,
    "max_in_flight": "here it is max_in_flight_requests_per_connection, one of the client_options",
    "message_max_bytes": _IN_BYTES.format("max_request_size"),
    "message_send_max_retries": REFUSED["retries"],
    "message_timeout_ms": REFUSED["delivery_timeout_ms"],
    "on_commit": REFUSED["default_offset_commit_callback"],
    "on_delivery": "here your code awaits the delivery: await Topic.send_and_wait(...)",
    "queue_buffering_max_kbytes": _IN_BYTES.format("send_buffer_bytes"),
    "queue_buffering_max_messages": "here it is send_buffer_messages",
    "queue_buffering_max_ms": REFUSED["linger_ms"],
    "queued_max_messages_kbytes": "here it is fetch_max_bytes, in bytes",
    "queued_min_messages": "here it is buffer_size, a number of messages",
    "request_required_acks": REFUSED["acks"],
    "sasl_mechanisms": "here it is sasl_mechanism, one of the client_options",
    "sasl_password": _LOGIN,
    "sasl_username": _LOGIN,
    "socket_timeout_ms": REFUSED["request_timeout_ms"],
    "ssl_ca_location": "here it is ssl_cafile, one of the client_options",
    "ssl_certificate_location": "here it is ssl_certfile, one of the client_options",
    "ssl_cipher_suites": REFUSED["ssl_ciphers"],
    "ssl_key_location": "here it is ssl_keyfile, one of the client_options",
    "ssl_key_password": "here it is ssl_password, one of the client_options",
    "statistics_interval_ms": _MONITOR,
    "stats_cb": _MONITOR,
    "topic_metadata_refresh_interval_ms": _IN_SECONDS.format("metadata_max_age"),
}


def explanation_of(name: str, settings: Collection[str]) -> str:
    """Return the error text for a name that is not one of these settings."""
    plain = name.replace(".", "_").replace("-", "_").lower()
    if plain in settings:
        return f"{name}: here it is {plain}, a setting of App"
    if plain in REFUSED or plain in _OTHERS:
        return f"{name}: {REFUSED.get(plain) or _OTHERS[plain]}"
    if plain in PASSED:
        return f"{name}: an option of kafka-python: client_options={{{plain!r}: ...}}"
    near = nearest(plain, settings)
    return f"{name}: did you mean {near}?" if near else f"{name}: no setting has a similar name"
