# SPDX-License-Identifier: AGPL-3.0-or-later
"""Looks into the database, without changing anything in it or beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import attr

from synapse_msc3881 import seams
from synapse_msc3881.admin.redaction import Secrets
from synapse_msc3881.admin.report import DatabaseReport, Finding, note, problem
from synapse_msc3881.seams import SeamStatus, process_config
from synapse_msc3881.storage import migrations
from synapse_msc3881.storage.migrations import (
    TABLES,
    applied_files,
    newer_than_this,
    schema_files,
)

#: The seconds that the database gets to connect, and for each statement.
PATIENCE = 10
# For whatever else may hang: a name server, a connection that nobody answers.
_GIVE_UP = 2 * PATIENCE

_SQLITE_WAL = 2

T = TypeVar("T")

#: Reads something with a cursor and Synapse's engine for the database.
Read = Callable[[Any, Any], T]


@attr.s(auto_attribs=True, frozen=True, slots=True)
class _Contents:
    """What is in the database; `schema` is None before Synapse first starts on it."""

    schema: frozenset[str] | None
    tables: tuple[str, ...]
    synapse: Sequence[SeamStatus] = ()  # Synapse's own tables


class CannotReadError(Exception):
    """The database cannot be read at present; has a message, and what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class _NothingThereError(CannotReadError):
    """There is no database yet, which is right before the first start."""


def look(
    database: Mapping[str, Any], secrets: Secrets
) -> tuple[DatabaseReport, list[Finding], Sequence[SeamStatus]]:
    """Read which of the module's tables there are, and which columns Synapse's have.

    Args:
        database: the section of Synapse's config.
        secrets: what must not be shown.

    Returns:
        What is there, what is wrong with it, and how Synapse's tables compare, unless they do not
        exist yet. Returns within `_GIVE_UP` seconds.
    """
    options = database.get("args") or {}
    if database["name"] == "sqlite3":
        report = DatabaseReport("SQLite", _sqlite_path(options))
    else:
        report = DatabaseReport("PostgreSQL", _describe_postgres(options))
    where = f"{report.engine}, {report.where}"
    try:
        contents = read_only(database, secrets, _read_contents)
    except _NothingThereError as error:
        return attr.evolve(report, exists=False), [note(where, str(error))], ()
    except CannotReadError as error:
        return report, [problem(where, str(error), error.remedy)], ()
    found = attr.evolve(
        report,
        answers=True,
        schema=tuple(sorted(contents.schema or ())),
        tables=contents.tables,
    )
    return found, _judge(where, contents), contents.synapse


def read_only(database: Mapping[str, Any], secrets: Secrets, read: Read[T]) -> T:
    """Read something from a database that must exist, without changing anything.

    Args:
        database: the section of Synapse's config.
        secrets: what must not be shown.
        read: reads it.

    Raises:
        CannotReadError: it cannot be read within `_GIVE_UP` seconds.
    """

    def connect_and_read() -> T:
        if database["name"] == "sqlite3":
            return _read_sqlite(database, _sqlite_path(database.get("args") or {}), read)
        return _read_postgres(database, read)

    try:
        return _within(_GIVE_UP, connect_and_read)
    except CannotReadError:
        raise
    except Exception as error:  # noqa: BLE001  # the drivers' errors have no common base
        raise CannotReadError(
            f"it does not answer.\n{_said(error, secrets)}",
            "Start the database, or correct `database` in the config.",
        ) from None


def _said(error: Exception, secrets: Secrets) -> str:
    return secrets.hide(str(error).strip() or type(error).__name__)


def make_tables(database: Mapping[str, Any], secrets: Secrets) -> tuple[str, list[str]]:
    """Create the module's tables in a PostgreSQL database that Synapse does not use yet.

    Args:
        database: the section of Synapse's config.
        secrets: what must not be shown.

    Returns:
        Which database it is, and the tables that did not exist before.

    Raises:
        CannotReadError: it cannot be written to within `_GIVE_UP` seconds.
    """
    if database.get("name") != "psycopg2":
        raise CannotReadError(
            "`database` in the config is no PostgreSQL.",
            "Give the config that synapse_port_db gets with --postgres-config. On SQLite the "
            "module makes its tables when Synapse starts with it.",
        )

    def make(cursor: Any, engine: Any) -> list[str]:
        missing = [table for table in TABLES if not seams.has_table(cursor, engine, table)]
        if missing:
            migrations.make_tables(cursor)
        return missing

    where = _describe_postgres(database.get("args") or {})
    try:
        return where, _within(_GIVE_UP, lambda: _with_postgres(database, make, readonly=False))
    except CannotReadError:
        raise
    except Exception as error:  # noqa: BLE001  # the drivers' errors have no common base
        raise CannotReadError(
            f"The {where} cannot be written to: {_said(error, secrets)}",
            "Make the database as Synapse's documentation says, or correct `database` in the "
            "config.",
        ) from None


def _judge(where: str, contents: _Contents) -> list[Finding]:
    """Compare what is there with what this release creates and reads."""
    if contents.schema is None:
        return [note(where, "Synapse has not made its tables yet; the first start does")]
    if newer := newer_than_this(contents.schema):
        return [problem(where, newer, "Synapse does not start with this release of the module.")]
    return _judge_recorded(where, contents, [file.name for file in schema_files()])


