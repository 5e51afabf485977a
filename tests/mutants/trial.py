"""Runs of the tests on mutants, each in its own process.

One process collects the tests, and forks itself for each mutant. The fork replaces the code of the
changed function. A change outside of functions needs a process that has not yet imported the file.
If the tests pass, the mutant has survived.
"""

from __future__ import annotations

import contextlib
import enum
import importlib
import math
import multiprocessing
import os
import resource
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.machinery import ModuleSpec, SourceFileLoader
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import attrs
import pytest
from _pytest.main import pytest_runtestloop as run_tests

from tests.mutants.mutants import TRANSPORT, Mutant

_fork = multiprocessing.get_context("fork")
# A mutant may run or wait forever. So each test has a limit of CPU time and a limit of clock time:
# these seconds, plus a multiple of its time without a mutant. Clock time is longer, because other
# processes may use the CPU.
_SECONDS, _TIMES = (2, 15), (5, 30)
_OWN_PROCESS = 600  # seconds for all tests
_NO_MUTANT = 70  # an exit code that pytest does not use


class Outcome(enum.Enum):
    FAILED = "a test failed"
    TIMED_OUT = "the tests hung"
    SURVIVED = "all tests passed"
    UNREACHED = "called by no test"

    @property
    def is_noticed(self) -> bool:
        return self in (Outcome.FAILED, Outcome.TIMED_OUT)


def try_all(mutants: Sequence[Mutant], tests: Sequence[str]) -> Iterator[tuple[Mutant, Outcome]]:
    """Run `tests` (paths) on each mutant of one file.

    Raises RuntimeError if the tests fail without a mutant.
    """
    inside = [mutant for mutant in mutants if mutant.function is not None]
    outside = [mutant for mutant in mutants if mutant.function is None]
    if inside:
        yield from _try_functions(inside, tests)
    for mutant in outside:
        yield mutant, _outcome(_start(_session, tests, _Fresh(mutant)))


def _try_functions(
    mutants: Sequence[Mutant], tests: Sequence[str]
) -> Iterator[tuple[Mutant, Outcome]]:
    told, tell = _fork.Pipe(duplex=False)
    session = _start(_session, tests, _Trials(mutants, tell))
    tell.close()
    with contextlib.suppress(EOFError):
        for mutant in mutants:
            yield mutant, told.recv()
    session.join()
    if session.exitcode != 0:
        raise RuntimeError(f"the tests failed without a mutant, or were ended: {' '.join(tests)}")


def _start(target: Callable[..., None], *args: object) -> Any:
    process = _fork.Process(target=target, args=args)
    process.start()
    return process


def _outcome(process: Any) -> Outcome:
    process.join()
    if process.exitcode == _NO_MUTANT:
        raise RuntimeError("the code of a mutant could not replace the code of its function")
    if process.exitcode in (-signal.SIGXCPU, -signal.SIGALRM):
        return Outcome.TIMED_OUT
    return Outcome.SURVIVED if process.exitcode == 0 else Outcome.FAILED


def _session(tests: Sequence[str], plugin: object) -> None:
    """Run pytest in this process, then exit with its exit code."""
    paths = [str(Path("tests", test)) for test in tests]
    quiet = ["-x", "-p", "no:terminal", "-p", "no:cacheprovider", "-p", "no:faulthandler"]
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    sys.exit(pytest.main([*quiet, *paths], plugins=[plugin]))


class _Plugin:
    def pytest_collection(self) -> None:
        # A failure is enough, so Hypothesis does not shrink the example.
        import hypothesis  # after pytest, whose import hook must load it

        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        hypothesis.settings.register_profile("mutants", phases=phases)
        hypothesis.settings.load_profile("mutants")


