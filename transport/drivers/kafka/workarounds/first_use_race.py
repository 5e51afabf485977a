"""A lock for the first use of a protocol message by several threads.

At the first use of a version of a request or an answer, the client makes a class for that version
and compiles its decoder. The client takes no lock. If the threads of two clients do this at the
same time, one of the two classes is lost, and the client may keep a weak reference to the lost one.
Then every answer of that type closes its connection until the process ends. A decoder that is
compiled for two versions at the same time may be broken in the same way.

The clients of an app connect at the same time. So importing this module adds the lock.
"""

from __future__ import annotations

import threading
from typing import Any

from kafka.protocol.api_message import VersionSubscriptable
from kafka.protocol.schemas import StructField

_lock = threading.RLock()  # reentrant: a versioned class calls its primary class
# `__getitem__`, `_VERSIONS`, `_class_version`: make and keep the class of a version.
_versioned = VersionSubscriptable.__getitem__
# `compiled_decode_from`, `_compiled_encoders`: compile and keep a decoder.
_decoder = StructField.compiled_decode_from


def _versioned_in_turn(cls: Any, version: Any) -> Any:
    if cls._class_version is None and version in cls._VERSIONS:  # runs for each message
        return cls._VERSIONS[version]
    with _lock:
        return _versioned(cls, version)


def _decoder_in_turn(
    self: Any,
    version: Any,
    compact: bool = False,
    tagged: bool = False,
    data_class: Any = None,
) -> Any:
    known = self._compiled_encoders.get(("decode", version, compact, tagged, data_class))
    if known is not None:  # runs for each message
        return known
    with _lock:
        return _decoder(self, version, compact=compact, tagged=tagged, data_class=data_class)


VersionSubscriptable.__getitem__ = _versioned_in_turn
StructField.compiled_decode_from = _decoder_in_turn
