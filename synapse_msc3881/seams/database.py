# SPDX-License-Identifier: AGPL-3.0-or-later
"""The database: caches on all processes, a connection at startup, and which tables there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from synapse.storage.engines import PostgresEngine

from synapse_msc3881.seams.declaring import STORE, Seam
from synapse_msc3881.seams.homeserver import main_store

if TYPE_CHECKING:
    from synapse.module_api import LoggingTransaction
    from synapse.server import HomeServer

T = TypeVar("T")
AnyCallable = Callable[..., Any]

SEAMS: tuple[Seam, ...] = (
    Seam(
        STORE + "_invalidate_cache_and_stream",
        "in a transaction: invalidates a cache here and, when it commits, on all other processes",
        parameters=("txn", "cache_func", "keys"),
    ),
    Seam(
        STORE + "register_external_cached_function",
        "lets other processes invalidate a cache of ours by its name",
        parameters=("cache_name", "func"),
    ),
    Seam(
        "synapse.storage._base:SQLBaseStore",
        "the store, with the pool of connections and the kind of database",
        attributes=("db_pool", "database_engine"),
    ),
    Seam(
        "synapse.storage.database:DatabasePool",
        "holds Twisted's pool and the kind of database",
        attributes=("_db_pool", "engine"),
    ),
    Seam(
        "twisted.enterprise.adbapi:ConnectionPool",
        "the connections by thread; the current thread may have one already",
        attributes=("connections", "threadID", "connect", "disconnect"),
    ),
    Seam(
        "synapse.storage.engines:Sqlite3Engine",
        "whether the database is in memory",
        attributes=("_is_in_memory",),
    ),
    Seam("synapse.storage.engines:PostgresEngine", "tells the two kinds of database apart"),
    Seam(
        "synapse.storage.engines:BaseDatabaseEngine",
        "`module` is the database's driver",
        attributes=("module",),
    ),
    Seam(
        "synapse.storage.engines:BaseDatabaseEngine.convert_param_style",
        "a statement with the driver's parameter marker in place of `?`",
        parameters=("sql",),
    ),
    Seam(
        "synapse.storage.database:LoggingTransaction.execute_batch",
        "runs a statement once for each list of parameters",
        parameters=("sql", "args"),
    ),
    Seam(
        "synapse.storage.database:DatabasePool.runInteraction",
        "runs a function with a transaction as its first argument, again if the database asks for "
        "it; db_autocommit=False makes it one transaction",
        parameters=("desc", "func", "db_autocommit"),
    ),
    Seam(
        "synapse.storage.database:DatabasePool.simple_upsert",
        "upserts a row through self.runInteraction; we call it with another `self`",
        parameters=("table", "keyvalues", "values"),
        calls=("runInteraction",),
    ),
)


#: How long a starting process waits for its turn at the tables.
LOCK_SECONDS = 30

_LOCK_NOT_AVAILABLE = "55P03"

_HOLDERS = """
    SELECT a.pid, a.usename, a.application_name, COALESCE(a.client_addr::text, 'this machine'),
        a.state, EXTRACT(EPOCH FROM now() - a.xact_start)::int
    FROM pg_locks AS l INNER JOIN pg_stat_activity AS a ON a.pid = l.pid
    WHERE l.granted AND l.relation = 'applied_module_schemas'::regclass
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND l.pid <> pg_backend_pid()
"""


class LockedError(Exception):
    """Another session holds the table of schemas for too long; the message names it."""


class CrossProcessCache:
    """Invalidates a cache of ours on all processes, in the transaction that makes it stale."""

    def __init__(self, hs: HomeServer, name: str, cache: Any) -> None:
        """
        Args:
            hs: the homeserver.
            name: the cache's name, the same on all processes.
            cache: has ``invalidate(keys)`` and ``invalidate_all()``.
        """
        self._store = main_store(hs)
        self._cache = cache
        # The stream carries the function's `__name__`, and finds it by its registered name.
        cache.__name__ = name
        self._store.register_external_cached_function(name, cache)

    def invalidate_txn(self, txn: LoggingTransaction, key: str) -> None:
        """Invalidate one key everywhere, when the transaction commits."""
        self._store._invalidate_cache_and_stream(txn, self._cache, (key,))


def key_share_lock(hs: HomeServer) -> str:
    """What a SELECT ends with that has whoever deletes the row wait for the transaction.

    Nothing on SQLite, where transactions that write follow each other.
    """
    return " FOR KEY SHARE" if isinstance(engine_of(hs), PostgresEngine) else ""


def update_lock(hs: HomeServer) -> str:
    """What a SELECT ends with that waits for those who have read or changed the rows.

    Nothing on SQLite, where transactions that write follow each other.
    """
    return " FOR UPDATE" if isinstance(engine_of(hs), PostgresEngine) else ""


def read_committed(hs: HomeServer) -> str:
    """A transaction's first statement, for each later one to see what others commit meanwhile.

    None is needed on SQLite.
    """
    is_postgres = isinstance(engine_of(hs), PostgresEngine)
    return "SET TRANSACTION ISOLATION LEVEL READ COMMITTED" if is_postgres else ""


def engine_of(hs: HomeServer) -> Any:
    """The kind of database that the homeserver has: its driver and its SQL."""
    return main_store(hs).database_engine


class Joined(Generic[T]):
    """Calls a method of the store with statements of ours in the method's own transaction.

    The method sees the store's `db_pool` through this object, which adds the statements to the
    first transaction, or to the first write of `table` if one is named.

    Attributes:
        ran: whether there was such a transaction, and it has been committed.
        given: what the statements returned, once they ran.
    """

    def __init__(
        self,
        statements: Callable[[LoggingTransaction], T],
        table: str | None = None,
        first: str = "",
    ) -> None:
        """
        Args:
            statements: run in the transaction after the method's own. May run several times, since
                Synapse repeats a transaction if the database asks for it.
            table: the table whose upsert they join; None for the first transaction.
            first: the transaction's first statement; see `read_committed`.
        """
        self.ran = False
        self.given: T | None = None
        self._statements = statements
        self._table = table
        self._first = first

    async def call(self, native: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a bound method of the store; `ran` says whether the statements ran with it."""
        method = getattr(native, "__func__", None)
        if method is None:  # Another module has put a function of its own here.
            return await native(*args, **kwargs)
        store = native.__self__
        pool = _JoinedPool(store.db_pool, self)
        return await method(_JoinedStore(store, pool), *args, **kwargs)

    async def run(
        self, pool: Any, desc: str, func: AnyCallable, args: Any, kwargs: dict[str, Any]
    ) -> Any:
        """Run one of the method's transactions, with ours in it."""

        def both(txn: LoggingTransaction, *args: Any, **kwargs: Any) -> Any:
            if self._first:
                txn.execute(self._first)
            result = func(txn, *args, **kwargs)
            self.given = self._statements(txn)
            return result

        # Two statements must not be committed separately.
        kwargs["db_autocommit"] = False
        result = await pool.runInteraction(desc, both, *args, **kwargs)
        self.ran = True
        return result

    def joins(self, table: str | None) -> bool:
        """Whether this transaction, which may upsert a table, is the one to join."""
        return not self.ran and table == self._table


