# SPDX-License-Identifier: AGPL-3.0-or-later
"""`python -m synapse_msc3881 check`: what it finds in good and broken installations."""

import hashlib
import importlib.metadata
import os
import re
import socket
import sqlite3
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.client import JsonDict
from demo.process import ProcessError
from synapse_msc3881.seams import SEAMS, TABLES, process_config
from synapse_msc3881.seams.declaring import Declared
from synapse_msc3881.storage.migrations import TABLES as OUR_TABLES
from synapse_msc3881.storage.migrations import schema_files
from synapse_msc3881.tested import TESTED_VERSIONS
from tests.conftest import FreshDeployment
from tests.harness.admin import PACKAGE_PARENT, Answer, command, command_here
from tests.harness.deployment import CHECKOUT, MODULE, Deployment
from tests.harness.postgres import Postgres
from tests.harness.sabotage import sabotage

EXAMPLES = CHECKOUT / "docs" / "examples" / "workers"
WORKERS = sorted(
    file.stem for file in EXAMPLES.glob("*.yaml") if file.stem not in ("homeserver", "log")
)
ENTRY = {"module": MODULE, "config": {}}
SCHEMA = "applied_module_schemas"
SECRET = "hunter2-and-more"


def check(*arguments: str | Path, **options: Any) -> Answer:
    """`check` for programs, as a process of its own."""
    return command("check", "--json", *arguments, **options)


def check_here(*arguments: str | Path) -> Answer:
    """`check` for programs, in this process."""
    return command_here("check", "--json", *arguments)


def homeserver(directory: Path, **more: Any) -> Path:
    """A homeserver.yaml that Synapse was not started with yet."""
    file = directory / "homeserver.yaml"
    config: JsonDict = {
        "server_name": "synapse.test",
        "report_stats": False,
        "listeners": [{"port": 8008, "type": "http", "resources": [{"names": ["client"]}]}],
        "signing_key_path": str(directory / "signing.key"),
        "media_store_path": str(directory / "media"),
        "database": {"name": "sqlite3", "args": {"database": str(directory / "homeserver.db")}},
        "modules": [ENTRY],
        **more,
    }
    file.write_text(yaml.safe_dump(config))
    return file


def contents(directory: Path) -> Mapping[str, object]:
    """All files below a directory: when each was changed, and what it holds."""
    return {
        str(file.relative_to(directory)): (
            file.stat().st_mtime_ns,
            hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None,
        )
        for file in sorted(directory.rglob("*"))
    }


# --- A good installation ------------------------------------------------------------------------


def test_before_the_first_start_all_is_well_and_nothing_is_made(tmp_path: Path) -> None:
    config = homeserver(tmp_path)
    before = contents(tmp_path)

    answer = check("-c", config)

    assert (answer.status, answer.problems) == (0, [])
    assert ["no such file yet" in note for note in answer.notes] == [True]
    assert [process["name"] for process in answer.json["processes"]] == ["main"]
    assert answer.json["processes"][0]["module"] == "yes"
    assert contents(tmp_path) == before
    assert answer.json["database"]["answers"] is False
    # Nobody is to think that something is wrong with it.
    assert "homeserver.db: not made yet" in command_here("check", "-c", config).output


def test_before_the_first_start_on_postgresql(
    tmp_path: Path, start_postgres: Callable[[], Postgres]
) -> None:
    postgres = start_postgres()
    database = postgres.create_database()
    config = homeserver(tmp_path, database=database.synapse_config())
    answer = check("-c", config)
    assert (answer.status, answer.problems) == (0, [])
    assert ["has not made its tables yet" in note for note in answer.notes] == [True]
    assert answer.json["database"]["answers"] is True
    assert database.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == []
    postgres.drop_database(database)


