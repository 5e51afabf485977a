"""The tools that a real broker needs: Java 17 and, once, Maven to fetch its jars.

Maven also fetches Apicurio, a schema registry. The environment variable KAFKA_VERSION chooses
another Kafka: "3.9", or a whole version, such as "4.0.0". Each version has its own folder.

``python -m tests.kafka.toolchain`` names missing tools and exits with 1, or exits with 0. The
Makefile runs it before the Kafka lane. With ``--faults`` it also checks for Go, which builds
Toxiproxy once; the fault tests break the network with it.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
POM = HERE / "pom.xml"
CACHE = HERE.parents[1] / ".kafka" / "libs"
JAVA_AT_LEAST = 17
DEFAULT_SERIES = "4.3"
RELEASES = {"3.9": "3.9.2", "4.3": "4.3.1"}
APICURIO = "io.apicurio:apicurio-registry-app"
APICURIO_VERSION = "3.0.9"  # the last one that runs on Java 17
TOXIPROXY = "github.com/Shopify/toxiproxy/v2/cmd/server"
TOXIPROXY_VERSION = "v2.12.0"
GO_PLACES = ("go", "/usr/local/go/bin/go")
GO_AT_LEAST = (1, 21)  # it downloads the newer Go that Toxiproxy needs by itself
FETCH_TIMEOUT = 600.0  # seconds; 150 MB take some seconds on a usual connection


class ToolchainMissing(RuntimeError):
    """Java, Maven or Go is missing or too old; the message says which, and how to install it."""


def find_java() -> str:
    """Return the path of a Java that is new enough, from JAVA_HOME or else from PATH."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else "java"
    advice = f"install Java {JAVA_AT_LEAST}+ (Debian: apt-get install default-jre-headless)"
    path = shutil.which(java)
    if path is None:
        raise ToolchainMissing(f"{java} was not found: {advice}")
    answer = subprocess.run(
        [path, "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
    )
    version = re.search(r'version "(\d+)', answer.stderr)
    if version is None:
        raise ToolchainMissing(f"{path} does not show its version: {advice}")
    if int(version[1]) < JAVA_AT_LEAST:
        raise ToolchainMissing(f"{path} is Java {version[1]}: {advice}")
    return path


def find_maven() -> str:
    """Return the path of Maven's command."""
    path = shutil.which("mvn")
    if path is None:
        raise ToolchainMissing("mvn was not found: install Maven (Debian: apt-get install maven)")
    return path


def kafka_version() -> str:
    """Return the version of Kafka that the tests run on, as KAFKA_VERSION chooses it."""
    chosen = os.environ.get("KAFKA_VERSION") or DEFAULT_SERIES
    return RELEASES.get(chosen, chosen)


def is_older_than(major: int, minor: int) -> bool:
    """Return whether the tests run on a Kafka before this version."""
    return tuple(map(int, kafka_version().split(".")[:2])) < (major, minor)


def cached_jars() -> Path:
    """Return the folder of the jars that pom.xml names. It may not exist yet."""
    return CACHE / f"{kafka_version()}-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"


def fetch_jars() -> Path:
    """Return the folder with Kafka's jars, and fetch them with Maven if it does not exist.

    The folder appears by a rename, so it is whole or does not exist, even after an interrupted
    fetch. Of two concurrent fetches, the folder of the first one stays.
    """
    jars = cached_jars()
    if not jars.is_dir():
        _fetch(jars, "dependency:copy-dependencies", "-DincludeScope=runtime")
    return jars


def cached_apicurio() -> Path:
    """Return the folder of Apicurio's program. It may not exist yet."""
    return CACHE.parent / f"apicurio-{APICURIO_VERSION}"


def fetch_apicurio() -> Path:
    """Return the jar of Apicurio's program, and fetch it with Maven if it does not exist."""
    folder = cached_apicurio()
    if not folder.is_dir():
        _fetch(folder, "dependency:copy", f"-Dartifact={APICURIO}:{APICURIO_VERSION}:tar.gz:all")
    return folder / f"apicurio-registry-app-{APICURIO_VERSION}-runner.jar"


def _fetch(folder: Path, goal: str, *options: str) -> None:
    """Let Maven fill a folder, and unpack what it has fetched."""
    maven = find_maven()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="partial-", dir=folder.parent) as temp:
        partial = Path(temp, "fetched")
        answer = subprocess.run(
            [
                *(maven, "-q", "-B", "-f", str(POM), goal, *options),
                f"-Dkafka.version={kafka_version()}",  # each goal reads the whole file
                f"-DoutputDirectory={partial}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=FETCH_TIMEOUT,
        )
        if answer.returncode != 0:
            raise RuntimeError(f"Maven could not fetch {folder.name}:\n{answer.stdout[-4000:]}")
        for packed in partial.glob("*.tar.gz"):
            subprocess.run(
                ["tar", "-xzf", packed, "-C", partial], check=True, timeout=FETCH_TIMEOUT
            )
            packed.unlink()
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise


def find_go() -> str:
    """Return the path of a Go that is new enough, from PATH or else from its installer's folder."""
    needed = ".".join(map(str, GO_AT_LEAST))
    advice = f"install Go {needed}+ (https://go.dev/dl; Debian 13: apt-get install golang-go)"
    path = next(filter(None, map(shutil.which, GO_PLACES)), None)
    if path is None:
        raise ToolchainMissing(f"go was not found: {advice}")
    answer = subprocess.run(
        [path, "env", "GOVERSION"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    version = re.match(r"go(\d+)\.(\d+)", answer.stdout)
    if version is None:
        raise ToolchainMissing(f"{path} does not show its version: {advice}")
    if (int(version[1]), int(version[2])) < GO_AT_LEAST:
        raise ToolchainMissing(f"{path} is {answer.stdout.strip()}: {advice}")
    return path


def cached_toxiproxy() -> Path:
    """Return the path of Toxiproxy's program. It may not exist yet."""
    return CACHE.parent / f"toxiproxy-{TOXIPROXY_VERSION}" / "server"


def fetch_toxiproxy() -> Path:
    """Return the path of Toxiproxy's program, and build it with Go if it does not exist."""
    program = cached_toxiproxy()
    if program.is_file():
        return program
    go = find_go()
    program.parent.mkdir(parents=True, exist_ok=True)
    # Go moves a program to its path only when it is whole.
    answer = subprocess.run(
        [go, "install", f"{TOXIPROXY}@{TOXIPROXY_VERSION}"],
        env={**os.environ, "GOBIN": str(program.parent)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=FETCH_TIMEOUT,
    )
    if answer.returncode != 0:
        raise RuntimeError(f"Go could not build Toxiproxy:\n{answer.stdout[-4000:]}")
    return program


def main(*words: str) -> int:
    finders: list[Callable[[], str]] = [find_java]
    if not cached_jars().is_dir() or not cached_apicurio().is_dir():
        finders.append(find_maven)
    if "--faults" in words and not cached_toxiproxy().is_file():
        finders.append(find_go)
    missing = []
    for find in finders:
        try:
            find()
        except ToolchainMissing as error:
            missing.append(str(error))
    print(*missing, sep="\n", end="\n" if missing else "", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
