"""Makes mutants of the rules, with one change each, and counts those that the tests detect."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from tests.mutants.mutants import mutants_of
from tests.mutants.plan import PLAN
from tests.mutants.trial import Outcome, try_all

PAGE = Path("docs/mutants.md")
HEAD = "| file | mutants | noticed | in time | left | score |\n|---|---|---|---|---|---|"


def main() -> int:
    options = _options()
    known = {file: _explained(file) for file in PLAN}
    rows: list[str] = []
    wrong: set[str] = set()
    for file in options.files or PLAN:
        left = set()
        count: Counter[Outcome] = Counter()
        mutants = [mutant for mutant in mutants_of(file) if options.where in mutant.where]
        for mutant, outcome in try_all(mutants, PLAN[file]):
            count[outcome] += 1
            if not outcome.is_noticed:
                left.add(str(mutant))
                state = "explained" if str(mutant) in known[file] else "NOT EXPLAINED"
                print(f"{outcome.value}, {state}: {mutant}", flush=True)
        wrong |= left - known[file]
        if not options.where:
            wrong |= known[file] - left
            for line in known[file] - left:
                print(f"explained, but noticed or gone: {line}")
        rows.append(_row(file, count))
    print(HEAD, *rows, sep="\n")
    return bool(wrong)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="a file of `transport` (default: all)"
    )
    parser.add_argument("--where", default="", help="only functions whose name contains this")
    options = parser.parse_args()
    if strange := set(options.files) - set(PLAN):
        parser.error(f"not in tests/mutants/plan.py: {', '.join(sorted(strange))}")
    return options


def _explained(file: str) -> set[str]:
    """Return the mutants that have an item on the page: "- MUTANT", with the reason below."""
    lines = PAGE.read_text().splitlines()
    return {line.removeprefix("- ") for line in lines if line.startswith(f"- `{file}` ")}


def _row(file: str, count: Counter[Outcome]) -> str:
    every = count.total()
    left = count[Outcome.SURVIVED] + count[Outcome.UNREACHED]
    score = f"{100 * (every - left) / every:.1f} %" if every else ""
    hung = count[Outcome.TIMED_OUT]
    return f"| `{file}` | {every} | {every - left} | {every - left - hung} | {left} | {score} |"


if __name__ == "__main__":
    sys.exit(main())