def test_a_running_server(deployment: Deployment) -> None:
    answer = check("-c", deployment.homeserver.config_file)
    assert (answer.status, answer.problems, answer.notes) == (0, [], [])
    assert answer.json["ok"] is True
    assert answer.json["database"]["schema"] == [file.name for file in schema_files()]
    assert len(answer.json["database"]["tables"]) == 4


def test_the_table_for_humans(deployment: Deployment) -> None:
    config = deployment.homeserver.config_file
    answer = command("check", "--verbose", "-c", config)
    assert answer.status == 0, answer.output
    lines = answer.output.splitlines()
    declared: Sequence[Declared] = (*SEAMS, *process_config.SEAMS, *TABLES)
    for seam in declared:
        assert any(line.startswith("  ") and line.endswith(f"  {seam.where}") for line in lines)
    assert "bad" not in {line.split()[0] for line in lines if line.startswith("  ")}
    assert lines[0].startswith("No problem found. synapse_msc3881 ")
    assert "writes pushers and their profile tags" in " ".join(answer.output.split())

    short = command("check", "-c", config).output.splitlines()
    parts = len(SEAMS) + len(TABLES) + len(process_config.SEAMS)
    assert short[:-1] == lines[: len(short) - 1]
    assert short[-1].startswith(f"{parts} parts of Synapse that the module relies on: all as they")

    quiet = command("check", "-q", "-c", config)
    assert (quiet.status, quiet.output.splitlines()) == (0, [lines[0], ""])


def test_a_stopped_server_is_left_as_it_is(fresh_deployment: FreshDeployment) -> None:
    deployment = fresh_deployment()
    deployment.homeserver.stop()
    before = contents(deployment.directory)
    answer = check("-c", deployment.homeserver.config_file)
    assert (answer.status, answer.json["findings"]) == (0, [])
    assert contents(deployment.directory) == before


def test_a_server_without_the_module_is_told_how_to_add_it(tmp_path: Path) -> None:
    answer = check_here("-c", homeserver(tmp_path, modules=[]))
    assert answer.status == 1
    (problem,) = answer.problems
    assert "main: does not have the module" in problem
    assert "`enabled` and `profile_tags` of pushers are not taken" in problem
    assert f"- module: {MODULE}" in problem


# --- Files --------------------------------------------------------------------------------------


def test_files_and_directories_are_merged_as_synapse_does(tmp_path: Path) -> None:
    config = homeserver(tmp_path, modules=[])
    more = tmp_path / "conf.d"
    more.mkdir()
    (more / "a.yaml").write_text(yaml.safe_dump({"modules": []}))
    (more / "b.yaml").write_text(yaml.safe_dump({"modules": [ENTRY]}))
    (more / "c.yaml").write_text("# nothing\n")
    (more / "readme.txt").write_text("modules: []")
    answer = check_here("-c", config, "-c", more)
    assert (answer.status, answer.problems) == (0, [])
    assert answer.json["processes"][0]["files"] == [
        str(config),
        *(str(more / f"{name}.yaml") for name in "abc"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f'server_name: a\npassword: "{SECRET}\n', "not YAML, line 3, column 1"),
        (f"server_name: a\npassword: *{SECRET}\n", "not YAML, line 2, column 11"),
        (f"server_name: a\npassword: !{SECRET} x\n", "not YAML, line 2"),
        ("server_name: a\n\tx: 1\n", "not YAML, line 2"),
        (b"server_name: \xff\n", "not UTF-8"),
        ("- a\n- b\n", "does not hold options"),
        (None, "there is no such file"),
    ],
    ids=["open quote", "alias", "tag", "tab", "encoding", "a list", "missing"],
)
def test_a_file_that_cannot_be_read(
    tmp_path: Path, content: str | bytes | None, message: str
) -> None:
    file = tmp_path / "homeserver.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    for shown in (check_here("-c", file), command_here("check", "-c", file)):
        assert shown.status == 1
        assert message in shown.output
        assert str(file) in shown.output
        assert SECRET not in shown.output + shown.errors
        assert shown.errors == ""


