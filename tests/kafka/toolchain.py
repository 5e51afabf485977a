"""What a real broker needs on this machine: Java 17 and, once, Maven to fetch Kafka's jars.

``python -m tests.kafka.toolchain`` says what is missing and ends with 1, or ends with 0; the
Makefile asks it before it starts the Kafka lane.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
POM = HERE / "pom.xml"
CACHE = HERE.parents[1] / ".kafka" / "libs"
JAVA_AT_LEAST = 17
FETCH_TIMEOUT = 600.0  # seconds; 44 MB, a few seconds on a usual line


class ToolchainMissing(RuntimeError):
    """Java or Maven is not there, or is too old; the message says which and how to get it."""


def find_java() -> str:
    """The path of a Java that is new enough: that of JAVA_HOME, else that of PATH."""
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
        raise ToolchainMissing(f"{path} does not tell its version: {advice}")
    if int(version[1]) < JAVA_AT_LEAST:
        raise ToolchainMissing(f"{path} is Java {version[1]}: {advice}")
    return path


def find_maven() -> str:
    """The path of Maven's command."""
    path = shutil.which("mvn")
    if path is None:
        raise ToolchainMissing("mvn was not found: install Maven (Debian: apt-get install maven)")
    return path


def cached_jars() -> Path:
    """The folder of the jars that pom.xml names, which may not have been fetched yet."""
    return CACHE / hashlib.sha256(POM.read_bytes()).hexdigest()[:12]


def fetch_jars() -> Path:
    """The folder with Kafka's jars, fetched with Maven if this pom.xml's are not there.

    The folder appears by a rename and so is whole or not there at all: an interrupted fetch leaves
    nothing that counts, and of two at once the first one's stays.
    """
    jars = cached_jars()
    if jars.is_dir():
        return jars
    maven = find_maven()
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="partial-", dir=CACHE) as temp:
        partial = Path(temp, "jars")
        answer = subprocess.run(
            [
                *(maven, "-q", "-B", "-f", str(POM), "dependency:copy-dependencies"),
                *(f"-DoutputDirectory={partial}", "-DincludeScope=runtime"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=FETCH_TIMEOUT,
        )
        if answer.returncode != 0:
            raise RuntimeError(f"Maven could not fetch Kafka's jars:\n{answer.stdout[-4000:]}")
        try:
            partial.rename(jars)
        except OSError:
            if not jars.is_dir():
                raise
    return jars


def main() -> int:
    missing = []
    for find in (find_java,) if cached_jars().is_dir() else (find_java, find_maven):
        try:
            find()
        except ToolchainMissing as error:
            missing.append(str(error))
    print(*missing, sep="\n", end="\n" if missing else "", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
