"""Runs of the command as a process of its own, as a user starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TIMEOUT = 60.0  # seconds, on a busy machine


@contextmanager
def started(broker: str, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command with pipes, and kill it if the block leaves it running."""
    process = subprocess.Popen(
        [sys.executable, "-m", "transport", *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "KAFKA_NURSERY_BROKER": broker},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end, and return the exit code, the rest of the output, and the errors."""
    out, err = process.communicate(timeout=TIMEOUT)
    return process.returncode, out, err


def ended_by(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str, str]:
    """Send a signal, and return the same."""
    process.send_signal(number)
    return ended(process)


def run_command(broker: str, *argv: str, stdin: str = "") -> tuple[int, str, str]:
    """Run the command to its end."""
    with started(broker, *argv) as process:
        out, err = process.communicate(stdin, timeout=TIMEOUT)
        return process.returncode, out, err
