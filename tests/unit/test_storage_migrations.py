# SPDX-License-Identifier: AGPL-3.0-or-later
"""The pure parts of the migrations. The rest is tested against real databases."""

import re
import sqlite3
from importlib import resources

from synapse_msc3881.storage.migrations import (
    _OWN_USERS,
    _TAGGED_USERS,
    _TIDY,
    _statements,
    newer_than_this,
)

SCHEMA = sorted(
    resources.files("synapse_msc3881.storage").joinpath("schema").iterdir(),
    key=lambda file: file.name,
)


def test_a_script_is_taken_apart_into_its_statements() -> None:
    script = """-- A comment; with a semicolon
    CREATE TABLE a (b TEXT);

      -- Another; one
    CREATE INDEX c
        ON a (b);
    """
    assert [" ".join(s.split()) for s in _statements(script)] == [
        "CREATE TABLE a (b TEXT)",
        "CREATE INDEX c ON a (b)",
    ]
    assert _statements("-- Nothing;\n;\n;") == []


def test_the_release_that_a_newer_schema_needs_is_told() -> None:
    ours = [file.name for file in SCHEMA]
    assert newer_than_this(ours) is None
    assert newer_than_this([]) is None
    newer = newer_than_this([*ours, "98_x.0.10.0.sql", "99_y.0.9.1.sql"])
    assert newer is not None
    assert "with 98_x.0.10.0.sql, 99_y.0.9.1.sql. Install 0.10.0 or later" in newer
    assert "Install that release again" in (newer_than_this(["odd.sql"]) or "")


def test_the_schema_files_are_numbered_and_hold_no_string_with_a_semicolon() -> None:
    assert SCHEMA
    for number, file in enumerate(SCHEMA, 1):
        assert re.fullmatch(rf"{number:02}_\w+\.\d+\.\d+\.\d+\.sql", file.name)
        for statement in _statements(file.read_text()):
            assert statement.count("'") % 2 == 0


def test_the_statements_make_tables_that_the_others_find() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE pushers (user_name, app_id, pushkey)")
    connection.execute("CREATE TABLE users (name, deactivated)")
    connection.execute("CREATE TABLE devices (user_id, device_id)")
    for file in SCHEMA:
        for statement in _statements(file.read_text()):
            connection.execute(statement)
    connection.execute("INSERT INTO pushers VALUES ('@a', 'app', 'key')")
    connection.execute("INSERT INTO users VALUES ('@a', 0), ('@gone', 1)")
    connection.execute("INSERT INTO devices VALUES ('@a', 'OWN')")
    connection.executemany(
        "INSERT INTO synapse_msc3881_pusher_tags VALUES (?, 'app', ?, '[]')",
        [("@a", "key"), ("@a", "gone"), ("@b", "key")],
    )
    connection.executemany(
        "INSERT INTO synapse_msc3881_device_rules VALUES (?, ?, 'room', '!r', 0, '', '', 1)",
        [
            *(("@a", "phone"), ("@gone", "phone"), ("@unknown", "phone")),
            *(("@a", "OWN"), ("@a", "LOGGED_OUT")),
        ],
    )
    connection.executemany(
        "INSERT INTO synapse_msc3881_own_settings VALUES ('@a', ?, '{}')",
        [("OWN",), ("LOGGED_OUT",)],
    )
    connection.executemany(
        "INSERT INTO synapse_msc3881_kept_rules VALUES ('@a', ?, 'room', '!r')",
        [("OWN",), ("LOGGED_OUT",)],
    )

    for statement in _TIDY:
        connection.execute(statement)

    def stored(columns: str, table: str) -> list[tuple[str, ...]]:
        return connection.execute(f"SELECT {columns} FROM synapse_msc3881_{table}").fetchall()

    assert stored("user_id, pushkey", "pusher_tags") == [("@a", "key")]
    assert connection.execute(_TAGGED_USERS).fetchall() == [("@a",)]
    assert connection.execute(_OWN_USERS).fetchall() == [("@a",)]
    rules = [("@a", "OWN"), ("@a", "phone"), ("@unknown", "phone")]
    assert sorted(stored("user_id, profile_tag", "device_rules")) == rules
    assert stored("device_id", "own_settings") == [("OWN",)]
    assert stored("profile_tag", "kept_rules") == [("OWN",)]
    connection.close()
