"""The choice of an implementation of the record codec."""

from __future__ import annotations

from transport.drivers.kafka.records.codec import Codec
from transport.drivers.kafka.records.compiled import CompiledCodec
from transport.drivers.kafka.records.compiled_code import compiled_code
from transport.drivers.kafka.records.pure import PureCodec


def codec_for(name: str) -> tuple[Codec, str]:
    """Return the implementation for a `record_codec`, and the reason for the choice.

    Args:
        name: "compiled", "pure", or "auto" for the best that there is.

    Raises:
        ValueError: "compiled" was asked for, and there is no compiled code.
    """
    if name == "pure":
        return PureCodec(), "record_codec asks for it"
    code, found = compiled_code()
    if code is not None:
        return CompiledCodec(code, found), "its compiled code is installed"
    if name == "compiled":
        raise ValueError(
            f'record_codec="compiled" needs the compiled record code of aiokafka: {found}. Install'
            ' it, or set record_codec="auto"'
        )
    return PureCodec(), found