def test_a_config_that_synapse_does_not_take(tmp_path: Path) -> None:
    answer = check_here("-c", homeserver(tmp_path, listeners="none"))
    assert answer.status == 1
    (problem,) = answer.problems
    assert "Error in configuration at 'listeners'" in problem
    answer = check_here("-c", homeserver(tmp_path, database=None))
    assert any("names no database" in problem for problem in answer.problems)


def test_modules_that_stand_twice_in_a_file(tmp_path: Path) -> None:
    file = homeserver(tmp_path)
    text = file.read_text()
    first = text[: text.index("modules:")].count("\n") + 1
    file.write_text(f"{text}modules: []\n")
    answer = check_here("-c", file)
    assert answer.status == 1
    twice, missing = answer.problems
    assert f"in lines {first} and {text.count(chr(10)) + 1}" in twice
    assert "does not have the module" in missing


# --- The module's entry -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"module": MODULE, "config": {"limits": {"device_scopes_per_user": 0}}},
            "Error in configuration at 'modules.<item 0>.config.limits.device_scopes_per_user'",
        ),
        (
            {"module": MODULE, "config": {"keep_omited": True}},
            "Error in configuration at 'modules.<item 0>.config.keep_omited'",
        ),
        ({"module": "synapse_msc3881.PushControl"}, "has no attribute 'PushControl'"),
        ({"module": "synapse_msc3881.nothing.Here"}, "No module named 'synapse_msc3881.nothing'"),
    ],
    ids=["a bad value", "an unknown option", "no such class", "no such module"],
)
def test_an_entry_that_stops_synapse(tmp_path: Path, entry: JsonDict, message: str) -> None:
    answer = check("-c", homeserver(tmp_path, modules=[entry]))
    assert answer.status == 1
    (problem,) = answer.problems
    assert message in problem
    assert answer.json["processes"][0]["module"] == "bad"


def test_an_entry_that_stands_twice(tmp_path: Path) -> None:
    answer = check_here("-c", homeserver(tmp_path, modules=[ENTRY, ENTRY]))
    assert answer.status == 0
    assert any("stands 2 times in `modules`" in note for note in answer.notes)


# --- Workers ------------------------------------------------------------------------------------


@pytest.fixture
def workers(tmp_path: Path, start_postgres: Callable[[], Postgres]) -> Iterator[Path]:
    """The example files for workers, on a database that is there."""
    postgres = start_postgres()
    database = postgres.create_database()
    for file in EXAMPLES.glob("*.yaml"):
        options = yaml.safe_load(file.read_text())
        if "database" in options:
            options["database"] = database.synapse_config()
        (tmp_path / file.name).write_text(yaml.safe_dump(options))
    yield tmp_path
    postgres.drop_database(database)


def change(file: Path, **more: Any) -> None:
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **more}))


def duties(answer: Answer) -> dict[str, list[str]]:
    return {process["name"]: process["duties"] for process in answer.json["processes"]}


def test_the_processes_of_the_examples(workers: Path) -> None:
    answer = check("-c", workers / "homeserver.yaml", "--worker", workers)
    assert (answer.status, answer.problems) == (0, [])
    clients = "serves clients"
    assert duties(answer) == {
        "main": ["writes pushers and their profile tags", clients],
        "client1": [clients],
        "client2": [clients],
        "federation": ["receives events from other servers"],
        "persister1": ["persists events"],
        "persister2": ["persists events"],
        "push_rules": ["writes push rules", clients],
        "pusher1": ["pushes"],
        "pusher2": ["pushes"],
    }
    assert {process["module"] for process in answer.json["processes"]} == {"yes"}
    # As above, each named, and as two options.
    files = [workers / f"{name}.yaml" for name in WORKERS]
    named = check("-c", workers / "homeserver.yaml", "--worker", *files[:4], "--worker", *files[4:])
    assert (named.status, duties(named)) == (0, duties(answer))


