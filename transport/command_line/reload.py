"""A program that is restarted when its files change, for development."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import AsyncIterator

import trio
import watchfiles
from watchfiles.main import FileChange

from transport.signals import SignalHandlers, passed_to

# Seconds for the orderly end of the program; an app takes `grace`, which is 20 by default.
_PATIENCE = 30.0


async def run_with_reload(target: str, folder: str) -> int:
    """Run an app in a process of its own, and restart it at each change below a folder.

    The process has its own group, so that Ctrl-C at the terminal reaches only this one, which
    passes it on once.

    Returns: the exit code for the signal that has ended it.
    """
    received: list[signal.Signals] = []
    scope = trio.CancelScope()

    def on_signal(number: signal.Signals) -> None:
        received.append(number)
        scope.cancel()

    handlers = SignalHandlers(passed_to(trio.lowlevel.current_trio_token(), on_signal))
    handlers.install()
    try:
        with scope:
            changes = watchfiles.awatch(folder, watch_filter=watchfiles.PythonFilter())
            async with contextlib.aclosing(changes) as seen:
                while True:
                    await _until_change(target, seen)
    finally:
        handlers.remove()
    return 128 + received[0]


async def _until_change(target: str, changes: AsyncIterator[set[FileChange]]) -> None:
    """Run the process until a file changes. If it ends before, wait for the change."""
    command = [sys.executable, "-m", "transport", "run", target]
    process = await trio.lowlevel.open_process(command, process_group=0)
    try:
        changed = await anext(changes)
        names = sorted({path.rpartition("/")[2] for _, path in changed})
        print(f"kafka-nursery: restart, because of {', '.join(names[:5])}", file=sys.stderr)
    finally:
        await _end(process)


@trio.lowlevel.enable_ki_protection
async def _end(process: trio.Process) -> None:
    """End a process in order, or at once if that takes too long. Cannot be cancelled."""
    with trio.CancelScope(shield=True):
        process.terminate()
        with trio.move_on_after(_PATIENCE):
            await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()
