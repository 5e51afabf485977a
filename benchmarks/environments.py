"""The environments of the contenders: one folder each, with a Python and the packages of one peer.

An environment is made when it is first needed, below `.bench/`, which git ignores. uv makes it if
uv is installed, otherwise venv and pip. The environment of the Java peer has jars, which Maven
fetches.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from tests.kafka.toolchain import ToolchainMissing, find_java, find_maven

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".bench"
# The environment in which the project is installed and the benchmarks run.
PROJECT = "project"
REQUIREMENTS = {
    "aiokafka": ("aiokafka[lz4,snappy,zstd]>=0.14,<0.15",),
    "confluent": ("confluent-kafka>=2.11",),
    "faust": ("faust-streaming>=0.11",),
    "faststream": ("faststream[kafka]>=0.6",),
    "plots": ("matplotlib>=3.9",),
    "profiler": ("py-spy>=0.4",),
}
# The environment of Confluent's Parallel Consumer.
JAVA = "java"
CONTENDERS = Path(__file__).parent / "contenders"
POM = CONTENDERS / "parallel-pom.xml"
TIMEOUT = 600.0  # seconds for one command


class EnvironmentFailed(RuntimeError):
    """An environment could not be made. The message has the output of the installer."""


def command_of(environment: str, program: str) -> list[str]:
    """Return the command line of a contender, without its job. Raises EnvironmentFailed."""
    if environment == JAVA:
        return [*_java(), str(CONTENDERS / f"{program}.java")]
    return [python_of(environment), str(CONTENDERS / f"{program}.py")]


def python_of(name: str) -> str:
    """Return the Python of an environment. Make the environment if it does not exist.

    Raises EnvironmentFailed.
    """
    if name == PROJECT:
        return sys.executable
    packages = REQUIREMENTS[name]
    folder = FOLDER / name
    python = folder / "bin" / "python"
    ready = folder / f".ready-{hashlib.sha256(repr(packages).encode()).hexdigest()[:12]}"
    if not ready.exists():
        print(f"  installing {', '.join(packages)} into {folder.relative_to(ROOT)}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _install(folder, python, packages)
        ready.touch()
    return str(python)


def _java() -> list[str]:
    try:
        java, maven = find_java(), find_maven()
    except ToolchainMissing as error:
        raise EnvironmentFailed(str(error)) from error
    folder = FOLDER / JAVA
    ready = folder / f".ready-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"
    if not ready.exists():
        shutil.rmtree(folder, ignore_errors=True)
        goal = "dependency:copy-dependencies"
        _run(maven, "-q", "-B", "-f", str(POM), goal, f"-DoutputDirectory={folder}")
        ready.touch()
    return [java, "-cp", f"{folder}/*"]


def _install(folder: Path, python: Path, packages: tuple[str, ...]) -> None:
    uv = shutil.which("uv")
    if uv is not None:
        _run(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
        _run(uv, "pip", "install", "--quiet", "--python", str(python), *packages)
    else:
        _run(sys.executable, "-m", "venv", str(folder))
        _run(str(python), "-m", "pip", "install", "--quiet", *packages)


def _run(*command: str) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    if ended.returncode != 0:
        raise EnvironmentFailed(f"{' '.join(command)}:\n{ended.stdout}{ended.stderr}")
