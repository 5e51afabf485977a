"""The order of the sources, and the origin of each setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.configuration.values import TEXTS
from transport import App, MemoryBroker
from transport.configuration.conversion import OPTIONS, TYPES


@pytest.fixture
def sources(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that has all settings below, and variables that have some."""
    (folder / "kafka-nursery.toml").write_text(
        'broker = "memory://file"\nlinger = 1\ngrace = 1\nbuffer_size = 1\n'
        '[client_options]\nclient_rack = "file"\nfetch_min_bytes = 1\nfetch_max_wait_ms = 1\n'
    )
    monkeypatch.setenv("KAFKA_NURSERY_BROKER", "memory://variable")
    monkeypatch.setenv("KAFKA_NURSERY_LINGER", "2")
    monkeypatch.setenv("KAFKA_NURSERY_GRACE", "2")
    monkeypatch.setenv("KAFKA_NURSERY_CLIENT_OPTIONS_CLIENT_RACK", "variable")
    monkeypatch.setenv("KAFKA_NURSERY_CLIENT_OPTIONS_FETCH_MIN_BYTES", "2")
    return folder / "kafka-nursery.toml"


def test_a_keyword_comes_before_a_variable_and_that_before_the_file(sources: Path) -> None:
    app = App("orders", "memory://keyword", linger=3.0, client_options={"client_rack": "keyword"})
    rows = {name: (value, origin) for name, value, origin in app.configuration.rows()}
    assert rows["broker"] == ("memory://keyword", "keyword argument")
    assert rows["linger"] == (3.0, "keyword argument")
    assert rows["grace"] == (2.0, "KAFKA_NURSERY_GRACE")
    assert rows["buffer_size"] == (1, f"buffer_size in {sources}")
    assert rows["commit_interval"] == (1.0, "default")
    assert rows["client_options.client_rack"] == ("keyword", "keyword argument")
    assert rows["client_options.fetch_min_bytes"][0] == 2
    assert rows["client_options.fetch_max_wait_ms"][0] == 1
    assert app.settings.client.client_options == {
        "client_rack": "keyword",
        "fetch_min_bytes": 2,
        "fetch_max_wait_ms": 1,
    }


@pytest.mark.usefixtures("sources")
def test_a_broker_object_comes_before_the_other_sources() -> None:
    broker = MemoryBroker()
    assert App("orders", broker).configuration.broker is broker
    assert App("orders").configuration.broker == "memory://variable"


def test_without_a_source_the_defaults_are_in_force() -> None:
    configuration = App("orders").configuration
    assert configuration.origins == {}
    assert configuration.broker == "memory://"
    assert {name for name, _, _ in configuration.rows()} == TYPES.keys() - {OPTIONS}
    assert all(origin == "default" for _, _, origin in configuration.rows())


@pytest.mark.usefixtures("sources")
def test_a_keyword_with_a_wrong_value_is_refused_as_without_other_sources() -> None:
    with pytest.raises(TypeError, match="client_options must be a mapping"):
        App("orders", client_options=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^unknown settings: linger_ms: here it is linger"):
        App("orders", linger_ms=5)  # type: ignore[call-arg]


def test_a_contradiction_names_the_source_that_the_program_does_not_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAFKA_NURSERY_HEARTBEAT_INTERVAL", "50")
    monkeypatch.setenv("KAFKA_NURSERY_GRACE", "5")
    with pytest.raises(ValueError, match="must be less than session_timeout") as caught:
        App("orders", session_timeout=40.0)
    assert str(caught.value).endswith(
        "(heartbeat_interval comes from KAFKA_NURSERY_HEARTBEAT_INTERVAL)"
    )


def test_rows_show_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_NURSERY_CLIENT_OPTIONS_SSL_PASSWORD", "hidden")
    one = App("orders", "kafka+sasl+ssl://me:hidden@h:1")
    two = App("orders", ["kafka+sasl+ssl://me:hidden@h:1", "kafka+sasl+ssl://me:hidden@i:1"])
    for app in (one, two):
        assert "hidden" not in repr(list(app.configuration.rows()))
        assert "hidden" not in repr(app.configuration)
        assert "hidden" not in str(list(app.configuration.rows()))


@pytest.mark.parametrize("name", TEXTS)
def test_each_setting_has_a_row(name: str) -> None:
    assert [row[2] for row in App("orders").configuration.rows() if row[0] == name] == ["default"]
