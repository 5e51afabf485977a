"""Avro, Protobuf and JSON Schema with a schema registry.

This needs the extra `kafka-nursery[registry]`. See docs/values.md.
"""

try:
    import confluent_kafka.schema_registry
except ImportError as error:
    raise ImportError(
        f"transport.registry needs confluent-kafka: pip install 'kafka-nursery[registry]' ({error})"
    ) from error
else:
    del confluent_kafka

from transport.registry.schema_registry import SchemaRegistry
from transport.registry.schema_type import SchemaType

__all__ = ["SchemaRegistry", "SchemaType"]
