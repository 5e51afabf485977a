"""The data of the plots in docs/performance.md. `contenders/drawing.py` draws them."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.environments import ROOT, python_of
from benchmarks.experiments import IN_FLIGHT
from benchmarks.results import ROUNDS, figure_of
from benchmarks.rows import ROWS
from benchmarks.runner import Answer
from benchmarks.shapes import SCALES

FOLDER = ROOT / "docs" / "plots"
PROGRAM = Path(__file__).parent / "contenders" / "drawing.py"

Rounds = Mapping[str, Mapping[str, Any]]


class DrawingFailed(RuntimeError):
    """A plot could not be drawn."""


def draw() -> None:
    """Draw the plots of `rounds.json`. Raises DrawingFailed and EnvironmentFailed."""
    rounds: Rounds = json.loads(ROUNDS.read_text())
    FOLDER.mkdir(exist_ok=True)
    described = {"folder": str(FOLDER), "ratios": ratios(rounds), "curves": curves(rounds)}
    ended = subprocess.run(
        [python_of("plots"), str(PROGRAM)],
        input=json.dumps(described),
        capture_output=True,
        text=True,
    )
    if ended.returncode != 0:
        raise DrawingFailed(ended.stderr)


def ratios(rounds: Rounds) -> list[dict[str, Any]]:
    """Return a bar for each figure with a baseline and a goal. A ratio above 1 is always better."""
    bars = []
    for row in ROWS:
        if row.experiment not in rounds or row.baseline is None or row.goal is None:
            continue
        figure = figure_of(row, rounds[row.experiment]["answers"])
        assert figure.ratio is not None
        better = 1 / figure.ratio if row.is_lower_better else figure.ratio
        goal = 1 / row.goal if row.is_lower_better else row.goal
        bars.append({"name": row.name, "ratio": better, "goal": goal})
    return bars


def curves(rounds: Rounds) -> list[dict[str, Any]]:
    """Return the curves of costs by number of partitions and by number of messages in flight."""
    found = []

    def add(
        name: str,
        x: str,
        y: str,
        experiments: Sequence[tuple[str, str, Sequence[int], str]],
        measure: Callable[[Answer], float],
    ) -> None:
        series = {}
        for label, experiment, places, contender in experiments:
            if experiment in rounds:
                answers = rounds[experiment]["answers"]
                series[label] = [
                    (at, statistics.median(map(measure, answers[contender.format(at)])))
                    for at in places
                ]
        if series:
            found.append({"name": name, "x": x, "y": y, "series": series})

    add(
        "partitions",
        "partitions",
        "us a message",
        (
            ("this library", "scale.partitions", SCALES, "ours.{}"),
            ("kafka-python", "scale.partitions", SCALES, "bare.{}"),
            ("this library on memory://", "growth.partitions", SCALES, "{}"),
        ),
        lambda answer: answer.get("microseconds", answer["seconds"] / answer["count"] * 1e6),
    )
    add(
        "in_flight",
        "messages in flight",
        "ns an ack",
        (("the ledger", "growth.in_flight", IN_FLIGHT, "{}"),),
        lambda answer: answer["nanoseconds"],
    )
    return found
