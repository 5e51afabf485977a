"""The verb `config`: the settings in force, and where each comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from transport.command_line.program import main
from transport.configuration.conversion import OPTIONS, TYPES


@pytest.fixture(autouse=True)
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "kafka-nursery.toml").write_text("grace = 5")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KAFKA_NURSERY_BROKER", "kafka+sasl+ssl://me:hidden@h:1")
    monkeypatch.setenv("KAFKA_NURSERY_CLIENT_OPTIONS_SSL_PASSWORD", "hidden")
    return tmp_path / "kafka-nursery.toml"


def test_it_shows_every_setting_and_hides_passwords(
    capsys: pytest.CaptureFixture[str], sources: Path
) -> None:
    assert main(["config"]) == 0
    out = capsys.readouterr().out
    lines = [line.split(maxsplit=2) for line in out.splitlines()]
    assert {line[0] for line in lines[1:]} == (TYPES.keys() - {OPTIONS}) | {
        "client_options.ssl_password"
    }
    assert ["grace", "5.0", f"grace in {sources}"] in lines
    assert ["broker", "kafka+sasl+ssl://me:***@h:1", "KAFKA_NURSERY_BROKER"] in lines
    assert ["acks", "all", "default"] in lines
    assert "hidden" not in out


def test_the_example_of_the_help_shows_the_keywords_of_the_app(
    capsys: pytest.CaptureFixture[str], sources: Path
) -> None:
    (sources.parent / "billing.py").write_text(
        "from transport import App\napp = App('billing', linger=1.0)"
    )
    assert main(["config", "billing:app", "--changed", "--json"]) == 0
    rows = {row["setting"]: row["origin"] for row in json.loads(capsys.readouterr().out)}
    assert rows["linger"] == "keyword argument"
    assert rows["grace"] == f"grace in {sources}"


def test_an_object_is_shown_by_its_name_or_its_class(
    capsys: pytest.CaptureFixture[str], sources: Path
) -> None:
    (sources.parent / "tokens.py").write_text(
        "import attrs\n"
        "from transport import App, Monitor\n"
        "@attrs.frozen\n"
        "class Provider:\n"
        "    value: str\n"
        "    def token(self):\n"
        "        return self.value\n"
        "options = {'sasl_oauth_token_provider': Provider('hidden')}\n"
        "app = App('billing', 'memory://', client_options=options, monitor=Monitor())\n"
    )
    assert main(["config", "tokens:app", "--json"]) == 0
    out = capsys.readouterr().out
    shown = {row["setting"]: row["value"] for row in json.loads(out)}
    assert shown["client_options.sasl_oauth_token_provider"] == "tokens:Provider"
    assert shown["monitor"] == "transport.monitoring.monitor:Monitor"
    assert shown["partitioner"] == "transport.partitioner:java_partitioner"
    assert "hidden" not in out


def test_changed_leaves_out_the_defaults(capsys: pytest.CaptureFixture[str], sources: Path) -> None:
    assert main(["config", "--changed", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out) == [
        {
            "setting": "broker",
            "value": "kafka+sasl+ssl://me:***@h:1",
            "origin": "KAFKA_NURSERY_BROKER",
        },
        {"setting": "grace", "value": 5.0, "origin": f"grace in {sources}"},
        {
            "setting": "client_options.ssl_password",
            "value": "***",
            "origin": "KAFKA_NURSERY_CLIENT_OPTIONS_SSL_PASSWORD",
        },
    ]


def test_a_wrong_setting_is_an_error_that_names_its_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_NURSERY_GRACE", "soon")
    assert main(["config"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("kafka-nursery: KAFKA_NURSERY_GRACE: grace must be")


@pytest.mark.parametrize("verb", ["config", "run"])
def test_an_error_of_the_module_has_its_line(
    capsys: pytest.CaptureFixture[str], sources: Path, verb: str
) -> None:
    module = sources.parent / "failing.py"
    module.write_text("import math\n\nmath.sqrt(-1)\n")
    assert main([verb, "failing:app"]) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "the module 'failing' cannot be imported: ValueError: math domain error" in line
    assert line.endswith(f"({module}, line 3)")


def test_a_relative_module_is_no_app(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", ".billing:app"]) == 2
    assert "an app is MODULE:NAME" in capsys.readouterr().err