def test_processes_whose_files_were_not_given_are_named(workers: Path) -> None:
    answer = check_here("-c", workers / "homeserver.yaml", "-w", workers / "client1.yaml")
    assert (answer.status, answer.problems) == (0, [])
    (unread,) = (note for note in answer.notes if note.startswith("not checked"))
    for name in WORKERS:
        assert (f"{name} (" in unread) is (name != "client1")


def test_one_worker_as_synapse_starts_it(workers: Path) -> None:
    answer = check_here("-c", workers / "homeserver.yaml", "-c", workers / "push_rules.yaml")
    assert answer.status == 0
    assert duties(answer) == {"push_rules": ["writes push rules", "serves clients"]}


def test_a_worker_whose_own_modules_replace_the_shared_ones(workers: Path) -> None:
    other = {"module": "tests.harness.positions.Positions", "config": {}}
    change(workers / "push_rules.yaml", modules=[other])
    answer = check("-c", workers / "homeserver.yaml", "-w", workers)
    assert answer.status == 1
    (problem,) = answer.problems
    assert problem.startswith("push_rules: does not have the module: device rules are refused")
    assert f"`modules` in {workers / 'push_rules.yaml'} replaces `modules` in" in problem


def test_a_worker_with_a_config_of_its_own(workers: Path) -> None:
    shared = yaml.safe_load((workers / "homeserver.yaml").read_text())
    change(workers / "pusher1.yaml", **{**shared, "modules": []})
    options = {"keep_omitted": True}
    change(workers / "pusher2.yaml", **{**shared, "modules": [{**ENTRY, "config": options}]})
    change(workers / "pusher2.yaml", database={"name": "psycopg2", "args": {"dbname": "other"}})
    answer = check_here("-c", workers / "homeserver.yaml", "-w", workers)
    assert answer.status == 1
    lacks, database, differs = sorted(answer.problems)
    assert lacks.startswith("pusher1: does not have the module: its pushers use the `global`")
    assert str(workers / "pusher1.yaml") in lacks
    assert differs.startswith("pusher2: has other options of the module than main")
    assert database.startswith("pusher2: has another database than main")
    found = {process["name"]: process for process in answer.json["processes"]}
    assert found["pusher1"]["files"] == [str(workers / "pusher1.yaml")]
    assert found["pusher2"]["module"] == "yes"


def test_a_file_that_all_read_is_not_passed_over_under_another_name(
    workers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workers)
    answer = check_here("-c", "homeserver.yaml", "-w", ".")
    assert [note for note in answer.notes if "passed over" in note] == [
        "./log.yaml: passed over: it has no `worker_app` -> "
    ]


def test_a_worker_file_that_is_none(workers: Path, tmp_path: Path) -> None:
    answer = check_here("-c", workers / "homeserver.yaml", "-w", workers / "log.yaml")
    assert answer.status == 1
    assert "has no `worker_app`" in answer.problems[0]
    answer = check_here("-c", workers / "homeserver.yaml", "-w", tmp_path / "missing.yaml")
    assert answer.status == 1
    assert "there is no such file" in answer.problems[0]
    (tmp_path / "empty").mkdir()
    answer = check_here("-c", workers / "homeserver.yaml", "-w", tmp_path / "empty")
    assert "there is no *.yaml in this directory" in answer.problems[0]


# --- The database -------------------------------------------------------------------------------


