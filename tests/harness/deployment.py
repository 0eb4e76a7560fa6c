# SPDX-License-Identifier: AGPL-3.0-or-later
"""A running Synapse, with or without the module, on either database."""

import re
import secrets
import shutil
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import attr
from typing_extensions import Self

import synapse_msc3881
from demo.client import JsonDict, Session
from demo.homeserver import Homeserver, Options
from tests.harness.postgres import Database, Postgres

MODULE = "synapse_msc3881.PusherControl"
KINDS = ("sqlite", "postgres", "cluster")

# The server runs the same package as the tests, installed or not.
_PACKAGE_PARENT = Path(synapse_msc3881.__file__).parent.parent
# It also runs modules that are here for tests only.
CHECKOUT = Path(__file__).parent.parent.parent

_SQLITE = "homeserver.db"

# Twisted logs that it was asked to stop, and cannot where that interrupts another line of the log:
# either it says so, or Python.
_INTERRUPTED_LOGGING = "^logging during logging|RuntimeError: reentrant call inside"

# Synapse tells itself so where a room changes while it fills new tables in the background.
_TRIES_AGAIN = r"Raising exception so we can just try again\."

# A traceback in the log goes on until a line that is a log line again.
_LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\d ", re.MULTILINE)


@attr.s(auto_attribs=True, kw_only=True)
class Deployment:
    """One Synapse process on SQLite, or on a PostgreSQL database of its own.

    Attributes:
        kind: "sqlite" or "postgres"; see `Cluster` for "cluster".
        directory: for its configuration, log and data.
        postgres: where to make the database; needed for all kinds but "sqlite".
        with_module: False runs a vanilla Synapse.
        module_config: the module's `config`.
        extra: further top-level options of homeserver.yaml.
        further_modules: what comes after ours in its `modules`.
        server_name: the part of user ids after the colon.
        copy_of: a stopped deployment of the same kind, whose data it starts with a copy of.
    """

    kind: str
    directory: Path
    postgres: Postgres | None = None
    with_module: bool = True
    module_config: JsonDict = attr.ib(factory=dict)
    extra: Mapping[str, Any] = attr.ib(factory=dict)
    further_modules: Sequence[JsonDict] = ()
    server_name: str = "synapse.test"
    copy_of: "Deployment | None" = None
    homeserver: Homeserver = attr.ib(init=False)
    _database: Database | None = attr.ib(default=None, init=False)
    _prepared: bool = attr.ib(default=False, init=False)
    _log_checked: int = attr.ib(default=0, init=False)
    _allowed_in_log: list[str] = attr.ib(
        factory=lambda: [_INTERRUPTED_LOGGING, _TRIES_AGAIN], init=False
    )

    def prepare(self) -> Self:
        """Make the database, for `sql()` and `insert()` before the start; once is enough."""
        if self._prepared:
            return self
        self._prepared = True
        if self.kind != "sqlite":
            assert self.postgres is not None, "this kind needs a PostgreSQL server"
            original = self.copy_of._database if self.copy_of else None
            self._database = self.postgres.create_database(original)
        elif self.copy_of:
            self.directory.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.copy_of.directory / _SQLITE, self.directory / _SQLITE)
        return self

    def start(self) -> Self:
        self.prepare()
        self.homeserver = self._make_homeserver()
        self.homeserver.start()
        return self

    def stop(self) -> None:
        """Stop the server and remove its database. The log stays readable."""
        self.homeserver.stop()
        if self.postgres is not None and self._database is not None:
            self.postgres.drop_database(self._database)

    def kill(self) -> None:
        """End the server without any warning; `restart()` brings it back."""
        self.homeserver.kill()

    def restart(
        self,
        *,
        with_module: bool | None = None,
        module_config: JsonDict | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Stop and start on the same data; what is given is changed, the rest stays."""
        if with_module is not None:
            self.with_module = with_module
        if module_config is not None:
            self.module_config = module_config
        if extra is not None:
            self.extra = extra
        self.homeserver.restart(self.options())

    # Users

    def register(self, localpart: str | None = None, *, device_id: str | None = None) -> Session:
        """A new user, logged in; by default with a name that nobody else has."""
        localpart = localpart or f"user-{secrets.token_hex(5)}"
        return self.homeserver.register(localpart, device_id=device_id)

    def login(self, user: Session | str, device_id: str) -> Session:
        """A further device of an existing user."""
        user_id = user.user_id if isinstance(user, Session) else user
        return self.homeserver.login(user_id, device_id)

    def direct(self, user: Session) -> Session:
        """A second session of the same device, for another thread; it waits for no process."""
        return Session(
            route=self.homeserver.route_at_once,
            user_id=user.user_id,
            device_id=user.device_id,
            access_token=user.access_token,
        )

    def settle(self) -> None:
        """Return when all processes have seen all that was written by now; here, there is one."""

    # Looking inside

    def sql(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement on the server's database from outside, and commit.

        Write `?` for parameters on both databases, and `%%` for a percent sign in a statement
        that has parameters. Synapse caches: it does not see every write at once.
        """
        if self._database is not None:
            return self._database.execute(statement.replace("?", "%s"), parameters)
        with closing(self._sqlite()) as connection, connection:
            return connection.execute(statement.replace("%%", "%"), parameters).fetchall()

    def insert(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Insert many rows into a table from outside; best while the server is stopped."""
        if self._database is not None:
            self._database.insert(table, columns, rows)
            return
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
        with closing(self._sqlite()) as connection, connection:
            connection.executemany(statement, rows)

    def _sqlite(self) -> sqlite3.Connection:
        return sqlite3.connect(self.directory / _SQLITE, timeout=30)

    def metrics(self) -> str:
        return self.homeserver.metrics()

    def log_text(self) -> str:
        return self.homeserver.log_text()

    # The log must stay clean

    def allow_in_log(self, pattern: str) -> None:
        """Let tracebacks pass whose text, with the line above, this expression is found in."""
        self._allowed_in_log.append(pattern)

    def assert_log_is_clean(self) -> None:
        """Fail for each traceback that was logged since the last such look.

        Raises:
            AssertionError: with the file's name and the traceback.
        """
        log = self.log_text()
        new, self._log_checked = log[self._log_checked :], len(log)
        for entry in _entries(new):
            if "Traceback (most recent call last)" not in entry:
                continue
            if not any(re.search(pattern, entry, re.MULTILINE) for pattern in self._allowed_in_log):
                where = self.homeserver.log_file
                raise AssertionError(f"Synapse logged a traceback, see {where}:\n{entry[-4000:]}")

    def _make_homeserver(self) -> Homeserver:
        return Homeserver(self.directory, self.options())

    def options(self) -> Options:
        """What its homeserver is, or is to be, started with."""
        module = {"module": MODULE, "config": self.module_config}
        return Options(
            server_name=self.server_name,
            metrics=True,
            modules=[*([module] if self.with_module else []), *self.further_modules],
            database=self._database.synapse_config() if self._database else None,
            extra=self.extra,
            python_path=[_PACKAGE_PARENT, CHECKOUT],
        )


def _entries(log: str) -> list[str]:
    """A log as its entries: each a dated line with the lines that belong to it."""
    starts = [match.start() for match in _LOG_LINE.finditer(log)]
    return [log[a:b] for a, b in zip([0, *starts], [*starts, len(log)], strict=True)]
