"""The wheel and the sdist of this checkout, and an environment with only the wheel.

Nothing here uses the network. The dependencies are copied from the environment of the tests, and
only those that the wheel names, and those that these name in turn.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

import attrs
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


@attrs.frozen
class Built:
    """The two files of a release."""

    wheel: Path
    sdist: Path


def build(folder: Path) -> Built:
    """Build the sdist, and the wheel from the sdist, as `python -m build` does for a release."""
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder)], ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist)


def unpack(sdist: Path, folder: Path) -> Path:
    """Return the folder of the unpacked sdist."""
    with tarfile.open(sdist) as packed:
        # Python 3.11.2 has no filters yet.
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        packed.extractall(folder, **safe)  # type: ignore[arg-type]
    (unpacked,) = folder.iterdir()
    return unpacked


def contents(wheel: Path) -> dict[str, bytes]:
    """Return the files of a wheel by their names."""
    with zipfile.ZipFile(wheel) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def install(wheel: Path, folder: Path, extra: str = "") -> Path:
    """Make an environment with the wheel and its dependencies, and return its folder of commands.

    Args:
        extra: an extra of the wheel, whose dependencies are installed, too.
    """
    run([sys.executable, "-m", "venv", "--without-pip", str(folder)], ROOT)
    python = folder / "bin" / "python"
    options = ["--no-index", "--no-deps", "--disable-pip-version-check"]
    run([sys.executable, "-m", "pip", "--python", str(python), "install", *options, str(wheel)])
    site = Path(run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]))
    (installed,) = site.glob("kafka_nursery-*.dist-info")
    for each in needed(PathDistribution(installed), extra):
        copy(each, site)
    return python.parent


def needed(wheel: Distribution, extra: str) -> list[Distribution]:
    """Return the dependencies of a distribution, and theirs, as this environment has them."""
    found: dict[tuple[str, str], Distribution] = {}
    waiting = list(requirements(wheel, extra))
    while waiting:
        name, of_it = waiting.pop()
        if (name, of_it) not in found:
            found[name, of_it] = distribution(name)
            waiting.extend(requirements(found[name, of_it], of_it))
    return list({each.name: each for each in found.values()}.values())


def requirements(of: Distribution, extra: str) -> Iterator[tuple[str, str]]:
    """Yield each name that a distribution requires here, once without and once with each extra."""
    for line in of.requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement.name, ""
            for each in requirement.extras:
                yield requirement.name, each


def copy(each: Distribution, site: Path) -> None:
    """Copy the files of a distribution, without its commands."""
    source = Path(sysconfig.get_path("purelib"))
    for file in each.files or []:
        path = Path(str(each.locate_file(file)))
        if path.is_relative_to(source) and ".." not in file.parts and path.is_file():
            target = site / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def run(command: Sequence[str], folder: Path | None = None) -> str:
    """Return what a command prints on stdout. It must end with 0."""
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
    return ended.stdout.strip()
