# SPDX-License-Identifier: AGPL-3.0-or-later
"""Creates and upgrades the module's tables, before Synapse answers its first request."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from importlib import resources
from typing import TYPE_CHECKING, Any

import attr

from synapse_msc3881 import __version__, seams

if TYPE_CHECKING:
    from importlib.abc import Traversable

    from synapse.server import HomeServer

logger = logging.getLogger(__name__)

#: The name under which Synapse's table `applied_module_schemas` records the files.
MODULE_NAME = "synapse_msc3881"

# Deletes what has outlived its owner because Synapse ran without the module, or died at the wrong
# moment.
_TIDY = (
    """
    DELETE FROM synapse_msc3881_pusher_tags WHERE NOT EXISTS (
        SELECT 1 FROM pushers AS p
        WHERE p.user_name = synapse_msc3881_pusher_tags.user_id
            AND p.app_id = synapse_msc3881_pusher_tags.app_id
            AND p.pushkey = synapse_msc3881_pusher_tags.pushkey
    )
    """,
    """
    DELETE FROM synapse_msc3881_device_rules WHERE EXISTS (
        SELECT 1 FROM users AS u
        WHERE u.name = synapse_msc3881_device_rules.user_id AND u.deactivated = 1
    )
    """,
    """
    DELETE FROM synapse_msc3881_device_rules WHERE EXISTS (
        SELECT 1 FROM synapse_msc3881_own_settings AS o
        WHERE o.user_id = synapse_msc3881_device_rules.user_id
            AND o.device_id = synapse_msc3881_device_rules.profile_tag
            AND NOT EXISTS (
                SELECT 1 FROM devices AS d
                WHERE d.user_id = o.user_id AND d.device_id = o.device_id
            )
    )
    """,
    """
    DELETE FROM synapse_msc3881_own_settings WHERE NOT EXISTS (
        SELECT 1 FROM devices AS d
        WHERE d.user_id = synapse_msc3881_own_settings.user_id
            AND d.device_id = synapse_msc3881_own_settings.device_id
    )
    """,
    """
    DELETE FROM synapse_msc3881_kept_rules WHERE NOT EXISTS (
        SELECT 1 FROM synapse_msc3881_own_settings AS o
        WHERE o.user_id = synapse_msc3881_kept_rules.user_id
            AND o.device_id = synapse_msc3881_kept_rules.profile_tag
    )
    """,
)

#: The module's tables.
TABLES = (
    "synapse_msc3881_device_rules",
    "synapse_msc3881_pusher_tags",
    "synapse_msc3881_own_settings",
    "synapse_msc3881_kept_rules",
)

_MAKES = re.compile(r"CREATE TABLE IF NOT EXISTS (\w+)")

# A schema file's name holds the release that introduced it, for releases that do not have the file.
_RELEASE = re.compile(r"\.(\d+\.\d+\.\d+)\.sql")


class NewerSchemaError(Exception):
    """The tables were changed by a newer release, so this one must not write to them."""


_TAGGED_USERS = "SELECT DISTINCT user_id FROM synapse_msc3881_pusher_tags"

_OWN_USERS = "SELECT DISTINCT user_id FROM synapse_msc3881_own_settings"


@attr.s(auto_attribs=True, frozen=True, slots=True)
class StoredUsers:
    """Who uses the module.

    Attributes:
        tagged: the users who have a pusher with profile tags.
        own: those who have a device with its own settings.
    """

    tagged: set[str]
    own: set[str]


def prepare_tables(hs: HomeServer, is_main: bool) -> StoredUsers:
    """Bring the tables up to date, and read who uses the module.

    Blocks, like Synapse's own migrations: the tables must be there before the first request. Every
    process does this, so none depends on another starting first; on PostgreSQL they take turns.

    Args:
        hs: the homeserver.
        is_main: whether this is the main process, which also tidies up.

    Returns:
        The users with profile tags, and those with devices that have their own settings.

    Raises:
        NewerSchemaError: a newer release has changed the tables.
        LockedError: another database session keeps the module from looking at them.
        SeamError: one of Synapse's tables lacks a column that the module names.
    """
    connection, give_back = seams.connection_of_this_thread(hs)
    engine = seams.engine_of(hs)
    try:
        seams.lock_schemas(connection, engine)
        seams.verify_tables(connection, engine)
        cursor = connection.cursor()
        _upgrade(cursor, engine)
        if is_main:
            for statement in _TIDY:
                cursor.execute(statement)
        users = StoredUsers(_users(cursor, _TAGGED_USERS), _users(cursor, _OWN_USERS))
        connection.commit()
        return users
    except BaseException:
        connection.rollback()
        raise
    finally:
        give_back()


def _users(cursor: Any, statement: str) -> set[str]:
    cursor.execute(statement)
    return {user_id for (user_id,) in cursor.fetchall()}


def _upgrade(cursor: Any, engine: Any) -> None:
    applied = applied_files(cursor, engine)
    if newer := newer_than_this(applied):
        raise NewerSchemaError(f"synapse_msc3881 {__version__} does not start: {newer}")
    made = [
        table
        for file in schema_files()
        if file.name in applied
        for table in _MAKES.findall(file.read_text())
    ]
    if not all(seams.has_table(cursor, engine, table) for table in made):
        # Synapse's port from SQLite to PostgreSQL copies the records, but not our tables.
        cursor.execute(
            engine.convert_param_style("DELETE FROM applied_module_schemas WHERE module_name = ?"),
            (MODULE_NAME,),
        )
        applied = set()
    for file in schema_files():
        if file.name not in applied:
            logger.info("msc3881: applying schema %s", file.name)
            for statement in _statements(file.read_text()):
                cursor.execute(statement)
            cursor.execute(
                engine.convert_param_style(
                    "INSERT INTO applied_module_schemas (module_name, file) VALUES (?, ?)"
                ),
                (MODULE_NAME, file.name),
            )


def newer_than_this(applied: Iterable[str]) -> str | None:
    """What to tell the admin if the database knows schema files that we do not.

    Args:
        applied: the names of the files that are recorded as applied.

    Returns:
        A sentence naming the release that is needed, or None if all are known.
    """
    unknown = sorted(set(applied).difference(file.name for file in schema_files()))
    if not unknown:
        return None
    releases = [
        tuple(map(int, found[1].split("."))) for name in unknown if (found := _RELEASE.search(name))
    ]
    needed = f"{'.'.join(map(str, max(releases)))} or later" if releases else "that release again"
    return (
        f"a newer release of the module has changed its tables, with {', '.join(unknown)}. "
        f"Install {needed}."
    )


def make_tables(cursor: Any) -> None:
    """Create the tables if they are missing, without recording it.

    Args:
        cursor: a cursor in a database that Synapse has not filled yet, on either engine.
    """
    for file in schema_files():
        for statement in _statements(file.read_text()):
            cursor.execute(statement)


def schema_files() -> list[Traversable]:
    """The module's schema files, in order."""
    files = resources.files("synapse_msc3881.storage").joinpath("schema").iterdir()
    return sorted(
        (file for file in files if file.name.endswith(".sql")), key=lambda file: file.name
    )


def applied_files(cursor: Any, engine: Any) -> set[str]:
    """The names of the files recorded as applied, from Synapse's table, which must exist."""
    cursor.execute(
        engine.convert_param_style("SELECT file FROM applied_module_schemas WHERE module_name = ?"),
        (MODULE_NAME,),
    )
    return {file for (file,) in cursor.fetchall()}


def _statements(script: str) -> list[str]:
    """The statements of a schema file; no string in ours contains a semicolon."""
    lines = (line for line in script.splitlines() if not line.lstrip().startswith("--"))
    return [statement for part in "\n".join(lines).split(";") if (statement := part.strip())]
