"""The parts of the benchmarks that need no broker: rows, results, and the comparison of runs."""

from __future__ import annotations

import ast
import json
import re
import runpy
from pathlib import Path

import pytest

from benchmarks import plots, profiling, results
from benchmarks.environments import CONTENDERS, JAVA, PROJECT, REQUIREMENTS
from benchmarks.experiments import EXPERIMENTS, Contender
from benchmarks.results import FALL, as_json, fallen, figure_of
from benchmarks.rows import NAMES, QUICK, ROWS, Row, belongs_to, rows_of, with_siblings
from benchmarks.runner import Answers

RATE = Row("consume.messages.100B", "consume.100B", "bare", 2.2)
LATENCY = Row(
    "latency.p50", "latency", "bare", 1.2, "ms", "p50", is_lower_better=True
)  # fmt: skip


def rates(**seconds: list[float]) -> Answers:
    """Return answers of contenders that took these seconds for 1,000 messages in each round."""
    return {
        who: [{"count": 1000, "checksum": 7, "seconds": each} for each in rounds]
        for who, rounds in seconds.items()
    }


def test_each_documented_name_has_rows() -> None:
    assert {belongs_to(row.name) for row in ROWS} - {None} == set(NAMES)
    assert set(QUICK) <= set(NAMES)


def test_only_known_rows_belong_to_no_documented_name() -> None:
    others = [row.name for row in ROWS if belongs_to(row.name) is None]
    others = [name for name in others if not name.startswith("growth.")]
    assert {name.rpartition(".")[2] for name in others} == {"vs_confluent", "vs_parallel_consumer"}


def test_row_names_are_unique() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_compares_contenders_of_its_experiment(row: Row) -> None:
    experiment = EXPERIMENTS[row.experiment]
    assert set(row.contenders) <= set(experiment.contenders)
    assert not row.is_quick or experiment.quick is not None
    assert row.goal is None or row.goal > 0


def test_each_contender_of_an_experiment_serves_a_row() -> None:
    for experiment in EXPERIMENTS.values():
        needed = {
            who for row in ROWS if row.experiment == experiment.name for who in row.contenders
        }
        assert needed == set(experiment.contenders), experiment.name


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_contender_has_a_program_with_its_work_and_an_environment(name: str) -> None:
    for contender in EXPERIMENTS[name].contenders.values():
        if contender.environment == JAVA:
            assert (CONTENDERS / f"{contender.program}.java").exists()
        else:
            assert contender.work in works_of(contender.program), contender
            assert contender.environment in {PROJECT, *REQUIREMENTS}


def test_the_java_contender_reads_only_fields_that_its_jobs_have() -> None:
    program = (CONTENDERS / "ParallelPeer.java").read_text()
    read = set(re.findall(r'field\(job, "(\w+)"\)', program))
    assert read
    for contender in contenders_of("ParallelPeer"):
        assert read <= {"bootstrap", "topic", "messages", *contender.options}


def contenders_of(program: str) -> list[Contender]:
    """Return the contenders of all experiments that run a program."""
    contenders = (each for one in EXPERIMENTS.values() for each in one.contenders.values())
    return [contender for contender in contenders if contender.program == program]


@pytest.mark.parametrize(
    "row", rows_of(["handlers.key", "handlers.none"]), ids=lambda row: row.name
)
def test_handlers_and_their_baseline_have_the_same_options(row: Row) -> None:
    ours, baseline = (EXPERIMENTS[row.experiment].contenders[who] for who in row.contenders)
    assert (ours.program, baseline.program) == ("ours_handling", "ParallelPeer")
    assert ours.options == baseline.options


def test_each_key_of_a_shape_is_in_one_partition() -> None:
    shapes = {each.shape for each in EXPERIMENTS.values() if each.shape and each.shape.keys}
    assert shapes
    for shape in shapes:
        assert shape.keys % shape.partitions == 0
        assert not shape.one_by_one


