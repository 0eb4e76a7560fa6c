# SPDX-License-Identifier: AGPL-3.0-or-later
"""The tables of Synapse's that our SQL names, and the columns of each that it names."""

from __future__ import annotations

from typing import Any

import attr

from synapse_msc3881.seams.database import has_table
from synapse_msc3881.seams.declaring import SeamError, SeamStatus
from synapse_msc3881.tested import does_not_fit


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Table:
    """One of Synapse's tables that the module reads or writes.

    Attributes:
        name: its name.
        columns: the ones that the module names.
        relies_on: what the module does with it.
        since: the oldest Synapse version for which this is known to hold.
    """

    name: str
    columns: tuple[str, ...]
    relies_on: str
    since: str = "1.120"

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"database:{self.name}"


TABLES: tuple[Table, ...] = (
    Table(
        "applied_module_schemas",
        ("module_name", "file"),
        "records which of the module's schema files were applied; locked while they are",
    ),
    Table(
        "event_push_actions",
        (
            "event_id",
            "room_id",
            "user_id",
            "thread_id",
            "stream_ordering",
            "actions",
            "highlight",
            "notif",
        ),
        "what was decided for each user of an event; no count looks at rows with notif = 0",
    ),
    Table(
        "events",
        (
            "event_id",
            "room_id",
            "sender",
            "stream_ordering",
            "received_ts",
            "origin_server_ts",
            "type",
            "state_key",
        ),
        "when an event was received, for e-mail and `explain`",
    ),
    Table("devices", ("user_id", "device_id", "hidden"), "whether a device is still logged in"),
    Table(
        "push_rules",
        ("user_name", "rule_id", "priority_class", "priority", "conditions", "actions"),
        "the rules of `global`, copied for a device with its own settings",
    ),
    Table(
        "push_rules_enable",
        ("user_name", "rule_id", "enabled"),
        "which rules of `global` are on, also copied",
    ),
    Table("redactions", ("redacts",), "whether an event was redacted, for `explain`"),
    Table(
        "receipts_linearized",
        ("room_id", "user_id", "receipt_type", "event_id", "thread_id"),
        "how far a user has read, for `explain`",
    ),
    Table(
        "pushers",
        (
            "id",
            "user_name",
            "app_id",
            "pushkey",
            "kind",
            "enabled",
            "device_id",
            "app_display_name",
            "device_display_name",
            "ts",
            "last_stream_ordering",
            "last_success",
            "failing_since",
        ),
        "counted, explained, and checked for profile tags that no longer have a pusher",
    ),
    Table(
        "pusher_throttle",
        ("pusher", "room_id", "last_sent_ts", "throttle_ms"),
        "when the next e-mail may go out, for `explain`",
    ),
    Table("users", ("name", "deactivated"), "tells which device rules no longer have a user"),
)


def inspect_tables(connection: Any, engine: Any) -> list[SeamStatus]:
    """Compare Synapse's tables with what `TABLES` declares; no statement returns a row.

    Args:
        connection: a database connection. Its transaction ends if a table is missing.
        engine: Synapse's engine for it.

    Raises:
        Exception: the database does not answer.
    """
    return [SeamStatus(table, _problem(connection, engine, table)) for table in TABLES]


def verify_tables(connection: Any, engine: Any) -> None:
    """Check every table, before anything is changed.

    Args:
        connection: a database connection.
        engine: Synapse's engine for it.

    Raises:
        SeamError: a table or a column is missing. The message names each of them.
    """
    broken = [status for status in inspect_tables(connection, engine) if status.problem]
    if broken:
        raise SeamError(does_not_fit([str(status) for status in broken]))


def _problem(connection: Any, engine: Any, table: Table) -> str | None:
    cursor = connection.cursor()
    try:
        cursor.execute(f"SELECT * FROM {table.name} LIMIT 0")
    except engine.module.Error:
        connection.rollback()  # PostgreSQL answers nothing else in this transaction.
        if has_table(cursor, engine, table.name):
            raise
        return "missing (there is no such table)"
    found = [column[0] for column in cursor.description]
    missing = [name for name in table.columns if name not in found]
    if missing:
        return f"has no column {', '.join(missing)}; it has {', '.join(found)}"
    return None
