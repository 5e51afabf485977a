"""Texts of the log, for assertions."""

from __future__ import annotations

import logging

import pytest


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the texts of the warnings and errors in the log, in order."""
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