def works_of(program: str) -> set[str]:
    """Return the names of the works in a program's call of `main`."""
    tree = ast.parse((CONTENDERS / f"{program}.py").read_text())
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args)
    (call,) = (call for call in calls if ast.unparse(call.func) == "main")
    works = call.args[0]
    assert isinstance(works, ast.Dict)
    return {key.value for key in works.keys if isinstance(key, ast.Constant)}


def test_a_name_selects_all_rows_below_it() -> None:
    assert [row.name for row in rows_of(["consume.single.100B", "latency.p50"])] == [
        "consume.single.100B.vs_bare",
        "consume.single.100B.vs_aiokafka",
        "latency.p50",
    ]


def test_an_unknown_row_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no row 'consume.mess'"):
        rows_of(["consume.mess"])


def test_a_row_is_written_with_all_rows_of_its_experiment() -> None:
    written = {row.name for row in with_siblings(rows_of(["latency.p50"]))}
    assert written == {"latency.p50", "latency.p99"}


def test_a_figure_has_medians_and_the_median_of_the_ratios_of_each_round() -> None:
    figure = figure_of(RATE, rates(ours=[1.0, 2.0, 4.0], bare=[4.0, 5.0, 8.0]))
    assert (figure.value, figure.baseline) == (500.0, 200.0)
    assert figure.ratio == 2.5
    assert figure.spread == (2.0, 4.0)
    assert figure.is_reached


def test_a_lower_number_reaches_the_goal_where_lower_is_better() -> None:
    answers: Answers = {"ours": [{"p50": 3.0}], "bare": [{"p50": 2.0}]}
    assert figure_of(LATENCY, answers).is_reached is False
    answers["ours"][0]["p50"] = 2.3
    assert figure_of(LATENCY, answers).is_reached


def test_a_figure_without_a_baseline_is_compared_by_its_value() -> None:
    row = Row("ledger.in_order", "ledger", None, 500.0, "acks/s", ours="in_order")
    figure = figure_of(row, rates(in_order=[1.0, 1.0]))
    assert as_json(figure) == {
        "name": "ledger.in_order",
        "value": 1000.0,
        "unit": "acks/s",
        "baseline": None,
        "ratio": None,
    }
    assert figure.is_reached


def test_results_keep_earlier_figures_and_drop_those_of_unknown_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FOLDER", "LATEST", "ROUNDS", "TABLE"):
        monkeypatch.setattr(results, name, tmp_path / getattr(results, name).name)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(results, "machine", dict)
    old = {"name": "latency.p50", "value": 1.0, "unit": "ms", "baseline": 1.0, "ratio": 1.0}
    gone = {**old, "name": "a.row.that.is.no.more"}
    results.LATEST.write_text(json.dumps([old, gone]))
    answers = rates(ours=[1.0, 2.0], bare=[3.0, 6.0])
    results.write([figure_of(RATE, answers)], {})
    assert json.loads(results.LATEST.read_text()) == [
        {
            "name": "consume.messages.100B",
            "value": 750.0,
            "unit": "messages/s",
            "baseline": 250.0,
            "ratio": 3.0,
        },
        old,
    ]


def test_the_table_has_a_line_for_each_figure_and_names_the_machine() -> None:
    machine = {
        "commit": "abc",
        "cores": 2,
        "system": "Linux x86_64",
        "python": "3.11.7",
        "kafka-python": "3.0.12",
    }
    answers = rates(ours=[1.0, 1.0], bare=[4.0, 2.0])
    figure = figure_of(RATE, answers)
    table = results.table(
        [as_json(figure)], {"consume.100B": {"machine": machine, "answers": answers}}
    )
    assert (
        "| `consume.messages.100B` | 1,000 messages/s | 375 (bare) | 3.00 | 2 to 4 | ≥ 2.2"
        " | reached |\n" in table
    )
    assert (
        "Measured on: 2 cores, Linux x86_64, Python 3.11.7, kafka-python 3.0.12, tree abc." in table
    )