def test_tables_that_are_not_as_this_release_makes_them(fresh_deployment: FreshDeployment) -> None:
    deployment = fresh_deployment()
    config = deployment.homeserver.config_file
    deployment.sql(f"INSERT INTO {SCHEMA} (module_name, file) VALUES ('another', '07_x.sql')")
    assert check_here("-c", config).status == 0

    future = "02_x.7.3.0.sql"
    deployment.sql(
        f"INSERT INTO {SCHEMA} (module_name, file) VALUES ('synapse_msc3881', '{future}')"
    )
    newer = f"a newer release of the module has changed its tables, with {future}. Install 7.3.0"
    answer = check_here("-c", config)
    assert answer.status == 1
    assert newer in answer.problems[0]
    # That Synapse does not start is so.
    deployment.allow_in_log("NewerSchemaError")
    with pytest.raises(ProcessError, match=re.escape(newer)):
        deployment.restart()
    deployment.sql(f"DELETE FROM {SCHEMA} WHERE file = '{future}'")

    # Tables that are not recorded are those that `schema` made: they are kept.
    deployment.sql(f"DELETE FROM {SCHEMA} WHERE module_name = 'synapse_msc3881'")
    answer = check_here("-c", config)
    assert (answer.status, answer.problems) == (0, [])
    files = ", ".join(file.name for file in schema_files())
    assert f"the next start with the module applies {files}" in answer.notes[0]
    deployment.restart()
    assert check_here("-c", config).json["findings"] == []

    deployment.homeserver.stop()
    deployment.sql("DROP TABLE synapse_msc3881_device_rules")
    answer = check_here("-c", config)
    assert answer.status == 1
    assert "synapse_msc3881_device_rules is missing" in answer.problems[0]
    for table in OUR_TABLES[1:]:
        deployment.sql(f"DROP TABLE {table}")
    answer = check_here("-c", config)
    assert (answer.status, answer.problems) == (0, [])
    assert "as after synapse_port_db into a database without them" in answer.notes[0]
    deployment.sql(f"DELETE FROM {SCHEMA} WHERE module_name = 'synapse_msc3881'")
    answer = check_here("-c", config)
    assert (answer.status, answer.problems) == (0, [])
    files = ", ".join(file.name for file in schema_files())
    assert f"the next start with the module applies {files}" in answer.notes[0]


@pytest.fixture
def sqlite(tmp_path: Path) -> Path:
    """The tables of Synapse that the module reads, with the module's own, in a file."""
    file = tmp_path / "homeserver.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        for table in TABLES:
            connection.execute(f"CREATE TABLE {table.name} ({', '.join(table.columns)})")
        for schema_file in schema_files():
            connection.execute(
                f"INSERT INTO {SCHEMA} VALUES ('synapse_msc3881', '{schema_file.name}')"
            )
        for name in OUR_TABLES:
            connection.execute(f"CREATE TABLE {name} (a)")
    return file


