"""A type of keys or values whose schema is in a registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import attrs
from confluent_kafka.serialization import MessageField, SerializationContext

from transport.codecs.codec import Codec, TopicType
from transport.codecs.errors import NotLoaded
from transport.excerpt import excerpt_of_error

T_co = TypeVar("T_co", covariant=True)

Serialize = Callable[[Any, SerializationContext], bytes]
Deserialize = Callable[[bytes, SerializationContext], Any]


@attrs.frozen(eq=False)
class SchemaType(TopicType[T_co], Generic[T_co]):
    """A type with a schema in a registry, made by a `SchemaRegistry`.

    Use it as the `key_type` or `value_type` of any number of topics.

    Attributes:
        expected: the type for the texts of errors, with its article.
    """

    expected: str
    _instances: tuple[type, ...]
    _serializer: Callable[[], Serialize]
    _deserializer: Callable[[], Deserialize]
    _to_plain: Callable[[Any], Any]
    _from_plain: Callable[[Any], Any]

    def check(self) -> None:
        """Make a serializer and a deserializer, so that a wrong schema or option is an error now.

        A schema that refers to others is checked later, because that needs the registry. Raises
        ValueError.
        """
        for make in (self._serializer, self._deserializer):
            try:
                make()
            except NotLoaded:
                pass
            except Exception as error:
                text = excerpt_of_error(error)
                raise ValueError(
                    f"the schema or an option of {self.expected} is wrong: {text}"
                ) from error

    def codec(self, topic: str, part: str) -> Codec[T_co]:
        """Return the codec for the keys or the values of a topic; see `TopicType.codec`."""
        both = _Both(
            SerializationContext(topic, MessageField.KEY if part == "key" else MessageField.VALUE),
            self._serializer,
            self._deserializer,
        )
        to_plain, from_plain = self._to_plain, self._from_plain
        return Codec(
            lambda value: both.serialize(to_plain(value)),
            lambda data: from_plain(both.deserialize(data)),
            expected=self.expected,
            instances=self._instances,
            identity=(self, topic, part),
        )


class _Both:
    """The serializer and the deserializer of one topic's keys or values.

    Each is made at its first use, because a constructor may ask the registry for the schemas that
    a schema refers to. Then it raises NotLoaded, and is called again.
    """

    def __init__(
        self,
        context: SerializationContext,
        serializer: Callable[[], Serialize],
        deserializer: Callable[[], Deserialize],
    ) -> None:
        self._context = context
        self._make_serializer, self._make_deserializer = serializer, deserializer
        self._serialize: Serialize | None = None
        self._deserialize: Deserialize | None = None

    def serialize(self, plain: Any) -> bytes:
        """Return the bytes with the schema's id. Raises NotLoaded, TypeError, ValueError."""
        try:
            if (serialize := self._serialize) is None:
                serialize = self._serialize = self._make_serializer()
            return serialize(plain, self._context)
        except (NotLoaded, TypeError, ValueError):
            raise
        except Exception as error:  # as of Confluent and jsonschema
            raise ValueError(excerpt_of_error(error)) from error

    def deserialize(self, data: bytes) -> Any:
        """Return the plain value. Raises NotLoaded, or any error of the format's library."""
        if (deserialize := self._deserialize) is None:
            deserialize = self._deserialize = self._make_deserializer()
        return deserialize(data, self._context)
