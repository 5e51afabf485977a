"""A codec that must load something first, as the codec of a schema registry does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio

from transport import Codec, NotLoaded


async def load_in_a_second() -> None:
    await trio.sleep(1.0)


@attrs.define
class Loadable:
    """Text whose first letter is a schema, which must be loaded before the first use.

    Attributes:
        on_load: awaited by each load.
        loaded: the letters that are loaded.
        loads: the letters of all loads, in order.
        keeps: whether a load changes anything.
    """

    on_load: Callable[[], Awaitable[None]] = load_in_a_second
    loaded: set[str] = attrs.field(factory=set)
    loads: list[str] = attrs.field(factory=list)
    keeps: bool = True

    def codec(self) -> Codec[str]:
        return Codec(self._encode, self._decode, expected="a text")

    def _encode(self, value: str) -> bytes:
        self._check(value[0])
        return value.encode()

    def _decode(self, data: bytes) -> str:
        text = data.decode()
        self._check(text[0])
        return text

    def _check(self, letter: str) -> None:
        async def load() -> None:
            self.loads.append(letter)
            await self.on_load()
            if self.keeps:
                self.loaded.add(letter)

        if letter not in self.loaded:
            raise NotLoaded(f"the schema {letter!r} is not loaded", load)
