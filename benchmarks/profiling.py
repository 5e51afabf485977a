"""Profiles of the time that a message takes: `python -m benchmarks.profiling`.

py-spy samples our contenders while they hold the GIL. The results are flame graphs
(docs/plots/NAME.svg) and tables of microseconds for each message (benchmarks/results/profile.md).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.broker import topics
from benchmarks.environments import ROOT, command_of, python_of
from benchmarks.experiments import EXPERIMENTS, Experiment
from benchmarks.plots import FOLDER as PLOTS
from benchmarks.results import FOLDER as RESULTS
from benchmarks.runner import Runner

RATE = 400  # samples a second
ROWS = 14  # of a table; one more row sums up the rest
TABLE = RESULTS / "profile.md"
# The experiment and the contender of each profile.
PROFILED = {
    "consuming": ("consume.100B", "ours"),
    "consuming_batches": ("consume.100B", "ours.batches"),
    "handling": ("handlers.key.noop", "ours"),
    "producing": ("produce.100B", "ours"),
    "producing_many": ("produce.100B", "ours.send_many"),
}
FLAMES = ("consuming", "producing")
_FRAME = re.compile(r"(?P<function>.+) \((?P<file>[^()]+?)(:\d+)?\)")
_STARTING = ("importlib", "_find_and_load")


class ProfileFailed(RuntimeError):
    """py-spy ended with an error."""


class Profile(NamedTuple):
    """Samples of one contender.

    Attributes:
        messages: the number of messages that it handled.
        stacks: the number of samples of each stack. The last frame of a stack is the innermost.
    """

    messages: int
    stacks: Mapping[tuple[str, ...], int]


def stacks_of(lines: Iterable[str]) -> Counter[tuple[str, ...]]:
    """Read py-spy's raw format. Leave out empty stacks and imports of modules."""
    stacks: Counter[tuple[str, ...]] = Counter()
    for line in lines:
        frames, _, number = line.rpartition(" ")
        stack = tuple(frames.split(";"))
        if frames and not any(word in frame for frame in stack for word in _STARTING):
            stacks[stack] += int(number)
    return stacks


def by_file(profile: Profile, rate: int = RATE) -> list[tuple[str, float]]:
    """Return the microseconds for each message in each file, without its callees; largest first."""
    samples: Counter[str] = Counter()
    for stack, number in profile.stacks.items():
        frame = _FRAME.fullmatch(stack[-1])
        samples[stack[-1] if frame is None else frame["file"]] += number
    each = 1e6 / rate / profile.messages
    rows = [(name, number * each) for name, number in samples.most_common()]
    if len(rows) > ROWS:
        rows[ROWS:] = [("the rest", sum(time for _, time in rows[ROWS:]))]
    return rows


def table_of(name: str, profile: Profile) -> str:
    """Return the times of one contender as a Markdown table."""
    rows = by_file(profile)
    lines = [f"**{name.replace('_', ', ')}**", "", "| file | us a message |", "|---|---:|"]
    lines += [f"| `{file}` | {time:.2f} |" for file, time in rows]
    lines += [f"| all | {sum(time for _, time in rows):.2f} |", ""]
    return "\n".join(lines)


def profile(runner: Runner, name: str) -> Profile:
    """Run a contender under the profiler, and once more if it has a flame graph.

    Raises ProfileFailed.
    """
    experiment, who = PROFILED[name]
    if name in FLAMES:
        PLOTS.mkdir(exist_ok=True)
        _record(runner, EXPERIMENTS[experiment], who, "flamegraph", PLOTS / f"{name}.svg")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "stacks")
        answer = _record(runner, EXPERIMENTS[experiment], who, "raw", raw)
        return Profile(int(answer["count"]), stacks_of(raw.read_text().splitlines()))


def _record(
    runner: Runner, experiment: Experiment, who: str, form: str, path: Path
) -> Mapping[str, float]:
    """Run a contender under py-spy, and return its answer."""
    contender = experiment.contenders[who]
    spy = Path(python_of("profiler")).with_name("py-spy")
    options = ["--gil", "--function", "--rate", str(RATE), "--format", form, "--output", str(path)]
    job = runner.job(experiment, contender)
    command = [*command_of(contender.environment, contender.program), json.dumps(job)]
    ended = subprocess.run(
        [str(spy), "record", *options, "--", *command], cwd=ROOT, capture_output=True, text=True
    )
    lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    if ended.returncode != 0 or not lines:
        raise ProfileFailed(ended.stderr)
    answer: Mapping[str, float] = json.loads(lines[-1])
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profiling", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the message counts")
    args = parser.parse_args()
    with topics() as opened:
        runner = Runner(opened, rounds=1, scale=args.scale)
        tables = [table_of(name, profile(runner, name)) for name in PROFILED]
    RESULTS.mkdir(exist_ok=True)
    TABLE.write_text("# Where a message's time goes\n\n" + "\n".join(tables))
    print(TABLE.read_text())


if __name__ == "__main__":
    main()
