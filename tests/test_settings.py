"""Settings are checked when an app is made, before anything connects."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from typing import Any, get_type_hints

import attrs
import kafka.errors
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from transport import App, ClientSettings, Settings, SettingsArgs
from transport.drivers.kafka.options import admin_options, consumer_options, producer_options
from transport.drivers.secret import secretive

DURATIONS = [
    "session_timeout",
    "heartbeat_interval",
    "max_poll_interval",
    "drain_timeout",
    "request_timeout",
    "connect_timeout",
    "commit_timeout",
    "delivery_timeout",
    "commit_interval",
    "grace",
]


def test_the_keywords_of_an_app_have_the_names_and_types_of_its_settings() -> None:
    set_by_the_app = {"client", "group_id", "transactional_id"}
    fields = {**get_type_hints(Settings), **get_type_hints(ClientSettings)}
    assert get_type_hints(SettingsArgs) == {
        name: kind for name, kind in fields.items() if name not in set_by_the_app
    }
    assert not SettingsArgs.__required_keys__


def test_an_app_takes_each_of_its_keywords_with_the_default() -> None:
    app = App("group")
    given = {
        name: getattr(app.settings if hasattr(app.settings, name) else app.settings.client, name)
        for name in get_type_hints(SettingsArgs)
    }
    assert App("group", **given).settings == app.settings


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("value", [0, -1.0])
def test_a_duration_must_be_above_0(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        App("group", **{name: value})


@pytest.mark.parametrize("name", ["linger", "max_batch_size"])
def test_linger_and_batch_size_may_be_0_but_not_less(name: str) -> None:
    App("group", **{name: 0})
    with pytest.raises(ValueError, match=name):
        App("group", **{name: -1})


@pytest.mark.parametrize("options", [consumer_options, producer_options, admin_options])
def test_an_ssl_context_reaches_each_client_and_is_not_shown(
    options: Callable[..., dict[str, Any]],
) -> None:
    context = ssl.create_default_context()
    app = App("group", "kafka+ssl://127.0.0.1:9092", ssl_context=context)
    assert app.producer.ssl_context is context
    client = app.settings.client
    assert (
        options(["127.0.0.1:9092"], {"security_protocol": "SSL"}, client)["ssl_context"] is context
    )
    assert "ssl_context" not in options(
        ["127.0.0.1:9092"], {}, attrs.evolve(client, ssl_context=None)
    )
    assert "SSLContext" not in repr(app.settings)


SECRETS = {"sasl_plain_password": "a-secret", "ssl_password": "a-secret"}


@pytest.mark.parametrize(
    ("options", "client_class"),
    [
        (consumer_options, KafkaConsumer),
        (producer_options, KafkaProducer),
        (admin_options, KafkaAdminClient),
    ],
)
@pytest.mark.parametrize("given", [(SECRETS, {}), ({}, SECRETS)])
def test_a_password_reaches_the_client_and_is_never_shown(
    caplog: pytest.LogCaptureFixture,
    options: Callable[..., dict[str, Any]],
    client_class: Callable[..., Any],
    given: tuple[dict[str, str], dict[str, str]],
) -> None:
    caplog.set_level(logging.DEBUG)
    security, chosen = given
    app = App("group", client_options=chosen, connect_timeout=0.01)
    security = {**secretive(security), "security_protocol": "SASL_SSL"}
    wanted = options(["127.0.0.1:1"], security, app.settings.client)
    assert {name: wanted[name] for name in SECRETS} == SECRETS
    with pytest.raises(kafka.errors.KafkaError) as caught:
        client_class(
            **{**wanted, "security_protocol": "SASL_PLAINTEXT"},
            sasl_mechanism="PLAIN",
            sasl_plain_username="me",
        )
    assert "kafka" in caplog.text
    for shown in (caplog.text, str(caught.value), repr(app.settings), repr(wanted)):
        assert "a-secret" not in shown


def test_client_options_choose_another_way_to_log_in() -> None:
    """A URL has a user and a password; other mechanisms are set in the client options."""
    provider = object()
    login = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "OAUTHBEARER",
        "sasl_oauth_token_provider": provider,
    }
    app = App("group", "kafka+ssl://127.0.0.1:9092", client_options=login)
    for options in (consumer_options, producer_options, admin_options):
        wanted = options(["127.0.0.1:9092"], {"security_protocol": "SSL"}, app.settings.client)
        assert login.items() <= wanted.items()


@pytest.mark.parametrize(
    "name",
    ["auto_offset_reset", "assignment", "isolation", "acks", "compression_type", "record_codec"],
)
def test_an_unknown_choice_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        App("group", **{name: "something else"})


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(TypeError, match="buffer_sise"):
        App("group", buffer_sise=3)


def test_max_poll_interval_must_leave_room_for_a_rebalance() -> None:
    with pytest.raises(ValueError, match="max_poll_interval"):
        App("group", max_poll_interval=14.0, commit_timeout=10.0, heartbeat_interval=3.0)


@pytest.mark.parametrize("drain_timeout", [None, 1.0, 5.0, 1e6])
@pytest.mark.parametrize("max_poll_interval", [12.1, 20.0, 300.0])
def test_the_rebalance_bound_is_below_max_poll_interval(
    max_poll_interval: float, drain_timeout: float | None
) -> None:
    settings = ClientSettings(max_poll_interval=max_poll_interval, drain_timeout=drain_timeout)
    bound = settings.rebalance_bound
    assert 0 < bound <= max_poll_interval - 10.0 - 1.0 - 1.0
    if drain_timeout is not None:
        assert bound <= drain_timeout


def test_every_setting_of_the_client_can_be_given_to_the_app() -> None:
    values = {field.name: field.default for field in attrs.fields(ClientSettings)}
    del values["group_id"], values["client_options"], values["transactional_id"]
    app = App("group", **values)
    assert app.settings.client == ClientSettings(group_id="group")