def test_a_sqlite_file_in_wal_mode_gets_no_files_beside_it(tmp_path: Path, sqlite: Path) -> None:
    config = homeserver(tmp_path)
    with closing(sqlite3.connect(sqlite)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    before = contents(tmp_path)
    assert check("-c", config).json["findings"] == []
    assert contents(tmp_path) == before
    # And while somebody has it open.
    with closing(sqlite3.connect(sqlite)) as connection, connection:
        connection.execute(f"INSERT INTO {SCHEMA} VALUES ('synapse_msc3881', '99_x.sql')")
        connection.commit()
        assert sqlite.with_name("homeserver.db-wal").exists()
        assert "a newer release of the module has" in check("-c", config).problems[0]


def test_a_sqlite_file_that_is_locked(tmp_path: Path, sqlite: Path) -> None:
    config = homeserver(tmp_path)
    with closing(sqlite3.connect(sqlite, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        answer = check_here("-c", config)
    assert answer.status == 1
    assert "Synapse has been writing to it" in answer.problems[0]
    assert check_here("-c", config).status == 0


def test_a_sqlite_file_whose_writer_died_is_not_repaired(tmp_path: Path, sqlite: Path) -> None:
    config = homeserver(tmp_path)
    subprocess.run([sys.executable, "-c", _DIE_WHILE_WRITING, str(sqlite)], check=False)
    assert sqlite.with_name("homeserver.db-journal").exists()
    before = contents(tmp_path)
    answer = check_here("-c", config)
    assert answer.status == 1
    assert "ended in the middle of a write" in answer.problems[0]
    assert contents(tmp_path) == before


_DIE_WHILE_WRITING = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("CREATE TABLE filling (a)")
connection.executemany("INSERT INTO filling VALUES (?)", [("x" * 500,)] * 3000)
connection.commit()
connection.execute("PRAGMA cache_size = 5")
connection.execute("UPDATE filling SET a = 'y' || a")
os._exit(9)
"""


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    config = homeserver(tmp_path)
    (tmp_path / "homeserver.db").write_text("This is a text that is long enough. " * 9)
    answer = check_here("-c", config)
    assert answer.status == 1
    assert "file is not a database" in answer.problems[0]


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    args = {"host": str(tmp_path), "dbname": "synapse", "user": "synapse", "password": SECRET}
    config = homeserver(tmp_path, database={"name": "psycopg2", "args": args})
    answer = check_here("-c", config)
    assert answer.status == 1
    assert "it does not answer" in answer.problems[0]
    assert answer.json["database"]["answers"] is False
    assert "database synapse" in answer.json["database"]["where"]


def test_a_database_that_takes_the_connection_and_says_nothing(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        args = {"host": "127.0.0.1", "port": server.getsockname()[1], "dbname": "synapse"}
        config = homeserver(tmp_path, database={"name": "psycopg2", "args": args})
        started = time.monotonic()
        answer = check("-c", config)
        assert time.monotonic() - started < 60
    assert answer.status == 1
    assert "it does not answer" in answer.problems[0]


# --- Secrets ------------------------------------------------------------------------------------


def test_no_secret_is_shown(tmp_path: Path) -> None:
    config = homeserver(
        tmp_path,
        # The driver's message quotes what it does not understand.
        database={"name": "psycopg2", "args": {"dsn": f"host=/nowhere {SECRET}"}},
        macaroon_secret_key=SECRET,
        worker_replication_secret=[SECRET],
        modules=[{"module": MODULE, "config": {"password": SECRET, "keep_omitted": SECRET}}],
    )
    for answer in (check("-c", config), command("check", "-c", config)):
        assert answer.status == 1
        assert SECRET not in answer.output + answer.errors
        assert "it does not answer" in answer.output or "does not take this config" in answer.output


# --- The environment ----------------------------------------------------------------------------


def pretend_version(directory: Path, version: str) -> Path:
    """A directory for PYTHONPATH by which Synapse seems to have another version."""
    info = directory / f"matrix_synapse-{version}.dist-info"
    info.mkdir(parents=True)
    # Synapse looks for the rest of its metadata too.
    real = importlib.metadata.version("matrix-synapse")
    metadata = importlib.metadata.distribution("matrix-synapse").read_text("METADATA") or ""
    changed = metadata.replace(f"\nVersion: {real}\n", f"\nVersion: {version}\n")
    assert changed != metadata or version == real
    (info / "METADATA").write_text(changed)
    return directory


def test_a_seam_that_is_gone(tmp_path: Path) -> None:
    code = "from synapse.push.pusherpool import PusherPool\ndel PusherPool.remove_pusher"
    path = [sabotage(tmp_path / "sabotage", code), PACKAGE_PARENT]
    config = homeserver(tmp_path)
    answer = check("-c", config, path=path)
    assert answer.status == 1
    (problem,) = answer.problems
    where = "synapse.push.pusherpool:PusherPool.remove_pusher"
    assert problem.startswith(f"{where}: missing")
    assert "take the module out of homeserver.yaml" in problem
    assert [s["where"] for s in answer.json["seams"] if s["state"] == "bad"] == [where]
    shown = command("check", "-c", config, path=path)
    assert (shown.status, f"  bad      1.120  {where}: missing" in shown.output) == (1, True)


def test_a_seam_that_only_this_command_needs(tmp_path: Path) -> None:
    code = "import synapse.util.module_loader as m\nm.load_module = lambda provider: None"
    path = [sabotage(tmp_path / "sabotage", code), PACKAGE_PARENT]
    answer = check("-c", homeserver(tmp_path), path=path)
    assert any("module_loader:load_module: does not take config_path" in n for n in answer.notes)
    assert not any(p.startswith("synapse.util.module_loader") for p in answer.problems)


def test_a_synapse_that_the_module_cannot_be_imported_on(tmp_path: Path) -> None:
    code = "import synapse.rest.client.versions as m\ndel m.VersionsRestServlet"
    path = [sabotage(tmp_path / "sabotage", code), PACKAGE_PARENT]
    answer = check("-c", homeserver(tmp_path), path=path)
    assert answer.status == 1
    (problem,) = answer.problems
    assert "cannot import name 'VersionsRestServlet'" in problem
    assert "This release was tested on" in problem


@pytest.mark.parametrize(
    ("version", "status", "message"),
    [
        ("1.99.0", 1, "too old"),
        ("1.130.0", 0, "between versions that are"),
        ("1.999.0", 0, "not tested"),
        ("2.0rc1", 0, "not tested"),
        (TESTED_VERSIONS[0], 0, None),
    ],
)
def test_other_versions_of_synapse(
    tmp_path: Path, version: str, status: int, message: str | None
) -> None:
    path = [pretend_version(tmp_path / "version", version), PACKAGE_PARENT]
    answer = check("-c", homeserver(tmp_path), path=path)
    assert (answer.status, answer.json["synapse_version"]) == (status, version)
    about = [f for f in answer.json["findings"] if f["where"] == f"Synapse {version}"]
    assert [message in f["what"] for f in about if message] == ([True] if message else [])
    assert answer.json["synapse_tested"] is (message is None)


def test_a_python_without_synapse(tmp_path: Path) -> None:
    environment = tmp_path / "env"
    venv.create(environment, with_pip=False)
    python = str(environment / "bin" / "python")
    answer = command("check", "-c", homeserver(tmp_path), python=python)
    assert (answer.status, answer.output) == (1, "")
    assert f"Synapse is not installed for {python}" in answer.errors
    assert "/opt/venvs/matrix-synapse/bin/python" in answer.errors


def test_a_package_that_only_the_current_directory_has(tmp_path: Path) -> None:
    packages = Path(sysconfig.get_path("purelib"))
    if (packages / "synapse_msc3881").exists():
        pytest.skip("installed in this environment, and not as an editable one")
    environment = tmp_path / "env"
    venv.create(environment, with_pip=False)
    # A directory in PYTHONPATH has no .pth files, so what is editable there is not found.
    answer = check(
        "-c",
        homeserver(tmp_path),
        python=str(environment / "bin" / "python"),
        path=[packages, Path(sysconfig.get_path("platlib"))],
        cwd=PACKAGE_PARENT,
    )
    assert answer.status == 1
    assert any("it is not installed for" in problem for problem in answer.problems)


# --- Usage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["check"], ["nothing"], ["check", "-c", "x", "--what"]])
def test_wrong_usage_is_told_apart(arguments: list[str]) -> None:
    answer = command_here(*arguments)
    assert (answer.status, answer.output) == (2, "")
    assert "usage: python -m synapse_msc3881" in answer.errors


def test_help_says_what_there_is() -> None:
    assert "check" in command_here("--help").output
    answer = command_here("check", "--help")
    assert answer.status == 0
    for option in ("--config-path", "--worker", "--json", "--quiet", "Exit status"):
        assert option in answer.output


def test_a_reader_that_goes_away_does_no_harm(tmp_path: Path) -> None:
    config = homeserver(tmp_path)
    line = f"'{sys.executable}' -m synapse_msc3881 check -c '{config}' | head -n 1"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)}
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, check=False, env=environment
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