def _judge_recorded(where: str, contents: _Contents, known: Sequence[str]) -> list[Finding]:
    schema = contents.schema or frozenset()
    missing = [table for table in TABLES if table not in contents.tables]
    if schema and len(missing) == len(TABLES):
        what = (
            "the module's tables are recorded, but not there, as after synapse_port_db into a "
            "database without them. The next start makes them, empty"
        )
        remedy = (
            "To keep device rules and profile tags, port again into a new database, and run "
            "`python -m synapse_msc3881 schema` on it first."
        )
        return [note(where, what, remedy)]
    to_apply = [name for name in known if name not in schema]
    if to_apply:
        what = f"the next start with the module applies {', '.join(to_apply)} of its schema"
        until_then = "" if schema else "; until then there are no device rules and no profile tags"
        return [note(where, what + until_then)]
    if missing:
        what = f"{', '.join(missing)} is missing, though it is recorded as made"
        return [problem(where, what, "Restore it from a backup.")]
    return []


def _within(seconds: float, read: Callable[[], T]) -> T:
    """What `read` returns or raises, if it does so in time."""
    outcome: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            outcome.append(read())
        except Exception as error:  # noqa: BLE001  # passed on
            errors.append(error)

    # A daemon: if it hangs, it does not keep the process from ending.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:.0f} seconds")
    return outcome[0]


def _read_contents(cursor: Any, engine: Any) -> _Contents:
    tables = tuple(table for table in TABLES if seams.has_table(cursor, engine, table))
    if not seams.has_table(cursor, engine, "applied_module_schemas"):
        return _Contents(None, tables)
    applied = frozenset(applied_files(cursor, engine))
    return _Contents(applied, tables, seams.inspect_tables(cursor.connection, engine))


# --- PostgreSQL ---------------------------------------------------------------------------------


def _describe_postgres(options: Mapping[str, Any]) -> str:
    """Which database, without its password. A DSN may contain that, so it is not shown."""
    name = options.get("dbname") or options.get("database")
    parts = [
        f"database {name}" if name else "database of a DSN" if "dsn" in options else "database"
    ]
    parts += [f"at {options['host']}"] if options.get("host") else []
    parts += [f"port {options['port']}"] if options.get("port") else []
    parts += [f"as {options['user']}"] if options.get("user") else []
    return " ".join(parts)


def _read_postgres(database: Mapping[str, Any], read: Read[T]) -> T:
    return _with_postgres(database, read, readonly=True)


def _with_postgres(database: Mapping[str, Any], do: Read[T], *, readonly: bool) -> T:
    try:
        engine = process_config.database_engine(database)
    except RuntimeError as error:
        raise CannotReadError(
            f"its driver is not installed: {error}",
            "Install psycopg2 into this environment, or run this in that of Synapse.",
        ) from None
    # As Synapse connects: whatever begins with `cp_` is for its connection pool.
    options = {
        name: value
        for name, value in (database.get("args") or {}).items()
        if not name.startswith("cp_")
    }
    options["connect_timeout"] = PATIENCE
    with closing(engine.module.connect(**options)) as connection:
        connection.set_session(readonly=readonly)
        cursor = connection.cursor()
        cursor.execute(f"SET statement_timeout = {PATIENCE * 1000}")
        found = do(cursor, engine)
        connection.commit()
        return found


# --- SQLite -------------------------------------------------------------------------------------


def _sqlite_path(options: Mapping[str, Any]) -> str:
    path = str(options.get("database") or "")
    return path if path in ("", ":memory:") else str(Path(path).absolute())


def _read_sqlite(database: Mapping[str, Any], path: str, read: Read[T]) -> T:
    if path in ("", ":memory:"):
        raise _NothingThereError("it is in memory: there is nothing to see")
    file = Path(path)
    if not file.exists():
        raise _NothingThereError("there is no such file yet; Synapse's first start makes it")
    engine = process_config.database_engine(database)
    try:
        uri = f"file:{quote(path)}?{_sqlite_mode(file)}"
        with closing(engine.module.connect(uri, uri=True, timeout=PATIENCE)) as connection:
            return read(connection.cursor(), engine)
    except engine.module.Error as error:
        raise _explain_sqlite(error) from error
    except PermissionError:
        raise _not_readable() from None


def _sqlite_mode(file: Path) -> str:
    """How to open the file without creating another one beside it."""
    with file.open("rb") as stream:
        header = stream.read(20)
    in_wal_mode = header[18:20] == bytes([_SQLITE_WAL, _SQLITE_WAL])
    # In this mode SQLite creates two files beside it even for a reader, if nobody has it open.
    if in_wal_mode and not file.with_name(f"{file.name}-wal").exists():
        return "mode=ro&immutable=1"
    return "mode=ro"


def _explain_sqlite(error: Exception) -> CannotReadError:
    text = str(error)
    if "readonly" in text:
        return CannotReadError(
            "a process ended in the middle of a write, and reading it now would repair it",
            "Start Synapse, which does that, and check again.",
        )
    if "locked" in text:
        return CannotReadError(
            f"Synapse has been writing to it for {PATIENCE} seconds", "Check again in a while."
        )
    if "unable to open" in text:
        return _not_readable()
    return CannotReadError(f"it cannot be read: {text}", "Look at the file that `database` names.")


def _not_readable() -> CannotReadError:
    return CannotReadError(
        "it cannot be read by this user", "Run this as the user that Synapse runs as."
    )