class _Fresh(_Plugin):
    """All tests on a file that is imported with a change."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._name = module_name(mutant.file)

    def pytest_load_initial_conftests(self) -> None:
        signal.alarm(_OWN_PROCESS)
        assert self._name not in sys.modules, "the file was imported before the change"
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        if name != self._name:
            return None
        path = str(TRANSPORT / self._mutant.file)
        return ModuleSpec(name, _Loader(self._mutant.source, name, path), origin=path)


class _Loader(SourceFileLoader):
    def __init__(self, source: str, name: str, path: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> types.CodeType:
        return compile(self._source, self.path, "exec")


@attrs.define
class _Test:
    """A run of one test without a mutant.

    Attributes:
        functions: the called functions of the mutated file, in the form of `Mutant.function`.
    """

    seconds: float
    functions: set[str]


class _Trials(_Plugin):
    """A fork for each mutant, which runs the tests that call the changed function."""

    def __init__(self, mutants: Sequence[Mutant], tell: Connection) -> None:
        self._mutants = mutants
        self._tell = tell
        self._seen: dict[str, _Test] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        told, tell = _fork.Pipe(duplex=False)
        watching = _start(self._watch, session, tell)
        tell.close()
        try:
            seen: dict[str, _Test] = told.recv()
        except EOFError:
            session.testsfailed = 1
            return True
        watching.join()
        self._seen = seen
        items = sorted(session.items, key=lambda item: seen[item.nodeid].seconds)
        for mutant in self._mutants:
            chosen = [item for item in items if mutant.function in seen[item.nodeid].functions]
            if chosen:
                self._tell.send(_outcome(_start(_run, session, chosen, mutant)))
            else:
                self._tell.send(Outcome.UNREACHED)
        return True

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if self._seen:  # in the fork of a mutant
            seconds = self._seen[nodeid].seconds
            work, clock = (
                math.ceil(least + times * seconds)
                for least, times in zip(_SECONDS, _TIMES, strict=True)
            )
            end = math.ceil(time.process_time()) + work
            resource.setrlimit(resource.RLIMIT_CPU, (end, resource.RLIM_INFINITY))
            signal.alarm(clock)

    def _watch(self, session: pytest.Session, tell: Connection) -> None:
        seen = {}
        path = str(TRANSPORT / self._mutants[0].file)
        for item in session.items:
            functions: set[str] = set()
            session.items = [item]
            start = time.process_time()
            sys.settrace(partial(_note, path, functions))
            run_tests(session)
            sys.settrace(None)
            seen[item.nodeid] = _Test(time.process_time() - start, functions)
        if not session.testsfailed:
            tell.send(seen)


def _note(path: str, functions: set[str], frame: types.FrameType, *_: object) -> None:
    code = frame.f_code
    if code.co_filename == path:
        functions.add(f"{code.co_qualname}:{code.co_firstlineno}")


def _run(session: pytest.Session, items: Sequence[pytest.Item], mutant: Mutant) -> None:
    """Run tests on a mutant in this process."""
    try:
        transplant(mutant)
    except Exception:  # noqa: BLE001 - it must not count as noticed
        sys.exit(_NO_MUTANT)
    session.items = list(items)
    run_tests(session)
    sys.exit(bool(session.testsfailed))


def module_name(file: str) -> str:
    return f"transport.{file.removesuffix('.py').replace('/', '.')}"


def transplant(mutant: Mutant) -> None:
    """Replace the code of a function of the running program by the changed code."""
    assert mutant.function is not None
    module = importlib.import_module(module_name(mutant.file))
    changed = types.ModuleType(module.__name__)
    exec(compile(mutant.source, str(TRANSPORT / mutant.file), "exec"), changed.__dict__)
    name, _, line = mutant.function.partition(":")
    path = name.split(".")
    _function(module, path, int(line)).__code__ = _function(changed, path, int(line)).__code__


def _away(accessor: Any, line: int) -> int:
    """How far the accessor of a property is from a line: both accessors have one name."""
    while hasattr(accessor, "__wrapped__"):
        accessor = accessor.__wrapped__
    return abs(int(accessor.__code__.co_firstlineno) - line)


def _function(module: types.ModuleType, path: Sequence[str], line: int) -> Any:
    found: Any = module
    for name in path:
        found = vars(found)[name]
    if isinstance(found, property):
        getter, setter = found.fget, found.fset
        found = getter if setter is None else min(getter, setter, key=lambda f: _away(f, line))
    elif isinstance(found, staticmethod | classmethod):
        found = found.__func__
    while hasattr(found, "__wrapped__"):
        found = found.__wrapped__
    return found
