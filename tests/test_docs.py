"""README, its neighbors and docs: each program and each command runs, each link has a target.

A Python block is a whole program, or a file of tests. A text block after it is its output. Indented
lines are commands. No block is left out.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import nurseries
import transport
from tests.addresses import reserved_address
from tests.kafka.cluster import Broker
from tests.programs import Ended, run_all
from transport import App, ClientSettings, Monitor, Settings

ROOT = Path(__file__).parent.parent
FRONT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES = [*FRONT, *sorted((ROOT / "docs").rglob("*.md"))]
TREE = "docs/architecture.md"
KAFKA = re.compile(r"(?<!\+)kafka://[\w.:]+")
REGISTRY = "http://127.0.0.1:8081"
WEB = "127.0.0.1:8080"  # of the page and the probes; each program gets an address of its own
COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?P<start>make|python -m) (?P<name>\S+)(?P<rest>[^#`]*)")
LINK = re.compile(r"\]\((?P<path>[^)#:\s]*)(?:#(?P<anchor>[^)\s]+))?\)")


@attrs.frozen
class Block:
    """A block between fences.

    Attributes:
        line: the number of its first line in the page.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(name: str, text: str) -> Iterator[Block]:
    """Yield the blocks of a page. A fence that is not in our form is an error."""
    fence: tuple[int, str] | None = None
    inside: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not re.match(r"\s*(```|~~~)", line):
            inside.append(line)
        elif fence is None:
            assert re.fullmatch(r"```\w*", line), f"{name}:{number}: {line!r}"
            fence, inside = (number, line[3:]), []
        else:
            assert line == "```", f"{name}:{number}: {line!r}"
            yield Block(name, *fence, "".join(f"{each}\n" for each in inside))
            fence = None
    assert fence is None, f"{name}:{fence}: the fence has no end"


def prose_of(page: Path) -> list[str]:
    """Return the lines outside of fences, and of the options of the reference's objects."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^(:::.*)\n(?: {4}.*\n)+", r"\1\n", text, flags=re.MULTILINE).split("\n")


# Without drawings, which the browser renders.
BLOCKS = [
    block
    for page in PAGES
    for block in blocks_of(name_of(page), page.read_text())
    if block.language != "mermaid"
]
PROGRAMS = [block for block in BLOCKS if block.language == "python"]
SHOWN = {
    program: shown.text
    for program, shown in itertools.pairwise(BLOCKS)
    if (program.language, shown.language) == ("python", "text") and program.page == shown.page
}
COMMANDS = {
    (page, match["start"], match["name"], match["rest"].strip())
    for page in PAGES
    for line in prose_of(page)
    for code in re.findall(r"^    (.+)|`([^`]+)`", line)
    for match in COMMAND.finditer("".join(code))
}

# The page whose commands tests/command_line parses.
COMMAND_LINE = "docs/command_line.md"

each_program = pytest.mark.parametrize("program", PROGRAMS, ids=str)

# A certificate without a key, for the programs that name a file of certificates.
FILES = {
    "ca.pem": """\
-----BEGIN CERTIFICATE-----
MIIBeTCCAR+gAwIBAgIUa4vYV74gvwvs4OCCB/Q5m+QG5VswCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGbm9ib2R5MCAXDTI2MTEyNDIyMTYxNVoYDzIxMjYxMDMxMjIx
NjE1WjARMQ8wDQYDVQQDDAZub2JvZHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AASVk5DLGudYj+uqm5fWx08XSMJCiCmyUvkkkN8s185RF2PgY3+qL2RzjFoOECbJ
5M8bAoKLCkKErV2uQTkyWN6Po1MwUTAdBgNVHQ4EFgQUG7Eay/KrUq80zsyc23nN
QVRQz2owHwYDVR0jBBgwFoAUG7Eay/KrUq80zsyc23nNQVRQz2owDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiAerTCYw0d78Bmgr8/h34f01ykKClq0
gB+WDXHKL5pdhgIhAIolEBShHghUQKhFHDOhgcwIJcGytRXnwY0sIL53nDQP
-----END CERTIFICATE-----
"""
}


# A server gets a free port, and a signal as soon as it has started.
A_SERVER = """
import signal as _signal, uvicorn as _uvicorn

async def _startup(self, sockets=None, startup=_uvicorn.Server.startup):
    self.config.port = 0
    await startup(self, sockets=sockets)
    _signal.raise_signal(_signal.SIGTERM)

_uvicorn.Server.startup = _startup
"""

# A program that ends only at a signal gets one after a minute. trio's clock jumps over that time.
A_SIGNAL = """
import signal as _signal, trio as _trio

async def _wait_stopped(wait=app.wait_stopped):
    with _trio.move_on_after(60) as minute:
        await wait()
    if minute.cancelled_caught:
        _signal.raise_signal(_signal.SIGTERM)
        await wait()

