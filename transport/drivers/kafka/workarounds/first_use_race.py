"""Threads that use a message of the protocol for the first time, at the same time.

The client makes a class for each version of a request or an answer when it is first used, and
compiles its decoder then. It takes no lock. If the threads of two clients do this at the same time,
one of the two classes is lost, and the client may keep a weak reference to the lost one. Then every
answer of that kind closes its connection, for as long as the process runs. A decoder that is
compiled for two versions at the same time may be broken in the same way.

An app has several clients, which connect at the same time. So importing this module adds the lock.
"""

from __future__ import annotations

import threading
from typing import Any

from kafka.protocol.api_message import VersionSubscriptable
from kafka.protocol.schemas import StructField

_lock = threading.RLock()  # a versioned class asks its primary class
# `__getitem__`, `_VERSIONS`, `_class_version`: where the class of a version is made and kept.
_versioned = VersionSubscriptable.__getitem__
# `compiled_decode_from`, `_compiled_encoders`: where a decoder is compiled and kept.
_decoder = StructField.compiled_decode_from


def _versioned_in_turn(cls: Any, version: Any) -> Any:
    if cls._class_version is None and version in cls._VERSIONS:  # for each message
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
    if known is not None:  # for each message
        return known
    with _lock:
        return _decoder(self, version, compact=compact, tagged=tagged, data_class=data_class)


VersionSubscriptable.__getitem__ = _versioned_in_turn
StructField.compiled_decode_from = _decoder_in_turn
