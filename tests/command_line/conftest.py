"""Fixtures for tests of the verbs, which run in the trio run of the test."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest

from tests.lanes import Place
from transport.command_line.program import run_in_trio


@attrs.frozen
class Result:
    """What one run of a verb has left."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        """The value of the only line."""
        (line,) = self.lines
        return json.loads(line)

    @property
    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.lines]


Run = Callable[..., Awaitable[Result]]


@pytest.fixture
def run(place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return ``await run("topics", "list")``, which runs a verb on the broker of the test."""
    monkeypatch.setenv("KAFKA_NURSERY_BROKER", place.url)

    async def run_verb(*argv: str) -> Result:
        capsys.readouterr()
        code = await run_in_trio(argv)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run_verb
