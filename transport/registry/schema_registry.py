"""`SchemaRegistry`: the address of a schema registry, and the types whose schemas it has."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import msgspec
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from transport.arguments import instance, or_none, seconds, shown, text, wrong_type
from transport.codecs.kinds import named
from transport.codecs.plain import Plain, plain_of
from transport.excerpt import excerpt
from transport.registry.requests import Requests, without_login
from transport.registry.schema_type import SchemaType

T = TypeVar("T")

SchemaArg: TypeAlias = str | Mapping[str, Any] | Sequence[Any] | Schema
"""A schema as JSON text, as parsed JSON, or as Confluent's Schema, which may refer to others."""

Options: TypeAlias = Mapping[str, Any]

# The version of JSON Schema that msgspec and pydantic write.
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


class SchemaRegistry:
    """A schema registry with Confluent's API, and the types whose schemas it has.

    Nothing is fetched when the object is made. It has no open connections and needs no closing. Any
    number of apps and threads may share it.

    Args:
        url: the address, such as "http://127.0.0.1:8081"; or several, separated by commas. With
            "mock://NAME" the schemas are in memory, for tests.
        timeout: seconds for each request.
        options: other properties of Confluent's SchemaRegistryClient, under their own names:
            "basic.auth.user.info", "ssl.ca.location", "bearer.auth.token", "max.retries".

    Raises TypeError, ValueError: the URL is not valid, or an option is unknown or wrong.
    """

    def __init__(self, url: str, *, timeout: float = 5.0, options: Options | None = None) -> None:
        text("url", url)
        seconds("timeout", timeout)
        or_none(instance, "options", options, kind=Mapping, expected="a mapping of properties")
        conf = {"timeout": timeout, **(options or {}), "url": url}
        self._address = without_login(url)
        try:
            self._client = SchemaRegistryClient.new_client(conf)
        except (TypeError, ValueError) as error:
            what = f"the url or the options of the registry {self._address} are wrong"
            text_of_error = excerpt(str(error).replace(url, self._address))
            raise type(error)(f"{what}: {text_of_error}") from None
        if not url.startswith("mock:"):
            self._client.close()
            self._client._rest_client = cast(Any, Requests(conf))

    def avro(
        self,
        kind: type[T],
        schema: SchemaArg | None = None,
        *,
        auto_register: bool = True,
        use_latest_version: bool = False,
        subject_name_strategy: str | Callable[..., str] = "TOPIC",
        write_options: Options | None = None,
        read_options: Options | None = None,
    ) -> SchemaType[T]:
        """Return a type whose values are Avro, for `key_type` or `value_type` of a topic.

        Args:
            kind: dict, or a type that msgspec or pydantic converts to and from dicts.
            schema: the Avro schema. Messages are written with it, and converted to it when they are
                read. None: messages are read as they were written. To send, give a schema or
                `use_latest_version`.
            auto_register: register the schema before the first message is sent. Otherwise it must
                be in the registry already. Has no effect with `use_latest_version`.
            use_latest_version: write with the latest schema of the subject.
            subject_name_strategy: how a subject is named: "TOPIC" (as in `orders-value`), "RECORD",
                "TOPIC_RECORD", "ASSOCIATED", or one of Confluent's functions.
            write_options: other properties of Confluent's AvroSerializer, under their own names.
            read_options: the same of its AvroDeserializer.

        Not a checkpoint. Raises TypeError, ValueError: the type or the schema cannot be used.
        """
        from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer

        plain = _plain_of(kind, is_json=False)
        given = _schema_of(schema, "AVRO")
        writing, reading = _options(
            auto_register, use_latest_version, subject_name_strategy, write_options, read_options
        )
        has_schema = given is not None or not writing["auto.register.schemas"]
        return _checked(
            SchemaType(
                plain.expected,
                plain.instances,
                functools.partial(AvroSerializer, self._client, given, conf=writing)
                if has_schema
                else _no_schema,
                functools.partial(AvroDeserializer, self._client, given, conf=reading),
                plain.to_plain,
                plain.from_plain,
            )
        )

    def json(
        self,
        kind: type[T],
        schema: SchemaArg | None = None,
        *,
        auto_register: bool = True,
        use_latest_version: bool = False,
        subject_name_strategy: str | Callable[..., str] = "TOPIC",
        write_options: Options | None = None,
        read_options: Options | None = None,
    ) -> SchemaType[T]:
        """Return a type whose values are JSON with a JSON Schema. The rest is as in `avro`.

        Args:
            schema: the JSON Schema. None: the schema that msgspec or pydantic makes of `kind`.
        """
        from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer

        plain = _plain_of(kind, is_json=True)
        if schema is None:
            # Some registries need the first to know the kind of schema. The strategies "RECORD" and
            # "TOPIC_RECORD" need the second.
            name = plain.expected.partition(" ")[2]
            schema = {"$schema": _DRAFT, "title": name, **plain.schema()}
        given = _schema_of(schema, "JSON")
        writing, reading = _options(
            auto_register, use_latest_version, subject_name_strategy, write_options, read_options
        )
        return _checked(
            SchemaType(
                plain.expected,
                plain.instances,
                functools.partial(
                    JSONSerializer,
                    given,
                    self._client,
                    conf=writing,
                    json_encode=msgspec.json.encode,
                ),
                functools.partial(
                    JSONDeserializer,
                    None,
                    schema_registry_client=self._client,
                    conf=reading,
                    json_decode=msgspec.json.decode,
                ),
                plain.to_plain,
                plain.from_plain,
            )
        )

    def protobuf(
        self,
        kind: type[T],
        *,
        auto_register: bool = True,
        use_latest_version: bool = False,
        subject_name_strategy: str | Callable[..., str] = "TOPIC",
        write_options: Options | None = None,
        read_options: Options | None = None,
    ) -> SchemaType[T]:
        """Return a type whose values are Protobuf messages. The rest is as in `avro`.

        Args:
            kind: a class that protoc has made. Its file is the schema.
        """
        from confluent_kafka.schema_registry.protobuf import (
            ProtobufDeserializer,
            ProtobufSerializer,
        )

        if not hasattr(kind, "DESCRIPTOR"):
            raise wrong_type("kind", "a class that protoc has made", kind)
        writing, reading = _options(
            auto_register, use_latest_version, subject_name_strategy, write_options, read_options
        )
        return _checked(
            SchemaType(
                named(kind),
                (kind,),
                functools.partial(ProtobufSerializer, kind, self._client, conf=writing),
                functools.partial(
                    ProtobufDeserializer,
                    kind,
                    conf=reading,
                    schema_registry_client=self._client,
                ),
                _same,
                _same,
            )
        )

    def __repr__(self) -> str:
        return f"<SchemaRegistry {self._address}>"


