"""Pydantic models as JSON. Pydantic is imported only if a type has a model in it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from transport.codecs.codec import Codec
from transport.codecs.kinds import instances_of, named, parts_of

if TYPE_CHECKING:
    from pydantic import TypeAdapter


def is_of_pydantic(kind: Any) -> bool:
    """Return whether a type is a model or dataclass of pydantic, or a generic of one."""
    return any(hasattr(each, "__pydantic_validator__") for each in parts_of(kind))


def model_codec(kind: Any) -> Codec[Any]:
    """Return the codec of JSON for models. The validator is made here, once.

    Raises TypeError: pydantic does not support the type.
    """
    adapter = adapter_of(kind)
    return Codec(
        # With aliases, as pydantic reads them. An instance of a wrong class is an error.
        functools.partial(adapter.dump_json, by_alias=True, warnings="error"),
        adapter.validate_json,
        expected=named(kind),
        instances=instances_of(kind),
        identity=kind,
    )


def adapter_of(kind: Any) -> TypeAdapter[Any]:
    """Return pydantic's adapter of a type. Raises TypeError: pydantic does not support it."""
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        return TypeAdapter(kind)
    except PydanticUserError as error:
        raise TypeError(f"pydantic does not support the type: {error.message}") from error
