"""The lines of stdin or of files, for `send`.

Nothing blocks trio: a terminal and a pipe are waited for, and files are read in small parts.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

import attrs
import trio

_PART = 1 << 16


@attrs.frozen
class Input:
    """One text of the input, and where it is, for errors."""

    data: bytes
    place: str


async def inputs(files: Sequence[Path], *, whole: bool) -> AsyncGenerator[Input, None]:
    """Yield the lines of files, or of stdin without files, without their line breaks.

    Args:
        whole: yield each file as a whole instead.

    Raises OSError. Cancelled: the rest is not read.
    """
    for file in files or (None,):
        name = "stdin" if file is None else str(file)
        number = _stdin() if file is None else os.open(file, os.O_RDONLY)
        try:
            async with aclosing(_parts(number, name)) as parts:
                if whole:
                    yield Input(b"".join([part async for part in parts]), name)
                    continue
                splitter, count = _Splitter(), itertools.count(1)
                async for part in parts:
                    for line in splitter.lines_in(part):
                        yield Input(line, f"{name} line {next(count)}")
                for line in splitter.last():
                    yield Input(line, f"{name} line {next(count)}")
        finally:
            if file is not None:
                os.close(number)


def _stdin() -> int:
    """Return the file descriptor of stdin. Raises OSError."""
    if sys.stdin is None:  # the caller has closed it
        raise OSError("stdin is closed: give files, or write to stdin")
    return sys.stdin.fileno()


async def _parts(number: int, name: str) -> AsyncGenerator[bytes, None]:
    while True:
        try:
            await trio.lowlevel.wait_readable(number)
        except OSError:  # a file, which is always readable
            await trio.lowlevel.checkpoint()
        try:
            part = os.read(number, _PART)
        except OSError as error:  # its text does not have the name
            raise OSError(error.errno, error.strerror, name) from error
        if not part:
            return
        yield part


class _Splitter:
    """Parts a stream of bytes into lines, which may end with CR and LF."""

    def __init__(self) -> None:
        self._begun = bytearray()  # the line that has no end yet

    def lines_in(self, part: bytes) -> list[bytes]:
        """Return the lines that end in the next part of the stream."""
        if b"\n" not in part:
            self._begun += part
            return []
        *lines, rest = part.split(b"\n")
        lines[0] = bytes(self._begun) + lines[0]
        self._begun = bytearray(rest)
        return [line.removesuffix(b"\r") for line in lines]

    def last(self) -> list[bytes]:
        """Return the line at the end of the stream, which has no line break, if there is one."""
        return [bytes(self._begun)] if self._begun else []
