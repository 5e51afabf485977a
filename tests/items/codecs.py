"""A codec that counts its calls."""

from __future__ import annotations

import json

import attrs

from transport import Codec


@attrs.define
class Counting:
    """A codec that counts what it decodes."""

    count: int = 0

    def codec(self) -> Codec:
        return Codec(str.encode, self.decode)

    def decode(self, data: bytes) -> object:
        self.count += 1
        return json.loads(data)
