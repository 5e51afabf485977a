"""For each setting, a text that is not its default, and the value that the text stands for."""

from __future__ import annotations

import selectors
import ssl
from typing import Any

from transport import TP, Monitor
from transport.monitoring.tracing import Tracing
from transport.scheduler import RoundRobin


def by_length(key: bytes, partitions: int) -> int:
    return len(key) % partitions


class Turns(RoundRobin[Any]):
    """The turns of the default, in a class of its own."""


MONITOR = Monitor()
TRACING = Tracing()
CONTEXT = ssl.create_default_context()

TEXTS: dict[str, tuple[str, Any]] = {
    "acks": ("1", 1),
    "assignment": ("eager", "eager"),
    "auto_offset_reset": ("latest", "latest"),
    "broker": ("memory://other", "memory://other"),
    "buffer_bytes": ("1000000", 1_000_000),
    "buffer_size": ("100", 100),
    "client_id": ("me", "me"),
    "client_log_level": ("warning", "warning"),
    "client_only": ("true", True),
    "commit_interval": ("0.5", 0.5),
    "commit_livelock_soft_timeout": ("10", 10.0),
    "commit_timeout": ("4", 4.0),
    "compression_type": ("zstd", "zstd"),
    "connect_timeout": ("4", 4.0),
    "delivery_timeout": ("60", 60.0),
    "drain_timeout": ("20", 20.0),
    "fetch_max_bytes": ("1000000", 1_000_000),
    "grace": ("5", 5.0),
    "group_instance_id": ("one", "one"),
    "heartbeat_interval": ("2.5", 2.5),
    "isolation": ("read_uncommitted", "read_uncommitted"),
    "lag_interval": ("2", 2.0),
    "linger": ("0", 0.0),
    "max_batch_size": ("1000", 1000),
    "max_decompressed_bytes": ("1000000", 1_000_000),
    "max_partition_fetch_bytes": ("1000", 1000),
    "max_poll_interval": ("100", 100.0),
    "max_request_size": ("1000", 1000),
    "metadata_max_age": ("10", 10.0),
    "monitor": (f"{__name__}:MONITOR", MONITOR),
    "on_task_error": ("go_on", "go_on"),
    "partitioner": (f"{__name__}:by_length", by_length),
    "partitions": (
        "orders:0, orders:1=42",
        {TP("orders", 0): None, TP("orders", 1): 42},
    ),
    "pattern_interval": ("5", 5.0),
    "ready_lag": ("5", 5),
    "record_codec": ("pure", "pure"),
    "request_timeout": ("20", 20.0),
    "scheduler": (f"{__name__}:Turns", Turns),
    "send_buffer_bytes": ("1000", 1000),
    "send_buffer_messages": ("10", 10),
    "session_timeout": ("30", 30.0),
    "ssl_context": (f"{__name__}:CONTEXT", CONTEXT),
    "status_socket": ("auto", "auto"),
    "stuck_ack_timeout": ("1", 1.0),
    "stuck_commit_timeout": ("1", 1.0),
    "stuck_fetch_timeout": ("1", 1.0),
    "stuck_highwater_timeout": ("1", 1.0),
    "stuck_interval": ("1", 1.0),
    "stuck_response_timeout": ("1", 1.0),
    "tracing": (f"{__name__}:TRACING", TRACING),
    "transaction_attempts": ("3", 3),
    "transaction_linger": ("0.2", 0.2),
    "transaction_timeout": ("30", 30.0),
    "transactions": ("member", "member"),
    "web": ("127.0.0.1:8080", "127.0.0.1:8080"),
    "web_page": ("remote", "remote"),
}

OPTION_TEXTS: dict[str, tuple[str, Any]] = {
    "allow_auto_create_topics": ("false", False),
    "client_dns_lookup": ("use_all_dns_ips", "use_all_dns_ips"),
    "client_rack": ("1", "1"),
    "connections_max_idle_ms": ("100000", 100_000),
    "enable_idempotence": ("true", True),
    "enable_incremental_fetch_sessions": ("0", False),
    "fetch_max_wait_ms": ("100", 100),
    "fetch_min_bytes": ("100", 100),
    "max_in_flight_requests_per_connection": ("1", 1),
    "metadata_max_age_ms": ("1000", 1000),
    "proxy_url": ("socks5://h:1", "socks5://h:1"),
    "receive_message_max_bytes": ("1000", 1000),
    "reconnect_backoff_max_ms": ("1000", 1000),
    "reconnect_backoff_ms": ("10", 10),
    "retry_backoff_ms": ("10", 10),
    "sasl_kerberos_domain_name": ("name", "name"),
    "sasl_kerberos_name": (f"{__name__}:CONTEXT", CONTEXT),
    "sasl_kerberos_service_name": ("name", "name"),
    "sasl_mechanism": ("SCRAM-SHA-256", "SCRAM-SHA-256"),
    "sasl_oauth_token_provider": (f"{__name__}:CONTEXT", CONTEXT),
    "sasl_plain_password": ("12", "12"),
    "sasl_plain_username": ("none", "none"),
    "security_protocol": ("SSL", "SSL"),
    "selector": ("selectors:DefaultSelector", selectors.DefaultSelector),
    "socket_options": ("[[6, 1, 1]]", [(6, 1, 1)]),
    "ssl_cafile": ("ca.pem", "ca.pem"),
    "ssl_certfile": ("cert.pem", "cert.pem"),
    "ssl_check_hostname": ("false", False),
    "ssl_crlfile": ("crl.pem", "crl.pem"),
    "ssl_keyfile": ("key.pem", "key.pem"),
    "ssl_password": ("12", "12"),
}