def test_a_ratio_that_fell_by_more_than_15_percent_is_named() -> None:
    before = {"consume.messages.100B": 2.0, "latency.p50": 1.0}
    assert fallen(before, before) == []
    assert fallen({"consume.messages.100B": 1.71, "latency.p50": 1.17}, before) == []
    assert fallen({"consume.messages.100B": 1.69, "latency.p50": 1.18}, before) == [
        "consume.messages.100B: 1.69, and 2 before",
        "latency.p50: 1.18, and 1 before",
    ]
    assert FALL == 0.15


def test_a_figure_of_the_baseline_that_was_not_measured_is_named() -> None:
    assert fallen({}, {"latency.p50": 1.0}) == ["latency.p50: not measured"]


def test_a_plotted_ratio_is_inverted_where_lower_is_better() -> None:
    rounds = {
        "consume.100B": {
            "answers": rates(
                **{
                    who: [1.0 if who == "ours" else 2.0]
                    for who in EXPERIMENTS["consume.100B"].contenders
                }
            )
        },
        "latency": {
            "answers": {
                "ours": [{"p50": 1.0, "p99": 1.0}],
                "bare": [{"p50": 2.0, "p99": 2.0}],
            }
        },
    }
    bars = {each["name"]: each for each in plots.ratios(rounds)}
    assert bars["consume.messages.100B"] == {
        "name": "consume.messages.100B",
        "ratio": 2.0,
        "goal": 2.2,
    }
    assert bars["latency.p50"]["ratio"] == 2.0
    assert bars["latency.p50"]["goal"] == pytest.approx(1 / 1.2)


def test_a_curve_has_the_median_at_each_point() -> None:
    answers = {
        str(number): [{"nanoseconds": each} for each in (3.0, 1.0, 2.0)]
        for number in plots.IN_FLIGHT
    }
    (curve,) = plots.curves({"growth.in_flight": {"answers": answers}})
    assert curve["series"] == {"the ledger": [(number, 2.0) for number in plots.IN_FLIGHT]}


def test_the_page_shows_only_tables_and_plots_that_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = runpy.run_path("docs/hooks/benchmarks.py")
    monkeypatch.setitem(hook["table"].__globals__, "DOCS", tmp_path)
    monkeypatch.setitem(hook["table"].__globals__, "RESULTS", tmp_path)
    page = "Before\n<!-- table: latest -->\n<!-- plot: ratios.png -->\n<!-- plot: ack.svg -->\n"
    written = hook["on_page_markdown"](page)
    assert written == f"Before\n{hook['NOTHING']}\n\n\n"
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "ack.svg").touch()
    (tmp_path / "latest.md").write_text("# Results\n\n| a \\| b |\n")
    written = hook["on_page_markdown"](page)
    assert written == "Before\n| a \\| b |\n\n\n![ack](plots/ack.svg)\n"


def test_the_page_shows_the_rows_that_it_names_if_they_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = runpy.run_path("docs/hooks/benchmarks.py")
    monkeypatch.setitem(hook["rows"].__globals__, "RESULTS", tmp_path)
    page = "<!-- rows: consume.x handlers -->"
    assert hook["on_page_markdown"](page) == hook["NOTHING"]
    head = "| figure | ours |\n|---|---:|\n"
    (tmp_path / "latest.md").write_text(
        f"# Results\n\n{head}| `consume.xy` | 1 |\n| `produce` | 2 |\n\nMeasured on: a machine\n"
    )
    assert hook["on_page_markdown"](page) == f"{head}| `consume.xy` | 1 |"


def test_a_profile_sums_the_time_of_each_file_without_imports() -> None:
    lines = [
        "main (a.py:1);call (b.py:7) 6",
        "main (a.py:1);other (b.py:90) 2",
        "main (a.py:1) 4",
        "main (a.py:1);_find_and_load (<frozen importlib._bootstrap>:1100) 50",
        " 9",
    ]
    profile = profiling.Profile(1000, profiling.stacks_of(lines))
    assert profiling.by_file(profile, rate=100) == [("b.py", 80.0), ("a.py", 40.0)]
