"""The error of `App` for an unknown setting, which names the right one."""

from __future__ import annotations

import re

import attrs
import pytest

from transport import App
from transport.drivers.client_options import PASSED
from transport.drivers.settings import ClientSettings
from transport.settings import Settings
from transport.synonyms import _OTHERS, explanation_of

SETTINGS = {field.name for kind in (Settings, ClientSettings) for field in attrs.fields(kind)}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        # The nearest of our names
        ("buffer_sise", "buffer_sise: did you mean buffer_size?"),
        ("comit_interval", "comit_interval: did you mean commit_interval?"),
        ("requesttimeout", "requesttimeout: did you mean request_timeout?"),
        ("zebra", "zebra: no setting has a similar name"),
        # Other libraries' names
        ("linger_ms", "linger_ms: here it is linger, in seconds"),
        ("group_id", "group_id: here it is the first argument of App"),
        ("bootstrap_servers", "bootstrap_servers: here it is the broker argument of App"),
        ("enable_auto_commit", "acked messages are committed every commit_interval"),
        ("max_poll_records", "buffer_size bounds the messages"),
        ("value_deserializer", "App.topic(name, value_type=str)"),
        ("auto.offset.reset", "auto.offset.reset: here it is auto_offset_reset"),
        ("session.timeout.ms", "session.timeout.ms: here it is session_timeout, in seconds"),
        ("bootstrap.servers", "here it is the broker argument of App"),
        ("queue.buffering.max.ms", "here it is linger, in seconds"),
        ("isolation.level", "here it is isolation"),
        ("broker_commit_interval", "here it is commit_interval, in seconds"),
        ("processing_guarantee", "here it is transactions"),
        ("rebalance_timeout_ms", "here it is max_poll_interval, in seconds"),
        ("fetch_min_bytes", "client_options={'fetch_min_bytes': ...}"),
        ("fetch.min.bytes", "client_options={'fetch_min_bytes': ...}"),
        ("security.protocol", "client_options={'security_protocol': ...}"),
    ],
)
def test_an_unknown_setting_leads_to_ours(name: str, told: str) -> None:
    with pytest.raises(TypeError, match=re.escape(told)) as caught:
        App("group", **{name: 5})
    assert str(caught.value).startswith("unknown settings: ")


def test_each_of_several_unknown_settings_is_named() -> None:
    with pytest.raises(TypeError, match=r"buffer_sise: .*; linger_ms: .*seconds"):
        App("group", buffer_sise=5, linger_ms=5)


@pytest.mark.parametrize("name", _OTHERS)
def test_the_suggested_setting_exists(name: str) -> None:
    told = explanation_of(name, SETTINGS)
    assert name not in SETTINGS
    named = re.findall(r"here it is (?:the )?(\w+)", told)
    there = SETTINGS | {*PASSED, "broker", "first", "an", "in"}
    assert there.issuperset(named)
