"""The figures of a run: medians, ratios and spread, their files, and the ratios that fell.

`latest.json` is a list of `{"name", "value", "unit", "baseline", "ratio"}`. The value and the
baseline are medians over the rounds. The ratio is the median of the ratios of each round, because
the contenders of one round run under the same conditions. `rounds.json` holds the answers of each
round, for the plots and for the spread, and the machine and the versions of the measurement.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.environments import ROOT
from benchmarks.rows import ROWS, Row
from benchmarks.runner import Answer, Answers

FOLDER = ROOT / "benchmarks" / "results"
LATEST = FOLDER / "latest.json"
ROUNDS = FOLDER / "rounds.json"
TABLE = FOLDER / "latest.md"
BASELINE = ROOT / "benchmarks" / "baseline.json"
FALL = 0.15  # a ratio that is worse by more than this share has fallen


class Figure(NamedTuple):
    """A row with its numbers. Without a baseline, `baseline` and `ratio` are None.

    Attributes:
        spread: the smallest and the largest ratio of a round. Without a baseline: of the value.
    """

    row: Row
    value: float
    baseline: float | None
    ratio: float | None
    spread: tuple[float, float]

    @property
    def is_reached(self) -> bool | None:
        """Whether the goal is reached. None: the row has no goal."""
        if self.row.goal is None:
            return None
        reached = self.value if self.ratio is None else self.ratio
        return reached <= self.row.goal if self.row.is_lower_better else reached >= self.row.goal


def figure_of(row: Row, answers: Answers) -> Figure:
    """Return the figure of a row, from the answers of its experiment."""
    ours = [_measured(answer, row.measure) for answer in answers[row.ours]]
    value = statistics.median(ours)
    if row.baseline is None:
        return Figure(row, value, None, None, (min(ours), max(ours)))
    measure = row.baseline_measure or row.measure
    theirs = [_measured(answer, measure) for answer in answers[row.baseline]]
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    ratio = statistics.median(ratios)
    return Figure(row, value, statistics.median(theirs), ratio, (min(ratios), max(ratios)))


def _measured(answer: Answer, measure: str) -> float:
    if measure == "rate":
        return answer["count"] / answer["seconds"]
    return answer[measure]


def as_json(figure: Figure) -> dict[str, Any]:
    """Return the form of a figure in `latest.json`."""
    return {
        "name": figure.row.name,
        "value": _rounded(figure.value),
        "unit": figure.row.unit,
        "baseline": _rounded(figure.baseline),
        "ratio": _rounded(figure.ratio),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def write(figures: Sequence[Figure], measured: Mapping[str, Answers]) -> None:
    """Write the figures. Keep the figures of earlier runs that were not measured now."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    new = {figure.row.name: as_json(figure) for figure in figures}
    old = {each["name"]: each for each in _read(LATEST, [])}
    names = [row.name for row in ROWS]
    merged = {name: value for name, value in {**old, **new}.items() if name in names}
    _write(LATEST, sorted(merged.values(), key=lambda each: names.index(each["name"])))
    where = machine()
    rounds: dict[str, Any] = _read(ROUNDS, {})
    for name, answers in measured.items():
        rounds[name] = {"machine": where, "answers": answers}
    _write(ROUNDS, rounds)
    TABLE.write_text(f"# Results of the benchmarks\n\n{table(_read(LATEST, []), rounds)}")


def _read(path: Path, default: Any) -> Any:
    return json.loads(path.read_text()) if path.exists() else default


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Return the machine, the commit and the versions that the numbers come from."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return {
        "commit": described.stdout.strip() or None,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "kafka-python": version("kafka-python"),
    }


def table(latest: Iterable[Mapping[str, Any]], rounds: Mapping[str, Any]) -> str:
    """Return the figures as a Markdown table, with the goals and the machines."""
    rows = {row.name: row for row in ROWS}
    lines = [
        "| figure | ours | baseline | ratio | of all rounds | goal | |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    places: dict[str, None] = {}
    for each in latest:
        row = rows.get(each["name"])
        if row is None or row.experiment not in rounds:
            continue
        kept = rounds[row.experiment]
        figure = figure_of(row, kept["answers"])
        described = kept["machine"]
        places.setdefault(
            f"{described['cores']} cores, {described['system']}, Python {described['python']},"
            f" kafka-python {described['kafka-python']}, tree {described['commit']}"
        )
        lines.append(_line(figure))
    lines += ["", *(f"Measured on: {place}." for place in places)]
    return "\n".join(lines) + "\n"


def _line(figure: Figure) -> str:
    row = figure.row
    low, high = figure.spread
    mark = {True: "reached", False: "**not reached**", None: ""}[figure.is_reached]
    cells = [
        f"`{row.name}`",
        f"{shown(figure.value)} {row.unit}",
        "" if figure.baseline is None else f"{shown(figure.baseline)} ({row.baseline})",
        "" if figure.ratio is None else f"{figure.ratio:.2f}",
        f"{shown(low)} to {shown(high)}",
        "" if row.goal is None else f"{'≤' if row.is_lower_better else '≥'} {shown(row.goal)}",
        mark,
    ]
    return f"| {' | '.join(cells)} |"


def line(figure: Figure) -> str:
    """Return a figure as a line for a terminal."""
    row, low, high = figure.row, *figure.spread
    text = f"{row.name}: {shown(figure.value)} {row.unit}"
    if figure.ratio is not None and figure.baseline is not None:
        text += f", {row.baseline} {shown(figure.baseline)}, ratio {figure.ratio:.2f}"
    text += f" ({shown(low)} to {shown(high)})"
    if figure.is_reached is None:
        return text
    return f"{text}; goal {shown(row.goal or 0.0)} {'' if figure.is_reached else 'not '}reached"


def shown(value: float) -> str:
    """Return a number as text: whole from 100 on, else with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratios_of(figures: Iterable[Figure]) -> dict[str, float]:
    """Return the ratios of a run, in the form of a baseline."""
    return {
        figure.row.name: round(figure.ratio, 3) for figure in figures if figure.ratio is not None
    }


def fallen(now: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
    """Return a line for each figure that is missing, or worse by more than `FALL` than before."""
    lower = {row.name for row in ROWS if row.is_lower_better}
    lines = []
    for name, was in before.items():
        if name not in now:
            lines.append(f"{name}: not measured")
            continue
        ratio = now[name]
        share = was / ratio if name in lower else ratio / was
        if share < 1 - FALL:
            lines.append(f"{name}: {ratio:.3g}, and {was:.3g} before")
    return lines
