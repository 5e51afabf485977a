"""Settings in a TOML file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from transport import TP, App, Configuration


def configuration() -> Configuration:
    return App("orders").configuration


def refuses(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        App("orders")


OWN = """
broker = ["memory://one", "memory://one"]
grace = 5
acks = 1
client_only = true
compression_type = "none"

[client_options]
fetch_min_bytes = 10
socket_options = [[6, 1, 1]]
"""


def test_settings_come_from_the_own_file(folder: Path) -> None:
    (folder / "kafka-nursery.toml").write_text(OWN)
    found = configuration()
    path = folder / "kafka-nursery.toml"
    assert found.broker == ["memory://one", "memory://one"]
    assert found.settings.grace == 5.0
    assert found.settings.client.acks == 1
    assert found.settings.client.client_only is True
    assert found.settings.client.compression_type is None
    assert found.settings.client.client_options == {
        "fetch_min_bytes": 10,
        "socket_options": [(6, 1, 1)],
    }
    assert found.origins["grace"] == f"grace in {path}"
    assert found.origins["client_options.fetch_min_bytes"] == (
        f"client_options.fetch_min_bytes in {path}"
    )


@pytest.mark.parametrize("partitions", ['"orders:0,orders:1=42"', '["orders:0", "orders:1=42"]'])
def test_partitions_are_a_text_or_a_list_of_texts(folder: Path, partitions: str) -> None:
    (folder / "kafka-nursery.toml").write_text(f"partitions = {partitions}")
    assert configuration().settings.client.partitions == {
        TP("orders", 0): None,
        TP("orders", 1): 42,
    }


def test_a_partition_that_is_given_twice_is_an_error(folder: Path) -> None:
    (folder / "kafka-nursery.toml").write_text('partitions = "orders:0, orders:0=42"')
    with pytest.raises(ValueError, match=r"each partition once.*orders:0=42"):
        App("billing")


def test_a_file_may_begin_with_the_mark_that_windows_writes(folder: Path) -> None:
    (folder / "kafka-nursery.toml").write_text("commit_interval = 0.5", encoding="utf-8-sig")
    assert App("billing").settings.commit_interval == 0.5


def test_settings_come_from_a_table_of_pyproject(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("[tool.kafka-nursery]\ngrace = 5")
    assert configuration().settings.grace == 5.0


@pytest.mark.parametrize(
    "text", ['[project]\nname = "kafka-nursery"', "[tool.other]\ngrace = 5", "not TOML"]
)
def test_a_pyproject_of_others_gives_no_setting(folder: Path, text: str) -> None:
    (folder / "pyproject.toml").write_text(text)
    assert configuration().origins == {}


def test_the_own_file_comes_in_place_of_pyproject(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("[tool.kafka-nursery]\ngrace = 5\nlinger = 0")
    (folder / "kafka-nursery.toml").write_text("grace = 6")
    found = configuration()
    assert found.settings.grace == 6.0
    assert "linger" not in found.origins


@pytest.mark.parametrize(
    ("name", "text"),
    [("other.toml", "grace = 7"), ("pyproject.toml", "[tool.kafka-nursery]\ngrace = 7")],
)
def test_a_variable_names_the_file_that_is_read_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / name).write_text(text)
    (folder / "kafka-nursery.toml").write_text("grace = 6\nlinger = 0")
    monkeypatch.setenv("KAFKA_NURSERY_CONFIG", str(folder / "sub" / name))
    found = configuration()
    assert found.settings.grace == 7.0
    assert "linger" not in found.origins


def test_a_named_file_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_NURSERY_CONFIG", "missing.toml")
    refuses("missing.toml' cannot be read: No such file")


def test_a_changed_file_is_read_again(folder: Path) -> None:
    for grace in (5, 6):
        (folder / "kafka-nursery.toml").write_text(f"grace = {grace}")
        assert configuration().settings.grace == grace


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("grace = ", "kafka-nursery.toml' is not valid TOML"),
        ("comit_interval = 1", "did you mean commit_interval?"),
        ("linger_ms = 1", "here it is linger, in seconds"),
        ("commit-interval = 1", "here it is commit_interval, a setting of App"),
        ("[commit]\ninterval = 1", "commit in "),
        ('grace = "soon"', "grace must be a finite number of seconds"),
        ("grace = -1", "grace must be a finite number of seconds"),
        ("linger = true", "linger must be a finite number of seconds"),
        ("client_options = 5", "client_options must be a table"),
        ("[client_options]\nssl_cafiel = 5", "did you mean ssl_cafile?"),
        ("[client_options]\nfetch_min_bytes = []", "fetch_min_bytes in client_options must be"),
        ("partitions = [5]", "partitions must be partitions such as"),
        ("partitions = []", "partitions must be at least one partition"),
        ("partitioner = 5", "partitioner must name a Python object"),
        ("broker = 5", "broker must be a URL, such as kafka://HOST:PORT, or a list of URLs"),
        ('broker = ["kafka://h", 5]', "broker must be a URL"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_the_file(
    folder: Path, text: str, error: str
) -> None:
    (folder / "kafka-nursery.toml").write_text(text)
    refuses(error)
    refuses(str(folder / "kafka-nursery.toml"))


def test_an_error_about_the_broker_shows_no_password(folder: Path) -> None:
    (folder / "kafka-nursery.toml").write_text('broker = {url = "kafka+sasl://me:hidden@h"}')
    with pytest.raises(ValueError, match="broker must be a URL") as caught:
        configuration()
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("text", ["[tool]\nkafka-nursery = 5", "[[tool.kafka-nursery]]\ngrace = 5"])
def test_what_is_no_table_in_pyproject_is_refused(folder: Path, text: str) -> None:
    (folder / "pyproject.toml").write_text(text)
    refuses(f"{folder / 'pyproject.toml'}: tool.kafka-nursery must be a table")


def test_a_tool_that_is_no_table_has_no_settings(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("# kafka-nursery\n[[tool]]\na = 1")
    assert configuration().origins == {}


def test_a_removed_folder_has_no_settings(folder: Path) -> None:
    folder.rmdir()
    assert configuration().origins == {}


@pytest.mark.parametrize("broker", ['"none"', "5", "[]", '["memory://", 5]', '"kafka://a:b"'])
def test_an_error_of_the_broker_names_the_file(folder: Path, broker: str) -> None:
    path = folder / "kafka-nursery.toml"
    path.write_text(f"broker = {broker}")
    refuses(f"broker in {path}: ")
