# SPDX-License-Identifier: AGPL-3.0-or-later
"""The servers that are compared, each on its own copy of one population."""

import contextlib
import ctypes
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attr
from typing_extensions import Self

from demo.client import JsonDict, Session
from tests.bench import probe
from tests.bench.population import Population, RoomPlan, add_pushers, add_use, populate
from tests.bench.variants import Variant
from tests.harness.deployment import Deployment
from tests.harness.postgres import Postgres
from tests.harness.waiting import wait_until

# Nothing listens there; the pushers of most measurements do not run.
NOWHERE = "http://127.0.0.1:1/_matrix/push/v1/notify"

# The server is at rest when it used less than this, of the time that went by.
_AT_REST = 0.05
_WINDOW = 0.05


@attr.s(auto_attribs=True, frozen=True)
class Server:
    """A running server of the benchmark, with the probe in it."""

    variant: Variant
    deployment: Deployment
    sender: Session

    def ask(self, do: str, **arguments: Any) -> JsonDict:
        """Have the probe do something; see `tests.bench.probe`."""
        answer: JsonDict = self.sender.call(
            "POST", probe.PATH, {"do": do, **arguments}, timeout=600
        )
        return answer

    def statements(self) -> Counter[tuple[str, str]]:
        """All SQL statements since the start, by logging context and transaction."""
        return Counter(
            {
                (context, transaction): number
                for context, transaction, number in self.ask("statements_so_far")["counts"]
            }
        )

    def cpu(self) -> float:
        """The CPU seconds that the process has used so far."""
        assert self.deployment.homeserver.pid is not None
        return cpu_seconds(self.deployment.homeserver.pid)

    def rest(self) -> None:
        """Wait until the process has nothing more to do."""
        last = [time.monotonic(), self.cpu()]

        def is_at_rest() -> bool:
            # One that is kept waiting for a processor uses none either.
            waits = self._wants_a_processor()
            now = [time.monotonic(), self.cpu()]
            if now[0] - last[0] < _WINDOW and not waits:
                return False
            used = (now[1] - last[1]) / (now[0] - last[0])
            last[:] = now
            return used < _AT_REST and not waits

        wait_until(is_at_rest, "the server at rest", 600)

    def wait_for_pushers(self, user_ids: Sequence[str]) -> None:
        """Wait until the users' pushers have dealt with all events."""
        wait_until(
            lambda: bool(self.ask("pushers_are_done", user_ids=user_ids)["done"]),
            "the pushers done",
            600,
        )

    def _wants_a_processor(self) -> bool:
        """Whether a thread of the server, or a process of its database, runs or is about to."""
        postgres = self.deployment.postgres
        pids = (self.deployment.homeserver.pid, *(postgres.pids() if postgres else ()))
        return any(map(_is_to_run, pids))


def _is_to_run(pid: int | None) -> bool:
    # It may end meanwhile, or a thread of it.
    with contextlib.suppress(OSError):
        for task in [*Path(f"/proc/{pid}/task").iterdir()]:
            with contextlib.suppress(OSError):
                if (task / "stat").read_text().rpartition(") ")[2].startswith(("R", "D")):
                    return True
    return False


def cpu_seconds(pid: int) -> float:
    """The CPU seconds of a process, to the nanosecond where /proc only has hundredths."""
    clock = ctypes.c_int()
    error = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise OSError(error, os.strerror(error))
    return time.clock_gettime(clock.value)


@attr.s(auto_attribs=True)
class Workshop:
    """Makes populations and servers, in a directory that goes with it: use it with `with`.

    Attributes:
        say: shows a line of progress.
    """

    say: Callable[[str], None]
    _stack: contextlib.ExitStack = attr.ib(factory=contextlib.ExitStack, init=False)
    _postgres: Postgres | None = attr.ib(default=None, init=False)
    _made: int = attr.ib(default=0, init=False)

    def __enter__(self) -> Self:
        self._root = Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix="synapse-bench-"))
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def populate(self, kind: str, plans: Sequence[RoomPlan]) -> Population:
        """Make users and rooms, on "sqlite" or "postgres"."""
        postgres = self._postgres_for(kind)
        population = populate(kind, self._directory(), postgres, plans)
        self.say(f"made {len(population.users)} users in {len(plans)} rooms on {kind}")
        return population

    @contextlib.contextmanager
    def serve(
        self,
        population: Population,
        variant: Variant,
        *,
        per_room: Mapping[str, Variant] | None = None,
        gateway: str | None = None,
        off: Collection[str] = (),
        count_statements: bool = False,
        prepare: Callable[[Deployment], None] | None = None,
    ) -> Iterator[Server]:
        """A server on a copy of the population.

        Args:
            population: its users.
            variant: how it is set up, and what the members of each room use.
            per_room: rooms whose members use something else.
            gateway: where its pushers push; without it, all are switched off.
            off: the rooms whose members' pushers are switched off.
            count_statements: whether to count SQL statements.
            prepare: changes the database further before the start.
        """
        deployment = self._copy(population, variant, count_statements)
        for name, room in population.rooms.items():
            is_on = gateway is not None and name not in off
            add_pushers(deployment, room.members, population.upto, gateway or NOWHERE, is_on)
            used = (per_room or {}).get(name, variant)
            add_use(deployment, used.users(room.members), used.use, room.room_id)
        if prepare is not None:
            prepare(deployment)
        with self.run(deployment, population, variant) as server:
            yield server

    @contextlib.contextmanager
    def run(
        self, deployment: Deployment, population: Population, variant: Variant
    ) -> Iterator[Server]:
        """Start a server that is prepared, and end it with what it has."""
        try:
            deployment.start()
            server = Server(variant, deployment, deployment.direct(population.sender))
            server.rest()
            yield server
            server.sender.close()
        finally:
            deployment.stop()
        deployment.assert_log_is_clean()

    def _copy(self, population: Population, variant: Variant, count_statements: bool) -> Deployment:
        original = population.deployment
        probe_module = {
            "module": f"{probe.__name__}.{probe.Probe.__name__}",
            "config": {"count_statements": count_statements},
        }
        return Deployment(
            kind=original.kind,
            directory=self._directory(),
            postgres=original.postgres,
            with_module=variant.with_module,
            further_modules=[probe_module],
            copy_of=original,
        ).prepare()

    def _directory(self) -> Path:
        self._made += 1
        directory = self._root / f"{self._made:03d}"
        directory.mkdir()
        return directory

    def _postgres_for(self, kind: str) -> Postgres | None:
        if kind == "sqlite":
            return None
        if self._postgres is None:
            self._postgres = self._stack.enter_context(Postgres())
        return self._postgres
