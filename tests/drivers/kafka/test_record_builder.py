"""Building batches from messages: compiled code writes the same bytes as the client."""

from __future__ import annotations

import logging
import random
import re

import pytest
from kafka.record.memory_records import MemoryRecordsBuilder

from transport.drivers.kafka import KafkaDriver
from transport.drivers.kafka.records import building, compiled_code
from transport.drivers.kafka.records.building import CompiledBatchBuilder, records_builder
from transport.drivers.kafka.records.choice import codec_for
from transport.drivers.settings import ClientSettings

KEYS = [None, b"", b"k", b"k" * 300]
HEADERS: list[list[tuple[str, bytes | None]]] = [
    [],
    [("\u00e9", None)],
    [("a", b"x"), ("", b""), ("a", b"y" * 200)],
]


@pytest.mark.parametrize("transactional", [False, True])
@pytest.mark.parametrize("codec", range(5))
@pytest.mark.parametrize("size", [0, 100, 1000, 20_000])
def test_both_builders_write_the_same_bytes(codec: int, size: int, transactional: bool) -> None:
    drawn = random.Random(size + codec)
    ours = records_builder(codec, size)
    theirs = MemoryRecordsBuilder(2, codec, size)
    assert isinstance(ours._builder, CompiledBatchBuilder)
    for _ in range(60):
        message = (
            drawn.randrange(1 << 41),
            drawn.choice(KEYS),
            drawn.choice([*KEYS, b"v" * drawn.randrange(300)]),
            drawn.choice(HEADERS),
        )
        one, other = ours.append(*message), theirs.append(*message)
        assert (one is None) == (other is None)
        if one is not None:
            found = one.offset, one.size, one.timestamp, one.crc
            assert found == (other.offset, other.size, other.timestamp, other.crc)
        assert ours.size_in_bytes() == theirs.size_in_bytes()
        assert ours.is_full() == theirs.is_full()
    for records in (ours, theirs):
        records.set_producer_state(5, 1, 7, transactional)
        records.close()
        records.close()  # a retry closes it again
    assert bytes(ours.buffer()) == bytes(theirs.buffer())
    for name in ("producer_id", "producer_epoch", "base_sequence"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.compression_rate() == theirs.compression_rate()


@pytest.mark.parametrize(
    "message",
    [
        (1, "key", b"v", []),
        (1, b"k", "value", []),
        (1, b"k", b"v", [("name", "value")]),
        (1, b"k", b"v", [(b"name", b"value")]),
        (1, b"k", b"v", [("\ud800", b"value")]),
        (1, b"k", b"v", [("name",)]),
        ("now", b"k", b"v", []),
        (1 << 70, b"k", b"v", []),
    ],
)
def test_unencodable_message_leaves_batch_unchanged(message: object) -> None:
    ours, alone = records_builder(0, 10_000), records_builder(0, 10_000)
    for records in (ours, alone):
        records.append(1, b"k", b"v", [])
    with pytest.raises((TypeError, ValueError, OverflowError)):
        ours.append(*message)  # type: ignore[misc]
    for records in (ours, alone):
        records.append(2, b"k", b"w", [])
        records.close()
    assert bytes(ours.buffer()) == bytes(alone.buffer())


def without_compiled_code() -> tuple[None, str]:
    return None, "aiokafka cannot be imported: there is none"


def test_python_code_is_used_without_compiled_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(building, "compiled_code", without_compiled_code)
    monkeypatch.setattr(
        "transport.drivers.kafka.records.choice.compiled_code", without_compiled_code
    )
    assert not isinstance(records_builder(0, 1000)._builder, CompiledBatchBuilder)
    codec, reason = codec_for("auto")
    assert (codec.name, reason) == ("pure Python", without_compiled_code()[1])
    with pytest.raises(ValueError, match=r'record_codec="compiled".*there is none.*Install'):
        codec_for("compiled")


def test_setting_chooses_the_implementation() -> None:
    assert codec_for("pure")[0].name == "pure Python"
    assert codec_for("compiled")[0].name == f"aiokafka {compiled_code.compiled_code()[1]}"
    assert not isinstance(records_builder(0, 1000, compiled=False)._builder, CompiledBatchBuilder)


def test_unsupported_version_of_aiokafka_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiokafka.__version__", "0.15.0")
    code, reason = compiled_code.compiled_code.__wrapped__()
    assert code is None
    assert reason == "aiokafka 0.15.0 is installed, and 0.14 is needed"


def test_driver_shows_its_record_codec_and_logs_it_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    driver = KafkaDriver(["127.0.0.1:1"])
    with caplog.at_level(logging.INFO, logger="transport.drivers.kafka"):
        for _ in range(2):
            driver.consumer(ClientSettings(group_id="g", record_codec="pure"))
            driver.producer(ClientSettings(record_codec="pure"))
    assert driver.version.endswith("(records: pure Python)")
    assert [record.getMessage() for record in caplog.records] == [
        "g: records are encoded and decoded by pure Python: record_codec asks for it"
    ]
    driver.consumer(ClientSettings(group_id="g"))
    assert re.search(r"\(records: aiokafka 0\.14\.\d+\)$", driver.version)


def test_compiled_codec_is_refused_if_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "transport.drivers.kafka.records.choice.compiled_code", without_compiled_code
    )
    driver = KafkaDriver(["127.0.0.1:1"])
    for make in (driver.consumer, driver.producer):
        with pytest.raises(ValueError, match='record_codec="compiled" needs'):
            make(ClientSettings(group_id="g", record_codec="compiled"))