app.wait_stopped = _wait_stopped
app.run()
"""


@functools.cache
def ended_in_memory() -> dict[Block, Ended]:
    """Run each program with `memory://` for Kafka and `mock://` for a schema registry."""
    with contextlib.ExitStack() as stack:
        sources = [
            in_memory(program.text).replace(WEB, stack.enter_context(reserved_address()))
            for program in PROGRAMS
        ]
        return dict(zip(PROGRAMS, run_all(sources, FILES), strict=True))


def in_memory(text: str) -> str:
    """Let a program run without Kafka and without a registry, and end if it would run for ever."""
    text = KAFKA.sub("memory://", text).replace(REGISTRY, "mock://docs")
    text = re.sub(r"^app\.run\(\)$", A_SIGNAL, text, flags=re.MULTILINE)
    return A_SERVER + text if "uvicorn.Server" in text else text


@each_program
def test_a_program_runs_and_prints_the_shown_output(program: Block) -> None:
    ended = ended_in_memory()[program]
    assert ended.code == 0, ended.errors + ended.output
    if program in SHOWN:
        assert ended.output == SHOWN[program]


def test_the_first_programs_end_without_a_warning() -> None:
    for page in ("README.md", "docs/index.md", "docs/tutorial.md"):
        program = next(program for program in PROGRAMS if program.page == page)
        assert ended_in_memory()[program].errors == ""


def test_without_transactions_the_tutorial_writes_a_bill_twice() -> None:
    (program,) = [p for p in PROGRAMS if p.page == "docs/tutorial.md" and "member" in p.text]
    plain = program.text.replace(', transactions="member"', "")
    (ended,) = run_all([plain.replace(", source=None", "")])
    assert ended.output.count("bill for meal 2") == 2


@pytest.mark.kafka
def test_the_tutorial_prints_the_same_on_kafka(kafka_broker: Broker) -> None:
    """The programs run one after the other on one broker, in real time; lines may change order."""
    for program in PROGRAMS:
        if program.page == "docs/tutorial.md":
            source = KAFKA.sub("memory://", program.text)
            on_kafka = source.replace("memory://", f"kafka://{kafka_broker.bootstrap}")
            (ended,) = run_all([on_kafka], jumping=False)
            assert ended.code == 0, ended.errors
            assert sorted(ended.output.splitlines()) == sorted(SHOWN[program].splitlines())


def test_each_block_is_a_program_or_its_output() -> None:
    assert {block.language for block in BLOCKS} == {"console", "python", "text"}
    # Other tests parse each command of that page.
    assert {block.page for block in BLOCKS if block.language == "console"} == {COMMAND_LINE}
    texts = [block for block in BLOCKS if block.language == "text" and block.page != TREE]
    assert len(texts) == len(SHOWN), "a text block is not the output of a program"
    assert all(block in SHOWN for block in PROGRAMS if block.page == "docs/tutorial.md")
    for package in ("transport", "nurseries"):
        for path in (ROOT / package).rglob("*.py"):
            assert "```" not in path.read_text(), f"no test runs the block in {path}"


@pytest.mark.parametrize(
    "text",
    [
        "```python\n",
        "```py title=x\n```\n",
        "~~~\n~~~\n",
        "  ```python\n  ```\n",
        "```python\n```python\n```\n",
    ],
)
def test_a_fence_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(AssertionError):
        list(blocks_of("page", text))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_indented_lines_are_commands(page: Path) -> None:
    for line in prose_of(page):
        if line.startswith("    "):
            assert COMMAND.match(line.strip()), line


def test_each_target_of_make_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for _, start, name, _ in COMMANDS if start == "make"}
    assert {"demo", "test"} <= named <= targets


def test_each_module_that_is_run_has_a_help_text() -> None:
    modules = {
        (name, *rest.split()[:1])
        for _, start, name, rest in COMMANDS
        if start != "make" and name != "pip"
    }
    for command in modules:
        ended = subprocess.run(
            [sys.executable, "-m", *command, "--help"], cwd=ROOT, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.lower().startswith("usage:")


def test_the_docs_build_without_a_warning(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr


def settings_hook() -> dict[str, Any]:
    """Return the globals of the hook that writes the settings reference."""
    return runpy.run_path(str(ROOT / "docs/hooks/settings.py"))


def test_the_settings_reference_has_each_setting_with_its_default_and_unit() -> None:
    page = (ROOT / "docs/reference/settings.md").read_text()
    written = settings_hook()["on_page_markdown"](page)
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+)$", written, re.MULTILINE))
    assert set(rows) == {f.name for cls in (Settings, ClientSettings) for f in attrs.fields(cls)}
    for name, default in {
        "client_id": '`"kafka-nursery"`',
        "group_instance_id": "`None`",
        "heartbeat_interval": "`1` s",
        "max_partition_fetch_bytes": "`1048576` bytes (1 MiB)",
        "linger": "`0.005` s",
        "max_batch_size": "`131072` bytes (128 KiB)",
        "max_request_size": "`1048576` bytes (1 MiB)",
        "compression_type": "`None`",
        "drain_timeout": "`None` (s)",
        "buffer_size": "`16384` messages",
        "partitioner": "`java_partitioner`",
        "client_options": "`{}`",
    }.items():
        assert rows[name].startswith(f"{default} | "), rows[name]


def test_a_setting_without_a_docstring_fails_the_build() -> None:
    @attrs.frozen
    class Bare:
        """Settings.

        Attributes:
            told: a setting.
        """

        told: float = 1.0
        untold: float = 2.0

    hook = settings_hook()
    with pytest.raises(hook["Incomplete"], match=r"Bare\.untold has no docstring"):
        hook["table_of"](Bare)


def test_a_number_without_a_unit_fails_the_build() -> None:
    @attrs.frozen
    class Bare:
        """Settings.

        Attributes:
            count: a setting.
        """

        count: int = 1

    hook = settings_hook()
    with pytest.raises(hook["Incomplete"], match="count: what does it count"):
        hook["table_of"](Bare)


def test_make_check_builds_the_docs_and_sees_all_warnings() -> None:
    """`--quiet` hides warnings from `--strict`, so the check must not build with it."""
    makefile = (ROOT / "Makefile").read_text()
    assert re.findall(r"mkdocs build.*", makefile) == ["mkdocs build --strict"]
    checks = re.search(r"^CHECKS := (.*)", makefile, re.MULTILINE)
    assert checks
    assert "docs" in checks[1].split()


def test_the_readme_and_the_package_list_the_same_python_versions() -> None:
    readme, package = (ROOT / "README.md").read_text(), (ROOT / "pyproject.toml").read_text()
    versions = re.findall(r"Python :: (3\.\d+)", package)
    *first, last = versions
    assert f"Python {', '.join(first)} and {last}" in readme
    assert f'requires-python = ">={versions[0]}"' in package


@pytest.mark.parametrize("shadow", ["transport.py", "transport/__init__.py"])
def test_a_local_module_shadows_the_package_as_the_readme_says(shadow: str, tmp_path: Path) -> None:
    (tmp_path / shadow).parent.mkdir(exist_ok=True)
    (tmp_path / shadow).touch()
    (tmp_path / "script.py").write_text("from transport import App")
    ended = subprocess.run(
        [sys.executable, tmp_path / "script.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "ImportError: cannot import name 'App' from 'transport'" in ended.stderr
    assert "shadows the package" in (ROOT / "README.md").read_text()


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that the site and GitHub make from the headings."""
    headings = re.findall(r"^#+ (.+)$", "\n".join(prose_of(page)), re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_targets_of_links_exist(page: Path) -> None:
    for link in LINK.finditer("\n".join(prose_of(page))):
        target = (page.parent / link["path"]).resolve() if link["path"] else page
        assert target.exists(), link[0]
        assert not link["anchor"] or link["anchor"] in anchors_of(target), link[0]


def test_each_page_is_in_the_navigation_and_can_be_reached() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES[len(FRONT) :]}
    assert set(re.findall(r"[\w/]+\.md", navigation)) == pages
    guides = {name for name in pages if "/" not in name} - {"index.md"}
    for front in (ROOT / "README.md", ROOT / "docs" / "index.md"):
        linked = {Path(link["path"]).name for link in LINK.finditer(front.read_text())}
        assert guides <= linked, front


