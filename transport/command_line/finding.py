"""One finding of `doctor`, and what to do about it."""

from __future__ import annotations

import enum

import attrs


class Level(enum.Enum):
    """How bad a finding is. Only "wrong" changes the exit code."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@attrs.frozen
class Finding:
    """A finding.

    Attributes:
        subject: the checked thing, such as "topic orders".
        text: the state of the subject.
        advice: the step that mends it. Empty: nothing has to be done.
    """

    level: Level
    subject: str
    text: str
    advice: str = ""


def ok(subject: str, text: str) -> Finding:
    return Finding(Level.OK, subject, text)


def warning(subject: str, text: str, advice: str) -> Finding:
    return Finding(Level.WARNING, subject, text, advice)


def wrong(subject: str, text: str, advice: str) -> Finding:
    return Finding(Level.WRONG, subject, text, advice)
