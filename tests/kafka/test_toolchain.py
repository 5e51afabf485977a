"""The errors for missing tools, and the state after a failed fetch."""

from pathlib import Path

import pytest

from tests.kafka import toolchain


@pytest.fixture(autouse=True)
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that is the whole PATH. The cache is empty, too."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in ("JAVA_HOME", "KAFKA_VERSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(toolchain, "CACHE", tmp_path / "libs")
    return folder


def put(command: Path, script: str) -> Path:
    command.parent.mkdir(parents=True, exist_ok=True)
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    return command


def test_missing_java_and_maven_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert toolchain.main() == 1
    said = capsys.readouterr().err
    assert "java was not found" in said
    assert "mvn was not found" in said


def test_an_old_java_is_refused(bin_folder: Path) -> None:
    put(bin_folder / "java", """echo 'openjdk version "11.0.2"' >&2""")
    with pytest.raises(toolchain.ToolchainMissing, match="is Java 11: install Java 17"):
        toolchain.find_java()


def test_java_home_comes_before_path(
    bin_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bin_folder / "java", """echo 'openjdk version "11.0.2"' >&2""")
    java = put(tmp_path / "jdk/bin/java", """echo 'openjdk version "21" 2023-09-19' >&2""")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    assert toolchain.find_java() == str(java)


def test_go_is_needed_only_for_the_fault_tests(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bin_folder: Path
) -> None:
    monkeypatch.setattr(toolchain, "GO_PLACES", ("go",))
    toolchain.main()
    assert "go was not found" not in capsys.readouterr().err
    assert toolchain.main("--faults") == 1
    assert "go was not found: install Go 1.21+" in capsys.readouterr().err
    put(bin_folder / "go", "echo go1.19.8")
    with pytest.raises(toolchain.ToolchainMissing, match=r"is go1\.19\.8: install Go 1\.21"):
        toolchain.find_go()
    put(bin_folder / "go", "echo go1.26.3")
    assert toolchain.find_go() == str(bin_folder / "go")


def test_a_failed_build_shows_its_output(monkeypatch: pytest.MonkeyPatch, bin_folder: Path) -> None:
    monkeypatch.setattr(toolchain, "GO_PLACES", ("go",))
    put(bin_folder / "go", '[ "$1" = env ] && echo go1.26 || { echo no module; exit 1; }')
    with pytest.raises(RuntimeError, match="no module"):
        toolchain.fetch_toxiproxy()
    assert not toolchain.cached_toxiproxy().exists()


def test_each_version_of_kafka_has_its_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = set()
    for chosen, version in {"": "4.3.1", "3.9": "3.9.2", "4.3": "4.3.1", "4.0.0": "4.0.0"}.items():
        monkeypatch.setenv("KAFKA_VERSION", chosen)
        assert toolchain.kafka_version() == version
        folders.add(toolchain.cached_jars())
    assert len(folders) == 3


def test_maven_fetches_the_chosen_version(
    monkeypatch: pytest.MonkeyPatch, bin_folder: Path
) -> None:
    put(bin_folder / "mvn", 'echo "$@"; exit 1')
    monkeypatch.setenv("KAFKA_VERSION", "3.9")
    with pytest.raises(RuntimeError, match=r"-Dkafka\.version=3\.9\.2 "):
        toolchain.fetch_jars()


def test_a_failed_fetch_leaves_no_folder(bin_folder: Path) -> None:
    put(bin_folder / "mvn", "echo no route to the repository; exit 1")
    with pytest.raises(RuntimeError, match="no route to the repository"):
        toolchain.fetch_jars()
    assert list(toolchain.CACHE.iterdir()) == []


def test_the_first_of_two_concurrent_fetches_stays(bin_folder: Path) -> None:
    theirs = toolchain.cached_jars()
    put(
        bin_folder / "mvn",
        f"""export PATH=/usr/bin:/bin
        for arg; do case $arg in -DoutputDirectory=*) mine=${{arg#*=}};; esac; done
        mkdir "$mine" {theirs}; touch "$mine/mine.jar" {theirs}/theirs.jar""",
    )
    assert toolchain.fetch_jars() == theirs
    assert [path.name for path in theirs.iterdir()] == ["theirs.jar"]
    assert list(toolchain.CACHE.iterdir()) == [theirs]