def _plain_of(kind: Any, *, is_json: bool) -> Plain:
    try:
        return plain_of(kind, is_json=is_json)
    except TypeError as error:
        raise TypeError(f"kind cannot be {shown(kind)}: {error}") from error


def _schema_of(schema: SchemaArg | None, kind: str) -> Schema | None:
    if schema is None or isinstance(schema, Schema):
        return schema
    instance("schema", schema, (str, Mapping, Sequence), "a schema as text or as parsed JSON")
    return Schema(schema if isinstance(schema, str) else json.dumps(schema), kind)


def _options(
    auto_register: bool,
    use_latest_version: bool,
    strategy: str | Callable[..., str],
    write_options: Options | None,
    read_options: Options | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configurations of the serializer and of the deserializer."""
    if callable(strategy):
        both: dict[str, Any] = {"subject.name.strategy": strategy}
    else:
        both = {"subject.name.strategy.type": strategy}
    writing = {
        **both,
        "auto.register.schemas": auto_register and not use_latest_version,
        "use.latest.version": use_latest_version,
        **(write_options or {}),
    }
    return writing, {**both, **(read_options or {})}


def _checked(made: SchemaType[T]) -> SchemaType[T]:
    made.check()
    return made


def _no_schema() -> Any:
    def refuse(plain: Any, context: Any) -> bytes:
        raise ValueError("there is no schema to write it with: give the type a schema")

    return refuse


def _same(value: Any) -> Any:
    return value
