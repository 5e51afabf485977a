"""The example for Kubernetes fits the settings and the paths of the library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from transport import App
from transport.configuration.environment import environment_layer
from transport.web import probes

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "kubernetes.yaml"
MARGIN = 5  # seconds


@pytest.fixture
def pod() -> Any:
    return yaml.safe_load(EXAMPLE.read_text())["spec"]["template"]["spec"]


def variables(pod: Any) -> dict[str, str]:
    return {each["name"]: each["value"] for each in pod["containers"][0]["env"]}


def test_the_termination_fits_the_hook_and_the_grace(pod: Any) -> None:
    grace = float(variables(pod)["KAFKA_NURSERY_GRACE"])
    assert grace == App("orders").settings.grace
    (container,) = pod["containers"]
    command = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command[:2] == ["python", "-c"]
    hook = float(command[2].partition("sleep(")[2].rstrip(")"))
    assert pod["terminationGracePeriodSeconds"] >= hook + grace + MARGIN


def test_the_probes_ask_for_paths_that_are_served(pod: Any) -> None:
    (container,) = pod["containers"]
    served = {route.path for route in probes(App("orders")).routes}  # type: ignore[attr-defined]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] in served
        assert container[probe]["httpGet"]["port"] == container["ports"][0]["name"]
    assert variables(pod)["KAFKA_NURSERY_WEB"].endswith(
        f":{container['ports'][0]['containerPort']}"
    )


def test_the_variables_are_settings(pod: Any, tmp_path: Path) -> None:
    given = variables(pod)
    file = Path(given["KAFKA_NURSERY_BROKER_FILE"])
    (container,) = pod["containers"]
    assert str(file.parent) == container["volumeMounts"][0]["mountPath"]
    (tmp_path / "broker").write_text("kafka://127.0.0.1:9092")
    layer = environment_layer({**given, "KAFKA_NURSERY_BROKER_FILE": str(tmp_path / "broker")})
    assert layer.settings.keys() == {"broker", "grace", "web"}
