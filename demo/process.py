# SPDX-License-Identifier: AGPL-3.0-or-later
"""Child processes that start, become ready and never stay behind."""

import atexit
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from types import FrameType

import attr

from demo.leash import leashed

# Between two looks at a process that is starting up.
_POLL_SECONDS = 0.02
_TAIL_CHARACTERS = 3000
# Those that ask a process to end. The last one comes when the terminal is closed.
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ProcessError(Exception):
    """A process did not do what was asked of it; the message is for a human."""


# The latest ports that `free_port` gave out, each as the descriptor of a socket that only says so.
_reservations: deque[int] = deque()
_MAX_RESERVATIONS = 200


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses, nor was given by this in another process."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if _reserve(port):
            return port


def _reserve(port: int) -> bool:
    """Tell other processes that a port is taken, before somebody listens on it.

    Or else two that start a server at the same time may get the same port, and one of them takes
    the other's server for its own.
    """
    if sys.platform != "linux":
        return True
    reservation = socket.socket(socket.AF_UNIX)
    try:
        # In the abstract namespace: there is no file, and it ends with the process.
        reservation.bind(f"\0synapse_msc3881-port-{port}")
    except OSError:
        reservation.close()
        return False
    _reservations.append(reservation.detach())
    while len(_reservations) > _MAX_RESERVATIONS:
        os.close(_reservations.popleft())
    return True


def port_in_use(port: int) -> bool:
    """Whether something on 127.0.0.1 already listens on `port`."""
    with socket.socket() as probe:
        # As servers do, so that connections that were just closed do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


def is_healthy(port: int) -> bool:
    """Whether a server on 127.0.0.1 says at `/health` that it is well."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def signals_later() -> Iterator[None]:
    """Hold back the signals that ask us to end: their handlers run after the block.

    Or else a handler that raises can do so between a child's start and our knowing its process id.
    Blocking them in this thread would not do: the kernel gives them to another one, and Python runs
    the handler in the main thread all the same.
    """
    if threading.current_thread() is not threading.main_thread():
        # Python runs no handlers in it.
        yield
        return
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    # Only those with a handler in Python: a child inherits that a signal is ignored.
    previous = {each: signal.getsignal(each) for each in ENDING_SIGNALS}
    previous = {each: handler for each, handler in previous.items() if callable(handler)}
    try:
        for each in previous:
            signal.signal(each, note)
        yield
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
        for number in came:
            signal.raise_signal(number)


@attr.s(auto_attribs=True, kw_only=True)
class Child:
    """One process of ours: `spawn()`, `wait_until(…)`, `stop()`.

    Attributes:
        name: what to call it in error messages.
        command: program (full path) and arguments.
        output: the file that gets its stdout and stderr, appended to; its own log may go there too.
        env: the whole environment, None for ours.
        user: the system user to run it as, "" for ours.
        stop_signal: asks for an orderly end.
        death_signal: what it gets when our process dies.
    """

    name: str
    command: Sequence[str]
    output: Path
    env: Mapping[str, str] | None = None
    user: str = ""
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    _process: "subprocess.Popen[bytes] | None" = attr.ib(default=None, init=False)
    _asked: bool = attr.ib(default=False, init=False)

    @property
    def pid(self) -> int | None:
        """Its process id; None before the start and after the end."""
        return self._process.pid if self._process and self.alive else None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def spawn(self) -> None:
        """Start it, without waiting for anything. Call this from the main thread, see `leash`."""
        if self.alive:
            raise ProcessError(f"{self.name} is running already")
        self._asked = False
        command = leashed(self.command, death_signal=self.death_signal, user=self.user)
        with self.output.open("ab") as output, signals_later():
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.env,
            )
            # For systems without a death signal, and for an exception before anybody stops it.
            atexit.register(self.kill)

    def wait_until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Return as soon as `ready()` is true.

        Raises:
            ProcessError: if the process ended or `timeout` seconds passed before; the message
                holds the end of what the process wrote.
        """
        assert self._process is not None, "spawn() comes first"
        deadline = time.monotonic() + timeout
        while not ready():
            if time.monotonic() > deadline:
                raise ProcessError(self._report(f"was not ready after {timeout:g} seconds"))
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(_POLL_SECONDS)
                raise ProcessError(self._report(f"ended with code {code} while starting"))

    def ask_to_stop(self) -> None:
        """Ask it to end, once, without waiting for that."""
        # A second signal while it ends makes Synapse log a traceback.
        if self._process is not None and self.alive and not self._asked:
            self._asked = True
            self._process.send_signal(self.stop_signal)

    def stop(self, timeout: float = 60.0) -> None:
        """Ask it to end, insist after `timeout` seconds; return when it is gone.

        A Synapse that is killed instead has not written how far its pushers have come.
        """
        if self._process is None:
            return
        self.ask_to_stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """End it at once; return when it is gone."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None
        atexit.unregister(self.kill)

    def written(self) -> str:
        """Everything that it wrote to its output, in all its lives."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def _report(self, what: str) -> str:
        return (
            f"{self.name} {what}; the end of {self.output}:\n{self.written()[-_TAIL_CHARACTERS:]}"
        )