class _JoinedStore:
    """Synapse's store, with another pool."""

    def __init__(self, store: Any, pool: _JoinedPool) -> None:
        self._store = store
        self.db_pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class _JoinedPool:
    """Synapse's database pool, which has our statements join a transaction."""

    def __init__(self, pool: Any, joined: Joined[Any], table: str | None = None) -> None:
        self._pool = pool
        self._joined = joined
        self._table = table

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    async def runInteraction(self, desc: str, func: AnyCallable, *args: Any, **kwargs: Any) -> Any:
        if self._joined.joins(self._table):
            return await self._joined.run(self._pool, desc, func, args, kwargs)
        return await self._pool.runInteraction(desc, func, *args, **kwargs)

    async def simple_upsert(self, table: str, *args: Any, **kwargs: Any) -> Any:
        upserting = _JoinedPool(self._pool, self._joined, table)
        return await type(self._pool).simple_upsert(upserting, table, *args, **kwargs)


def has_table(cursor: Any, engine: Any, name: str) -> bool:
    """Whether the database has a table with that name."""
    catalogue = (
        "SELECT 1 FROM information_schema.tables"
        " WHERE table_schema = current_schema() AND table_name = ?"
        if isinstance(engine, PostgresEngine)
        else "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    )
    cursor.execute(engine.convert_param_style(catalogue), (name,))
    return cursor.fetchone() is not None


def lock_schemas(connection: Any, engine: Any, seconds: float = LOCK_SECONDS) -> None:
    """Let no other process change the schema until this transaction ends.

    This must be the transaction's first statement, since PostgreSQL shows a transaction what there
    was at its first one. On SQLite, which only one process uses, it does nothing.

    Args:
        connection: to the database, with no transaction open.
        engine: Synapse's engine for it.
        seconds: how long to wait.

    Raises:
        LockedError: another database session held the table for that long.
    """
    if not isinstance(engine, PostgresEngine):
        return
    cursor = connection.cursor()
    try:
        cursor.execute(f"SET LOCAL lock_timeout = {int(seconds * 1000)}")
        cursor.execute("LOCK TABLE applied_module_schemas IN EXCLUSIVE MODE")
    except engine.module.OperationalError as error:
        if getattr(error, "pgcode", None) != _LOCK_NOT_AVAILABLE:
            raise
        connection.rollback()
        cursor.execute(_HOLDERS)
        holders = [
            f"  process {pid} of PostgreSQL: user {user}, application {application or 'unnamed'}, "
            f"from {address}, {state}, in a transaction for {age} s"
            for pid, user, application, address, state, age in cursor.fetchall()
        ]
        raise LockedError(
            f"synapse_msc3881 waited {seconds:g} seconds for the table applied_module_schemas, "
            "under whose lock its own tables are made. Held by:\n"
            + ("\n".join(holders) or "  nobody any more: start Synapse again")
            + "\nEnd that session, with SELECT pg_terminate_backend(PID) if it hangs, and start "
            "Synapse again."
        ) from None


def connection_of_this_thread(hs: HomeServer) -> tuple[Any, Callable[[], None]]:
    """A database connection to use at once, before the reactor serves anything.

    Returns:
        The connection, and a function that returns it to the pool. A connection to an in-memory
        SQLite *is* the database, so that one stays open: Synapse's test homeserver runs on it.
    """
    database = main_store(hs).db_pool
    pool: Any = database._db_pool
    had_one = pool.threadID() in pool.connections
    connection = pool.connect()
    in_memory = getattr(database.engine, "_is_in_memory", False)

    def give_back() -> None:
        if not had_one and not in_memory:
            pool.disconnect(connection)

    return connection, give_back
