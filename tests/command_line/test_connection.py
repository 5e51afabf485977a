"""Where the verbs take the broker and its options from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line.conftest import Run
from tests.lanes import Place
from transport.command_line.connection import broker_and_settings
from transport.command_line.usage import UsageError
from transport.drivers.secret import Url


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KAFKA_NURSERY_BROKER", raising=False)
    return tmp_path


def test_the_broker_of_the_command_line_comes_before_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "kafka-nursery.toml").write_text('broker = ["kafka://file:1", "kafka://file:2"]')
    assert broker_and_settings(None, [], 1.0)[0] == ["kafka://file:1", "kafka://file:2"]
    monkeypatch.setenv("KAFKA_NURSERY_BROKER", "kafka://variable:1")
    assert broker_and_settings(None, [], 1.0)[0] == ["kafka://variable:1"]
    assert broker_and_settings("kafka://option:1", [], 1.0)[0] == ["kafka://option:1"]


def test_options_have_the_type_that_the_client_needs() -> None:
    options = ["fetch_min_bytes=5", "ssl_check_hostname=false", "client_rack=5", "ssl_cafile=a=b"]
    _, settings = broker_and_settings("kafka+ssl://h:1", options, 1.0)
    assert settings["client_options"] == {
        "fetch_min_bytes": 5,
        "ssl_check_hostname": False,
        "client_rack": "5",
        "ssl_cafile": "a=b",
    }


def test_options_are_added_to_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_NURSERY_CLIENT_OPTIONS_CLIENT_RACK", "one")
    monkeypatch.setenv("KAFKA_NURSERY_CLIENT_OPTIONS_FETCH_MIN_BYTES", "1")
    _, settings = broker_and_settings("kafka://h:1", ["client_rack=two"], 1.0)
    assert settings["client_options"] == {"client_rack": "two", "fetch_min_bytes": 1}


def test_a_password_of_a_file_is_shown_nowhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "broker").write_text("kafka+sasl://me:hidden@h:1\n")
    monkeypatch.setenv("KAFKA_NURSERY_BROKER_FILE", "broker")
    urls, _ = broker_and_settings(None, [], 1.0)
    assert urls == [Url("kafka+sasl://me:hidden@h:1")]
    assert "hidden" not in f"{urls} {urls[0]}"


@pytest.mark.parametrize(
    ("broker", "option", "error"),
    [
        (None, [], "no broker was named: use --broker kafka://HOST:PORT"),
        ("kafka://h:1", ["ssl_cafiel=x"], "--option: ssl_cafiel in client_options: .*ssl_cafile?"),
        ("kafka://h:1", ["linger_ms=5"], "here it is linger, in seconds"),
        ("kafka://h:1", ["fetch_min_bytes=x"], "fetch_min_bytes in client_options must be"),
        ("kafka://h:1", ["secret"], "--option takes NAME=VALUE"),
    ],
)
def test_a_wrong_option_is_an_error_of_the_command_line(
    broker: str | None, option: list[str], error: str
) -> None:
    with pytest.raises(UsageError, match=error) as caught:
        broker_and_settings(broker, option, 1.0)
    assert "=x" not in str(caught.value)


async def test_settings_of_a_service_in_the_environment_do_not_disturb_a_verb(
    run: Run, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run("topics", "create", place.name, "-p", "1")
    monkeypatch.setenv("KAFKA_NURSERY_PARTITIONS", "other:0")
    monkeypatch.setenv("KAFKA_NURSERY_GROUP_INSTANCE_ID", "one")
    monkeypatch.setenv("KAFKA_NURSERY_MONITOR", "module_of_the_service:Monitor")
    assert (await run("tail", place.name)).code == 0
    assert (await run("topics", "list")).code == 0
