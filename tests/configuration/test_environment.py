"""Settings in environment variables, and in the files that these name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.configuration.values import OPTION_TEXTS, TEXTS
from transport import App, Monitor
from transport.configuration.conversion import OPTIONS, TYPES
from transport.drivers.client_options import PASSED
from transport.monitoring.tracing import Tracing


def value_of(app: App, name: str) -> Any:
    return {row[0]: row[1] for row in app.configuration.rows()}[name]


def refuses(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        App("orders")


def test_each_setting_and_each_option_has_a_text() -> None:
    assert TEXTS.keys() == TYPES.keys() - {OPTIONS}
    assert OPTION_TEXTS.keys() == PASSED.keys()


@pytest.mark.parametrize("name", TEXTS)
def test_each_setting_comes_from_its_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value = TEXTS[name]
    assert value_of(App("orders"), name) != value
    monkeypatch.setenv(f"KAFKA_NURSERY_{name.upper()}", text)
    app = App("orders")
    assert value_of(app, name) == value
    assert isinstance(value_of(app, name), type(value))
    assert app.configuration.origins == {name: f"KAFKA_NURSERY_{name.upper()}"}


@pytest.mark.parametrize("name", OPTION_TEXTS)
def test_each_client_option_comes_from_its_variable(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value = OPTION_TEXTS[name]
    variable = f"KAFKA_NURSERY_CLIENT_OPTIONS_{name.upper()}"
    monkeypatch.setenv(variable, text)
    app = App("orders")
    assert app.settings.client.client_options == {name: value}
    assert app.configuration.origins == {f"client_options.{name}": variable}


@pytest.mark.parametrize("name", ["drain_timeout", "compression_type", "transactions", "monitor"])
def test_the_text_none_stands_for_the_absence_of_a_value(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"KAFKA_NURSERY_{name.upper()}", "none")
    assert value_of(App("orders"), name) is None


def test_each_app_gets_its_own_monitor_of_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_NURSERY_MONITOR", "transport:Monitor")
    one, two = App("one"), App("two")
    assert isinstance(one.monitor, Monitor)
    assert isinstance(two.monitor, Monitor)
    assert one.monitor is not two.monitor


def test_each_app_gets_its_own_tracing_of_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_NURSERY_TRACING", "transport.monitoring.tracing:Tracing")
    one, two = App("one", "memory://"), App("two", "memory://")
    assert isinstance(one.tracing, Tracing)
    assert isinstance(two.tracing, Tracing)
    assert one.tracing is not two.tracing


def test_a_file_holds_the_value_of_a_setting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "broker").write_text("memory://secret\n")
    (folder / "password").write_text(" pass word \r\n")
    monkeypatch.setenv("KAFKA_NURSERY_BROKER_FILE", "broker")
    variable = "KAFKA_NURSERY_CLIENT_OPTIONS_SASL_PLAIN_PASSWORD_FILE"
    monkeypatch.setenv(variable, str(folder / "password"))
    configuration = App("orders").configuration
    assert configuration.broker == "memory://secret"
    assert configuration.settings.client.client_options["sasl_plain_password"] == " pass word "
    assert configuration.origins["broker"] == "KAFKA_NURSERY_BROKER_FILE"


def test_a_file_that_cannot_be_read_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_NURSERY_GRACE_FILE", "missing")
    refuses("KAFKA_NURSERY_GRACE_FILE: the file 'missing' cannot be read: No such file")
    (folder / "missing").write_bytes(b"\xff")
    refuses("KAFKA_NURSERY_GRACE_FILE: the file 'missing' cannot be read: not UTF-8")


def test_a_variable_and_its_file_must_not_be_set_both(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "grace").write_text("5")
    monkeypatch.setenv("KAFKA_NURSERY_GRACE", "5")
    monkeypatch.setenv("KAFKA_NURSERY_GRACE_FILE", "grace")
    refuses("KAFKA_NURSERY_GRACE_FILE and KAFKA_NURSERY_GRACE are both set: remove one")


@pytest.mark.parametrize(
    ("variable", "text", "error"),
    [
        ("COMIT_INTERVAL", "1", "KAFKA_NURSERY_COMIT_INTERVAL: did you mean commit_interval?"),
        ("LINGER_MS", "5", "KAFKA_NURSERY_LINGER_MS: here it is linger, in seconds"),
        ("BOOTSTRAP_SERVERS", "h", "here it is the broker argument of App"),
        ("BROKER_COMMIT_INTERVAL", "5", "here it is commit_interval, in seconds"),
        ("LINGER_MS_FILE", "5", "KAFKA_NURSERY_LINGER_MS_FILE: here it is linger, in seconds"),
        ("SSL_CAFILE", "ca", "KAFKA_NURSERY_SSL_CAFILE: an option of kafka-python"),
        ("ZEBRA", "1", "Write a setting in capitals after KAFKA_NURSERY_"),
        ("CLIENT_OPTIONS", "{}", "Write a setting in capitals after KAFKA_NURSERY_"),
        ("CLIENT_OPTIONS_LINGER_MS", "5", "linger_ms in client_options: here it is linger"),
        ("CLIENT_OPTIONS_SSL_CAFIEL", "5", "did you mean ssl_cafile?"),
        ("GRACE", "", "KAFKA_NURSERY_GRACE is empty: give it a value, or remove it"),
        ("GRACE", "soon", "KAFKA_NURSERY_GRACE: grace must be a finite number"),
        ("GRACE", "-1", "KAFKA_NURSERY_GRACE: grace must be a finite number"),
        ("BUFFER_SIZE", "1.5", "KAFKA_NURSERY_BUFFER_SIZE: buffer_size must be a whole number"),
        ("CLIENT_ONLY", "perhaps", "KAFKA_NURSERY_CLIENT_ONLY: client_only must be"),
        ("ACKS", "2", "KAFKA_NURSERY_ACKS: acks must be"),
        ("PARTITIONS", "orders", "KAFKA_NURSERY_PARTITIONS: partitions must be partitions such"),
        ("MONITOR", "Monitor", "KAFKA_NURSERY_MONITOR: monitor must name a Python object"),
        ("MONITOR", "nowhere:x", "monitor: nowhere:x cannot be imported: No module named"),
        ("MONITOR", "transport:x", "monitor: transport:x cannot be imported: module"),
        ("MONITOR", "transport:App.run", "monitor must be a Sensor"),
        ("TRACING", "transport:Monitor", "tracing must be a Tracing"),
        ("CLIENT_OPTIONS_FETCH_MIN_BYTES", "x", "fetch_min_bytes in client_options must be"),
        ("CLIENT_OPTIONS_SOCKET_OPTIONS", "[1", "socket_options must be a list of lists as JSON"),
    ],
)
def test_a_wrong_variable_is_an_error_that_names_it(
    variable: str, text: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"KAFKA_NURSERY_{variable}", text)
    refuses(error)


def test_an_error_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_NURSERY_BROKER", "kafka+sasl://me:hidden@h:http")
    with pytest.raises(ValueError, match="bad port") as caught:
        App("orders")
    assert "hidden" not in str(caught.value)


def test_an_error_shows_no_token_that_was_given_in_place_of_its_provider(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAFKA_NURSERY_CLIENT_OPTIONS_SASL_OAUTH_TOKEN_PROVIDER", "hidden")
    with pytest.raises(ValueError, match="must name a Python object") as caught:
        App("orders")
    assert "hidden" not in str(caught.value)


def test_other_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_GRACE", "soon")
    monkeypatch.setenv("grace", "soon")
    assert App("orders").configuration.origins == {}


@pytest.mark.parametrize(
    "name", ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_WEB", "PORT", "PORT_8080_TCP_ADDR"]
)
def test_variables_of_a_kubernetes_service_are_ignored(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes sets them in each pod beside a Service that is named kafka-nursery."""
    monkeypatch.setenv(f"KAFKA_NURSERY_{name}", "10.0.0.1")
    assert App("orders").configuration.origins == {}
