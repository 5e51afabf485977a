"""The command as a whole: exit codes, help, what it hides, and what works without the extra."""

from __future__ import annotations

import io
import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import cyclopts
import pytest
import trio

from tests.apps import take
from tests.command_line.conftest import Run
from tests.command_line.messages import numbered, written
from tests.lanes import Place, run_jumping
from transport import App
from transport.__main__ import main
from transport.command_line import program
from transport.command_line.program import run_in_trio
from transport.command_line.verbs import verbs

# These run an app or show one. Their own tests run the examples.
OWN_PROGRAMS = ("config", "demo", "run", "tree")


def every_verb(app: cyclopts.App, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name in app:
        if not name.startswith("-"):
            below = list(every_verb(app[name], (*path, name)))
            yield from below or [(*path, name)]


VERBS = list(every_verb(verbs()))


def help_of(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*path, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_the_help_of_each_verb_has_an_example_of_it(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert example_of(path) in " ".join(help_of(path, capsys).split())


def example_of(path: tuple[str, ...]) -> str:
    app = verbs()
    for name in path:
        app = app[name]
    found = re.search(r"Example: (.*kafka-nursery .*)", app.default_command.__doc__ or "")
    assert found is not None, f"{path} has no example"
    assert f"kafka-nursery {' '.join(path)}" in found[1]
    return found[1]


@pytest.mark.trio(run=run_jumping)
@pytest.mark.parametrize("path", [each for each in VERBS if each[0] not in OWN_PROGRAMS], ids=str)
async def test_the_example_of_each_verb_works(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = Place("memory://examples", "billing")
    monkeypatch.setenv("KAFKA_NURSERY_BROKER", place.url)
    letter = {f"dead.{name}": b"orders" for name in ("topic", "handler")}
    letter |= {"dead.error": b"ValueError", "dead.partition": b"0", "dead.offset": b"0"}
    await written(place, "orders.dead", *numbered(18, headers=letter))
    await written(place, "orders.old")
    if path != ("topics", "create"):
        await written(place, "orders", *numbered(3))
        async with place.app() as app:
            await take(aiter(app.topic("orders")), 2)
    echoed, pipe, command = example_of(path).rpartition(" | ")
    file = tmp_path / "stdin"
    file.write_text(f"{shlex.split(echoed)[1]}\n" if pipe else "")
    argv = shlex.split(command)[1:]
    with file.open() as stdin, trio.move_on_after(10) as scope:
        monkeypatch.setattr("sys.stdin", stdin)
        assert await run_in_trio(argv) == 0
    assert scope.cancelled_caught == bool({"--follow", "--watch"} & set(argv))


def test_the_examples_of_programs_of_their_own_can_be_parsed() -> None:
    for path in VERBS:
        if path[0] in OWN_PROGRAMS:
            verbs().parse_args(shlex.split(example_of(path))[1:], exit_on_error=False)


def test_the_commands_of_the_page_about_the_command_line_can_be_parsed() -> None:
    page = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text()
    commands = re.findall(r"(?:^\$|\|) (kafka-nursery .*?)(?= \||$)", page, re.MULTILINE)
    assert len(commands) > 30
    for command in commands:
        verbs().parse_args(shlex.split(command)[1:], exit_on_error=False, print_error=False)
    linked = set(re.findall(r"`([a-z-]+)`", page))
    assert {path[0] for path in VERBS} - {"demo"} <= linked


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            "lag billing more",
            "kafka-nursery lag does not take 'more'. See kafka-nursery lag --help",
        ),
        ("topics lst", "kafka-nursery topics does not take 'lst'. See kafka-nursery topics --help"),
        (
            "lag --wach g",
            "Unknown option: --wach. Did you mean --watch? See kafka-nursery lag --help",
        ),
        ("lagg billing", 'Unknown command "lagg". Did you mean "lag"? '),
    ],
)
def test_a_wrong_command_line_is_named_with_the_help_of_its_verb(
    argv: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv.split()) == 2
    assert capsys.readouterr().err.startswith(f"kafka-nursery: {line}")


@pytest.mark.parametrize("noun", ["groups", "topics"])
async def test_a_noun_alone_lists(noun: str, run: Run, place: Place) -> None:
    await written(place, place.name, *numbered(1))
    assert (await run(noun, "--json")).json == (await run(noun, "list", "--json")).json


def test_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == version("kafka-nursery")


@pytest.mark.parametrize(
    "argv",
    [
        ["tial", "orders"],
        ["tail"],
        ["tail", "orders", "extra"],
        ["tail", "orders", "--bad"],
        ["tail", "orders", "-n", "x"],
        ["topics", "list", "--broker", "kafka://"],
        ["topics", "list", "--broker", "http://127.0.0.1"],
        ["topics", "list", "--broker", "kafka://h", "--option", "ssl_cafile"],
        ["topics", "list", "--broker", "kafka://h", "--option", "ssl_cafile=ca.pem"],
        ["topics", "list", "--broker", "kafka://h", "--option", "retry_backoff=1"],
        ["run", "billing"],
        ["run", "no_such_module:app"],
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1


def test_a_verb_leaves_the_logging_of_the_process_as_it_was() -> None:
    names = (None, "kafka", "transport", "transport.drivers.kafka")
    loggers = [logging.getLogger(name) for name in names]
    before = [(each.level, list(each.handlers)) for each in loggers]
    assert main(["topics", "list", "--broker", "memory://x"]) == 0
    assert [(each.level, list(each.handlers)) for each in loggers] == before


def test_without_a_broker_the_error_names_the_option_and_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KAFKA_NURSERY_BROKER", raising=False)
    assert main(["topics", "list"]) == 2
    error = capsys.readouterr().err
    assert "--broker" in error
    assert "KAFKA_NURSERY_BROKER" in error


@pytest.mark.parametrize(
    "argv",
    [
        ["topics", "list", "-b", "kafka://anna:pa55word@h"],
        ["topics", "list", "kafka+sasl://anna:pa55word@h"],
        ["topics", "list", "-b", "kafka+sasl://anna:pa55word@127.0.0.1:1", "--timeout", "0.2"],
        ["topics", "list", "-b", "kafka://h", "-o", "pa55word"],
        ["topics", "list", "sasl_plain_password=pa55word"],
        ["topics", "list", "-b", "kafka://h", "-o", "sasl_plain_password=pa55word"],
        ["tail", "t", "-b", "memory://", "--value-type", "avro", "--registry", "ftp://a:pa55word@"],
    ],
)
def test_no_error_shows_a_password(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) in (1, 2)
    printed = capsys.readouterr()
    assert "pa55word" not in printed.out + printed.err
    assert printed.err


def test_help_hides_the_broker_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAFKA_NURSERY_BROKER", "kafka+sasl://anna:pa55word@h")
    assert "pa55word" not in help_of(("tail",), capsys)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("transport.command_line.connection.Connection.admin", fail)
    with pytest.raises(ExceptionGroup) as caught:
        main(["topics", "list", "-b", "memory://"])
    assert caught.value.subgroup(ZeroDivisionError) is not None


async def test_a_closed_pipe_has_exit_code_141_and_no_output(
    run: Run, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await written(place, place.name, *numbered(3))

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Closed())
    assert await run_in_trio(["tail", place.name]) == program.CLOSED_PIPE


# Without the extra

WITHOUT = """
import sys
sys.modules["cyclopts"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "cyclopts" else find(name, *rest)
from transport.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def without_extra(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *argv], capture_output=True, text=True, timeout=60
    )


def test_without_the_extra_each_verb_names_it_and_its_command() -> None:
    refused = without_extra("tail", "orders")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "pip install 'kafka-nursery[cli]'" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_without_the_extra_version_and_demo_work() -> None:
    assert without_extra("--version").stdout.strip() == version("kafka-nursery")
    shown = without_extra("demo", "--orders", "12", "--broker", "memory://x")
    assert shown.stdout.strip().endswith("good")


# The app of `run`


def test_run_runs_the_app_of_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "module_of_run.py").write_text(
        "from transport import App\n"
        "app, empty, number = App('a'), App('b'), 5\n"
        "topic = app.topic('t')\n"
        "ran = []\n"
        "@app.handler(topic)\n"
        "async def handle(message):\n"
        "    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    ran: list[str] = []
    monkeypatch.setattr(App, "run", lambda self: ran.append(self.id))
    assert main(["run", "module_of_run:app"]) == 0
    assert ran == ["a"]
    for wrong, reason in (("empty", "no handler"), ("number", "no App"), ("absent", "no App")):
        assert main(["run", f"module_of_run:{wrong}"]) == 2
        assert reason in capsys.readouterr().err
