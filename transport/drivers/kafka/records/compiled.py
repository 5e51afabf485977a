"""Decoding records by compiled code, so that no input can make it read past its memory.

The compiled code does not check everything that a hostile batch may contain. Therefore:

- It checks neither the length of a header nor, between the headers of a record, where a number
  begins. It reads 20 bytes past the end of its buffer at most. So more bytes follow each buffer.
  All their bits are ones. No number ends with such a byte, so no value that reaches there is
  decoded.
- It decompresses without a bound. So it gets decompressed data, with a header that says so.
- It decodes any number of headers. So long runs of records are decoded in Python.
- It refuses header names that are not UTF-8. Wherever the compiled code raises an error,
  the code in Python decodes the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from transport.drivers.kafka.records.codec import CODEC_BITS, HEADER, Run
from transport.types import Record

PADDING = b"\xff" * 32


class CompiledCodec:
    """The codec in compiled code. See `Codec`.

    Args:
        code: the module with the compiled code.
        version: the version of the package that it comes from.
    """

    def __init__(self, code: Any, version: str) -> None:
        self.name = f"aiokafka {version}"
        self._batch = code.DefaultRecordBatch

    def whole(self, fetch: memoryview, at: int, end: int) -> list[Record]:
        """Decode a batch; see `Codec.whole`."""
        # A number that reaches into the next batch is an error as well: then the last record does
        # not end where the batch ends. So no copy is needed, which would take as long as the rest.
        if end + len(PADDING) <= len(fetch):
            return [*self._batch(fetch[at:end])]
        return [*self._batch(memoryview(b"".join((fetch[at:end], PADDING)))[: end - at])]

    def records(self, run: Run) -> Iterator[Record]:
        """Decode records; see `Codec.records`."""
        header = HEADER.pack(
            *(run.base_offset, 0, 0, 2, 0, run.attributes & ~CODEC_BITS, 0),
            *(run.first_timestamp, run.max_timestamp, -1, -1, -1, run.total),
        )
        data = b"".join((header, memoryview(run.data)[run.at : run.end], PADDING))
        # A batch must not be asked twice for its iterator, which `islice` does each time.
        return chain(self._batch(memoryview(data)[: -len(PADDING)]))