def test_each_public_name_has_its_reference() -> None:
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    listed = set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))
    for package in (transport, nurseries):
        for name in package.__all__:
            module = getattr(getattr(package, name), "__module__", "")
            assert {f"{package.__name__}.{name}", module} & listed, name


async def test_the_drawn_tree_is_that_of_a_running_app(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Compare the parts and their tasks, without the tasks "errors", which the page leaves out."""
    (drawn,) = [block.text for block in BLOCKS if block.page == TREE]
    told = [
        (len(match["indent"]) // 4, match["name"])
        for line in drawn.splitlines()
        if (match := re.match(r"(?P<indent>[│├└─ ]*)(?P<name>\w+( \w+)*)", line))
    ]
    app = App("orders", monitor=Monitor(), transactions="partition")

    async def handle(batch: object) -> None:
        """Do nothing: the tree is the same."""

    app.batch_handler(app.topic(re.compile("orders")), handle)
    async with app:
        await app.producer.create_topic("orders", 1)
        await trio.sleep(1)
        root = app.tree()
    real = [(0, "App")]
    for part in root.children:
        real.append((1, part.name))
        for task in part.children:
            real.append((2, re.sub(r"(?<=Producer of ).*", "ID", task.name)))
            if part.name == "Handlers":
                real.append((2, "Handler NAME"))
                real.remove((2, "Handler handle"))
                real += [(3, re.sub(r"\d+", "N", each.name)) for each in task.children]
    assert told == [row for row in real if row != (2, "errors")]
