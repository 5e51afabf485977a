"""`StatusSocket`: a local socket on which other programs of the same user read an app's status."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import trio

from nurseries import Service
from transport.inspecting.status import Status

# The setting that stands for a path of its own for each process.
AUTO = "auto"

_TIMEOUT = 5.0  # seconds for a reader to take a status
_SUFFIX = ".sock"
# The path of a socket has at most 103 bytes, on macOS. The process and the suffix take up to 20.
_MOST = 83
# The characters of the app's id in the path, where the folder leaves less.
_LEAST = 8
_BACKLOG = 16


class StatusSocket(Service):
    """A service that writes the status of an app to each program that connects, as one JSON value.

    Only the user of this process, and root, can connect: the file has the mode 0600, and the folder
    of `auto` has 0700. A connection can change nothing.

    Args:
        path: the file of the socket, or "auto": see `status_sockets`.
        status: returns the status.

    Raises OSError: this system has no such sockets.
    """

    def __init__(self, app: str, path: str, status: Callable[[], Status]) -> None:
        check_system()
        super().__init__("StatusSocket")
        self._paths = _auto_paths(app) if path == AUTO else iter([Path(path)])
        self._status = status

    @trio.lowlevel.enable_ki_protection
    async def on_start(self) -> None:
        await self.start("listener", self._listen)

    async def _listen(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with _listening_at(self._paths) as listening:
            listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
            task_status.started()
            await trio.serve_listeners(self._answer, [listener])

    @trio.lowlevel.enable_ki_protection
    async def _answer(self, stream: trio.SocketStream) -> None:
        """Write the status, and close the connection. A reader that has gone is no error."""
        with trio.move_on_after(_TIMEOUT), contextlib.suppress(trio.BrokenResourceError):
            async with stream:
                await stream.send_all(msgspec.json.encode(self._status()) + b"\n")


def check_system() -> None:
    """Raise OSError if Python has no local sockets on this system, as on Windows."""
    if not hasattr(socket, "AF_UNIX"):
        raise OSError("the status socket of an app needs a POSIX system, such as Linux or macOS")


def status_folder() -> Path:
    """Return the folder of the sockets of this user's apps. It may not exist yet."""
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime, "kafka-nursery")
    return Path(tempfile.gettempdir(), f"kafka-nursery-{os.getuid()}")


def status_sockets() -> list[Path]:
    """Return the sockets of this user's apps with `status_socket="auto"`, by name.

    A killed app leaves its socket, to which nothing can connect.
    """
    folder = status_folder()
    return sorted(folder.glob(f"*{_SUFFIX}")) if _is_private(folder) else []


def _auto_paths(app: str) -> Iterator[Path]:
    """Yield paths for an app of this process: another app with the same id may have the first."""
    name = re.sub(r"[^\w.-]", "_", app, flags=re.ASCII)
    name = name[: max(_LEAST, _MOST - len(os.fsencode(status_folder())))]
    for number in itertools.count(1):
        ending = _SUFFIX if number == 1 else f"-{number}{_SUFFIX}"
        yield status_folder() / f"{name}-{os.getpid()}{ending}"


def _is_private(folder: Path) -> bool:
    """Return whether the folder belongs to this user alone."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid == os.getuid()
        and not stat.S_IMODE(found.st_mode) & 0o077
    )


@contextlib.contextmanager
def _listening_at(paths: Iterator[Path]) -> Iterator[socket.socket]:
    """Yield a socket that listens at the first path that is free. Remove the file at the end.

    Raises:
        RuntimeError: no path is free; or the folder of "auto" is not this user's alone.
        OSError: the file cannot be made.
    """
    with socket.socket(socket.AF_UNIX) as listening:
        path = _bind(listening, paths)
        try:
            path.chmod(0o600)  # nothing can connect before `listen`
            listening.listen(_BACKLOG)
            yield listening
        finally:
            path.unlink(missing_ok=True)


def _bind(listening: socket.socket, paths: Iterator[Path]) -> Path:
    """Bind a socket to the first path that is free or that a killed app has left; return it."""
    for path in paths:
        if path.parent == status_folder():
            _make_folder(path.parent)
        try:
            if path.is_socket() and not _is_in_use(path):
                path.unlink()
            listening.bind(str(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                reason = error.strerror or error  # a path that is too long has no errno
                raise OSError(
                    f"status_socket: no socket can be made at {path}: {reason}"
                ) from error
        else:
            return path
    raise RuntimeError(
        f"the path {path} of status_socket is in use: give each app a path of its own, or set"
        ' status_socket="auto"'
    )


def _make_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_private(folder):
        raise RuntimeError(
            f"the folder {folder} of the status sockets is not this user's alone: remove it, or set"
            " status_socket to another path"
        )


def _is_in_use(path: Path) -> bool:
    """Return whether a program listens at a socket. Does not block."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except BlockingIOError:  # so many connections wait there that the next one would wait too
            return True
        return True
