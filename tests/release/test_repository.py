"""The files beside the code agree with each other: Docker, GitHub, pre-commit, and the Makefile."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from transport import Settings

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
VERSIONS = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
# Lines such as `- run: make test-fast`, and those of a shell script.
MADE = re.compile(r"^(?:\s*- run: )?make (\S+)", re.MULTILINE)


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def parts_of_check() -> list[str]:
    """Return the targets that `make check` makes."""
    (parts,) = re.findall(r"^CHECKS := (.*)", MAKEFILE, re.MULTILINE)
    assert re.search(r"^check: \$\(CHECKS\) ##", MAKEFILE, re.MULTILINE)
    return str(parts).split()


def test_no_text_has_the_marks_of_a_merge_that_was_not_finished() -> None:
    texts = [*ROOT.glob("*.*"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").iterdir()]
    marked = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
    assert [path for path in texts if path.is_file() and marked.search(path.read_text())] == []


def test_pre_commit_runs_what_make_check_runs() -> None:
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    hooks = repository["hooks"]
    assert [hook["entry"] for hook in hooks] == [f"make {part}" for part in parts_of_check()]
    for hook in hooks:
        assert (hook["id"], hook["name"]) == (hook["entry"].split()[1], hook["entry"])
        assert hook["always_run"]
        assert not hook["pass_filenames"]


def test_each_step_of_the_workflow_is_a_target_that_the_ci_runs() -> None:
    jobs = read(".github/workflows/ci.yml")["jobs"]
    run = {
        step["run"].replace("${{ matrix.target }}", target)
        for job in jobs.values()
        for step in job["steps"]
        if "run" in step
        for target in job.get("strategy", {}).get("matrix", {}).get("target", [""])
    }
    # `make test` is the fast lane and the Kafka lane, and `make matrix` the fast lane again.
    assert run == {
        *("make check", "make test-fast", "make test-kafka", "make test-older"),
        "make test-browser",
    }
    made = MADE.findall((ROOT / ".ci/run").read_text())
    assert made == ["check", "test", "test-older", "test-browser", "matrix"]


def test_the_workflow_tests_each_python_of_the_package() -> None:
    jobs = read(".github/workflows/ci.yml")["jobs"]
    assert jobs["fast"]["strategy"]["matrix"]["python"] == VERSIONS


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/[!c]*.yml"),
        ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("github-workflows", ".github/workflows/*.yml"),
        ("compose-spec", "compose.yaml"),
    ],
)
def test_a_file_has_the_form_that_its_reader_requires(schema: str, files: str) -> None:
    paths = list(ROOT.glob(files))
    assert paths
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *paths],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout


def test_the_image_starts_python_itself_as_a_user_without_rights() -> None:
    lines = re.findall(r"^([A-Z]+) (.*)", DOCKERFILE, re.MULTILINE)
    *_, (_, user) = [line for line in lines if line[0] == "USER"]
    assert user.split(":")[0] not in ("0", "root")
    last = dict(lines)
    assert json.loads(last["ENTRYPOINT"])[0] == "python"
    assert all(isinstance(word, str) for word in json.loads(last["CMD"]))
    assert list(last)[-3:] == ["USER", "ENTRYPOINT", "CMD"]


def test_what_the_image_copies_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert {"pyproject.toml", "README.md", "LICENSE", "transport", "nurseries"} <= kept
    (program,) = re.findall(r"^COPY (examples/\S+) service\.py$", DOCKERFILE, re.MULTILINE)
    assert (ROOT / program).is_file()
    assert "examples" in kept


def test_docker_waits_longer_than_the_grace_of_the_app() -> None:
    service = read("compose.yaml")["services"]["service"]
    assert float(service["stop_grace_period"].removesuffix("s")) > Settings().grace


def test_make_clean_removes_what_git_ignores() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    clean = MAKEFILE.partition("\nclean:")[2]
    for name in ignored:
        if name != "*.egg-info/":
            assert re.search(rf"(?<=\s){re.escape(name.rstrip('/'))}(?=\s)", clean), name


def test_the_editor_config_agrees_with_ruff() -> None:
    config = (ROOT / ".editorconfig").read_text()
    (length,) = re.findall(r"^max_line_length = (\d+)$", config, re.MULTILINE)
    assert f"line-length = {length}\n" in (ROOT / "pyproject.toml").read_text()


def test_make_matrix_reads_the_versions_of_the_package() -> None:
    (read_versions,) = re.findall(r"versions=\$\((.*)\)", (ROOT / ".ci/matrix").read_text())
    printed = subprocess.run(
        ["bash", "-c", read_versions], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert printed.stdout.split() == VERSIONS
