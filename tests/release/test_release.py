"""The wheel and the sdist work where nothing else of this checkout is."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import transport
from tests.release.built import ROOT, Built, build, contents, install, run, unpack

# One process, because each would build the package again.
pytestmark = pytest.mark.xdist_group("release")

RIGHT = """\
from transport import App, Message

app = App("orders", broker="memory://")
orders = app.topic("orders", key_type=str, value_type=int)


@app.handler(orders)
async def handle(message: Message[str, int]) -> None:
    print(message.key, message.value)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def unpacked(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the unpacked sdist."""
    return unpack(built.sdist, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def commands(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment that has only the wheel and its dependencies."""
    return install(built.wheel, tmp_path_factory.mktemp("environment"))


@pytest.fixture
def python(commands: Path) -> str:
    """The Python of the environment that has only the wheel and its dependencies."""
    return str(commands / "python")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, so that no file of this checkout is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)


def test_the_wheel_has_the_two_packages_and_nothing_else(built: Built) -> None:
    files = contents(built.wheel)
    assert {name.partition("/")[0] for name in files} == {
        "transport",
        "nurseries",
        f"kafka_nursery-{transport.__version__}.dist-info",
    }
    assert {"transport/py.typed", "nurseries/py.typed"} <= files.keys()


def test_the_wheel_has_the_files_of_the_page(built: Built) -> None:
    folder = ROOT / "transport/web/files"
    files = {f"transport/web/files/{path.name}" for path in folder.iterdir()}
    assert files == {
        f"transport/web/files/{name}" for name in ("icon.svg", "page.css", "page.html", "page.js")
    }
    assert files <= contents(built.wheel).keys()


def test_the_sdist_builds_the_wheel_of_the_checkout(built: Built, tmp_path: Path) -> None:
    options = ["--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    run([sys.executable, "-m", "build", *options, str(ROOT)])
    (wheel,) = tmp_path.glob("*.whl")
    assert contents(wheel) == contents(built.wheel)


def test_the_sdist_has_each_file_of_the_repository(built: Built) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("this folder is not a clone of the repository")
    with tarfile.open(built.sdist) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert set(listed.stdout.split()) <= names


def test_the_tests_of_the_sdist_can_be_collected(unpacked: Path) -> None:
    options = ["--collect-only", "-q", "-p", "no:cacheprovider", "tests"]
    collected = run([sys.executable, "-m", "pytest", *options], unpacked)
    assert "error" not in collected.splitlines()[-1]


def test_the_installed_package_has_the_version_of_the_code(python: str) -> None:
    program = (
        "import transport, importlib.metadata as metadata;"
        "print(transport.__version__, metadata.version('kafka-nursery'), transport.__file__)"
    )
    version, of_package, file = run([python, "-c", program]).split()
    assert version == of_package == transport.__version__
    assert Path(file).is_relative_to(Path(python).parents[1])


@pytest.mark.parametrize("module", ["transport", "transport.anyio", "transport.testing"])
def test_a_module_that_needs_no_extra_imports(python: str, module: str) -> None:
    run([python, "-W", "error", "-c", f"import {module}"])


def test_the_installed_demo_runs(python: str) -> None:
    run([python, "-m", "transport", "demo", "--orders", "200"])


def test_the_installed_command_shows_its_version(python: str, commands: Path) -> None:
    for command in ([python, "-m", "transport"], [str(commands / "kafka-nursery")]):
        assert run([*command, "--version"]).split()[-1] == transport.__version__


def test_a_verb_without_its_extra_names_the_extra(commands: Path) -> None:
    ended = subprocess.run(
        [commands / "kafka-nursery", "topics"], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode != 0
    assert "kafka-nursery[cli]" in ended.stderr


def test_the_extra_brings_all_that_the_verbs_need(built: Built, tmp_path: Path) -> None:
    commands = install(built.wheel, tmp_path / "environment", "cli")
    assert "tail" in run([str(commands / "kafka-nursery"), "--help"])
    assert run([str(commands / "kafka-nursery"), "--version"]) == transport.__version__


def test_the_installed_package_has_types(python: str, tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(RIGHT.replace("Message[str, int]", "Message[str, bytes]"))
    options = ["--strict", "--config-file=", "--cache-dir=cache", "--python-executable", python]
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "right.py", "wrong.py"],
        capture_output=True,
        text=True,
    )
    assert re.fullmatch(
        r"wrong\.py:\d+: error: .*\[arg-type\]\nFound 1 error in 1 file .*\n", checked.stdout
    ), checked.stdout + checked.stderr


def test_the_readme_names_the_version() -> None:
    assert f"version {transport.__version__}" in (ROOT / "README.md").read_text()
