"""mypy and pyright, as a user of the library runs them over a program of his own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The rules that each line breaks, by the name of its file and its number.
Findings = Mapping[tuple[str, int], set[str]]


def mypy(programs: Path, cache: Path) -> Findings:
    """Check all programs of a folder with `mypy --strict`."""
    options = ["--strict", "--config-file=", f"--cache-dir={cache}", "--output=json"]
    # In its folder, so that the library is found where it is installed.
    printed = _printed([sys.executable, "-m", "mypy", *options, "."], programs)
    found: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for line in filter(None, printed.splitlines()):  # an empty line if there is no error
        each: dict[str, Any] = json.loads(line)
        if each["severity"] == "error":
            found[Path(each["file"]).name, each["line"]].add(each["code"])
    return found


def pyright(programs: Path, project: Path) -> Findings:
    """Check all programs of a folder with pyright in strict mode.

    Args:
        project: an empty folder, for the configuration.
    """
    # basedpyright is pyright with more rules, which strict mode leaves out. Its wheels contain all
    # of it. The package pyright fetches a part at its first run.
    config = {"typeCheckingMode": "strict", "include": [str(programs)]}
    (project / "pyrightconfig.json").write_text(json.dumps(config))
    options = ["--project", str(project), "--pythonpath", sys.executable, "--outputjson"]
    printed = _printed([sys.executable, "-m", "basedpyright", *options], programs)
    found: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for each in json.loads(printed)["generalDiagnostics"]:
        where = Path(each["file"]).name, each["range"]["start"]["line"] + 1
        found[where].add(each.get("rule", each["message"]))
    return found


def _printed(command: Sequence[str], folder: Path) -> str:
    """Run a checker and return what it prints. Its exit code is 1 if it finds errors."""
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert ended.returncode in (0, 1), ended.stdout + ended.stderr
    return ended.stdout
