"""Draws the plots that standard input describes as JSON. See `benchmarks/plots.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot

OURS, THEIRS, THIRD = "#2a6f97", "#adb5bd", "#e07a5f"


def bars(folder: Path, ratios: list[dict[str, Any]]) -> None:
    """Draw the ratios to the baselines on a logarithmic scale, with a mark at each goal."""
    figure, axes = pyplot.subplots(figsize=(9, 0.6 + 0.3 * len(ratios)))
    places = range(len(ratios), 0, -1)
    for place, each in zip(places, ratios, strict=True):
        reached = each["ratio"] >= each["goal"]
        axes.barh(place, each["ratio"], color=OURS if reached else THIRD, height=0.6)
        axes.plot([each["goal"]] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.5)
    axes.set_yticks(list(places), [each["name"] for each in ratios], fontsize=8)
    axes.set_xscale("log")
    axes.axvline(1, color=THEIRS)
    axes.set_xlabel("times as good as the baseline; the black marks are the goals")
    figure.tight_layout()
    figure.savefig(folder / "ratios.png", dpi=110)


def curve(folder: Path, described: dict[str, Any]) -> None:
    """Draw lines over a logarithmic x axis, with a y axis from zero."""
    figure, axes = pyplot.subplots(figsize=(6, 3.5))
    colors = (OURS, THEIRS, THIRD)
    for color, (label, points) in zip(colors, described["series"].items(), strict=False):
        axes.plot(*zip(*points, strict=True), marker="o", label=label, color=color)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(described["x"])
    axes.set_ylabel(described["y"])
    axes.legend()
    figure.tight_layout()
    figure.savefig(folder / f"{described['name']}.png", dpi=110)


def main() -> None:
    described = json.load(sys.stdin)
    folder = Path(described["folder"])
    if described["ratios"]:
        bars(folder, described["ratios"])
    for each in described["curves"]:
        curve(folder, each)


if __name__ == "__main__":
    main()
