"""Run the benchmarks on a real Kafka: the contenders in turn on one broker, medians and ratios.

The broker is that of KAFKA_BOOTSTRAP_SERVERS, or one that is started for the run. Without names,
all rows run, and the results are written to benchmarks/results. With names, the results are only
printed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from benchmarks import plots, results
from benchmarks.broker import topics
from benchmarks.environments import EnvironmentFailed
from benchmarks.experiments import EXPERIMENTS
from benchmarks.rows import ROWS, Row, rows_of, with_siblings
from benchmarks.runner import Answers, ContenderFailed, Runner, WorkDiffers


def measure(rows: Sequence[Row], args: argparse.Namespace) -> tuple[dict[str, Answers], list[str]]:
    """Run the experiments that the rows need. Return their answers and the failures."""
    measured: dict[str, Answers] = {}
    failures = []
    with topics() as opened:
        runner = Runner(opened, rounds=args.rounds, scale=args.scale, is_quick=args.quick)
        for name in dict.fromkeys(row.experiment for row in rows):
            print(name, flush=True)
            began = time.monotonic()
            needed = [who for row in rows if row.experiment == name for who in row.contenders]
            try:
                measured[name] = runner.run(EXPERIMENTS[name], needed)
            except (ContenderFailed, WorkDiffers, EnvironmentFailed) as error:
                failures.append(f"{name}: {error}")
                print(f"!!! {failures[-1]}", flush=True)
            print(f"  {time.monotonic() - began:.0f} s", flush=True)
    return measured, runner.failures + failures


def compare(figures: Sequence[results.Figure], rows: Sequence[Row], *, save: bool) -> list[str]:
    """Save the ratios of a quick run as the baseline, or return the rows that fell since then."""
    now = results.ratios_of(figures)
    if save:
        results.BASELINE.write_text(json.dumps(now, indent=1) + "\n")
        return []
    if not results.BASELINE.exists():
        return [f"there is no {results.BASELINE.name}: write it with --quick --save-baseline"]
    names = {row.name for row in rows}
    before: dict[str, float] = json.loads(results.BASELINE.read_text())
    return results.fallen(now, {name: was for name, was in before.items() if name in names})


def parser() -> argparse.ArgumentParser:
    parsed = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parsed.add_argument("names", nargs="*", help="rows, or the beginnings of their names")
    parsed.add_argument("--list", action="store_true", help="print the names of the rows")
    parsed.add_argument(
        "--quick", action="store_true", help="run a part of the rows, with fewer messages"
    )
    parsed.add_argument(
        "--save-baseline", action="store_true", help="with --quick: save the ratios for comparison"
    )
    parsed.add_argument("--rounds", type=int, help="rounds that count, without the warm-up")
    parsed.add_argument("--scale", type=float, default=1.0, help="factor of the message counts")
    parsed.add_argument(
        "--write",
        action="store_true",
        help="write results with names, too; run all rows of their experiments",
    )
    parsed.add_argument("--plots", action="store_true", help="only draw the plots again")
    return parsed


def main() -> int:
    args = parser().parse_args()
    try:
        rows: Sequence[Row] = rows_of(args.names) if args.names else ROWS
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    writes = (args.write or not args.names) and not args.quick and args.scale == 1.0
    if writes:
        rows = with_siblings(rows)
    if args.quick:
        rows = [row for row in rows if row.is_quick]
    if args.list:
        print(*(row.name for row in rows), sep="\n")
        return 0
    if args.plots:
        plots.draw()
        return 0
    began = time.monotonic()
    measured, failures = measure(rows, args)
    figures = [
        results.figure_of(row, measured[row.experiment])
        for row in rows
        if all(measured.get(row.experiment, {}).get(who) for who in row.contenders)
    ]
    for figure in figures:
        print(results.line(figure))
    if args.quick:
        failures += compare(figures, rows, save=args.save_baseline)
    elif writes:
        results.write(figures, measured)
        plots.draw()
    print(f"{time.monotonic() - began:.0f} s in all")
    for failure in failures:
        print(f"!!! {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
