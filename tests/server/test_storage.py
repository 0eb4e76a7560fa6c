# SPDX-License-Identifier: AGPL-3.0-or-later
"""The module's tables: whose turn it is to make them, and Synapse's port from SQLite."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from demo.client import JsonDict, Session
from demo.gateway import Gateway
from demo.homeserver import Homeserver
from synapse_msc3881.seams.database import LockedError, lock_schemas
from synapse_msc3881.storage.migrations import TABLES
from tests.conftest import FreshDeployment
from tests.harness.admin import command_here
from tests.harness.deployment import Deployment
from tests.harness.postgres import Database, Postgres
from tests.server.cascade_helpers import (
    BELL,
    SILENT,
    SIREN,
    Device,
    Scene,
    device,
    fence_off,
    make_scene,
    on_body,
)

_SCRIPT_SECONDS = 120
_SCHEMA = ("schema", "-c")

# What is to survive a copy by text: quotes, newlines, what COPY and JSON escape, beyond ASCII.
_ODD = 'it\'s "odd"\\n\nand\ttabbed \\ 🦊 %s ?'


@pytest.fixture
def empty(start_postgres: Callable[[], Postgres]) -> Database:
    return start_postgres().create_database()


def _write_config(directory: Path, database: Database) -> Path:
    directory.mkdir(exist_ok=True)
    file = directory / "homeserver-postgres.yaml"
    section = database.synapse_config()
    arguments = ", ".join(f"{name}: {value}" for name, value in section["args"].items())
    file.write_text(
        "server_name: synapse.test\nreport_stats: false\n"
        f"database: {{name: psycopg2, args: {{{arguments}}}}}\n"
        "modules: [{module: synapse_msc3881.PusherControl}]\n"
    )
    return file


def _tables(database: Database) -> list[str]:
    found = database.execute(
        "SELECT table_name FROM information_schema.tables"
        " WHERE table_name LIKE 'synapse_msc3881%%' ORDER BY 1"
    )
    return [name for (name,) in found]


# --- The command --------------------------------------------------------------------------------


def test_schema_makes_the_tables_once_and_says_so(empty: Database, tmp_path: Path) -> None:
    config = _write_config(tmp_path, empty)
    first = command_here(*_SCHEMA, config)
    assert (first.status, first.errors) == (0, "")
    assert f"made {', '.join(TABLES)}." in first.output
    assert _tables(empty) == sorted(TABLES)

    again = command_here(*_SCHEMA, config, "--json")
    assert again.status == 0
    assert again.json == {
        "ok": True,
        "database": again.json["database"],
        "made": [],
    }


def test_schema_refuses_what_is_no_new_postgresql_database(empty: Database, tmp_path: Path) -> None:
    sqlite = tmp_path / "sqlite.yaml"
    sqlite.write_text(
        "server_name: synapse.test\nreport_stats: false\n"
        f"database: {{name: sqlite3, args: {{database: {tmp_path / 'x.db'}}}}}\n"
    )
    refused = command_here(*_SCHEMA, sqlite)
    assert refused.status == 1
    assert "is no PostgreSQL" in refused.errors
    assert "--postgres-config" in refused.errors

    gone = Database(host=empty.host, name="nowhere")
    refused = command_here(*_SCHEMA, _write_config(tmp_path, gone), "--json")
    assert refused.status == 1
    assert 'database "nowhere" does not exist' in refused.json["problem"]

    missing = command_here(*_SCHEMA, tmp_path / "nothing.yaml")
    assert missing.status == 1
    assert "there is no such file" in missing.errors


# --- The lock -----------------------------------------------------------------------------------


def test_who_waits_too_long_for_the_tables_is_told_whom_for(
    make_deployment: FreshDeployment,
) -> None:
    deployment = make_deployment("postgres")
    try:
        database = deployment._database
        assert database is not None
        engine = _engine(database)
        with closing(database._connect()) as holder, closing(database._connect()) as waiting:
            holder.cursor().execute("SET application_name = 'nightly job'")
            holder.cursor().execute("LOCK TABLE applied_module_schemas IN SHARE MODE")
            with pytest.raises(LockedError) as refused:
                lock_schemas(waiting, engine, seconds=0.1)
            assert "application nightly job" in str(refused.value)
            assert f"process {holder.info.backend_pid} of PostgreSQL" in str(refused.value)
            holder.rollback()
            lock_schemas(waiting, engine, seconds=0.1)
    finally:
        deployment.stop()


def _engine(database: Database) -> object:
    from synapse.storage.engines import create_engine  # noqa: PLC0415

    return create_engine(database.synapse_config())


# --- synapse_port_db ----------------------------------------------------------------------------


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@contextmanager
def _stopping(deployment: Deployment) -> Iterator[Callable[[], None]]:
    """Stop the deployment when told to, and at the end if it was not."""
    told = ExitStack()
    told.callback(deployment.stop)
    with told:
        yield told.close


def _rules_of(user: Session) -> JsonDict:
    return user.get_rules()


def test_rules_tags_and_switches_survive_synapses_port_to_postgresql(
    make_deployment: FreshDeployment,
    start_postgres: Callable[[], Postgres],
    gateway: Gateway,
    ending: ExitStack,
) -> None:
    """With Synapse's own script, `python -m synapse_msc3881 schema` first."""
    old = make_deployment("sqlite")
    stop_old = ending.enter_context(_stopping(old))
    scene = make_scene(old, gateway)
    bob = scene.bob
    fence_off(bob, "phone", "global")
    bob.put_rule("phone", "room", scene.room, {"actions": SILENT})
    bob.put_rule("phone", "override", 'it\'s "odd"\n\tor 🦊 %s ?', on_body(_ODD, SIREN))
    bob.put_rule("desk", "content", "pizza", {"pattern": "pizza", "actions": BELL})
    bob.set_rule_enabled("desk", "content", "pizza", False)
    phone = device(bob, gateway, ["phone", "global"])
    desk = device(bob, gateway, ["desk"], enabled=False)
    plain = device(bob, gateway)
    rules, pushers = _rules_of(bob), bob.get_pushers()
    stop_old()
    # What a server that has run for a while has behind it; the port insists on it.
    _run_background_updates(old)

    new = Deployment(kind="postgres", directory=old.directory, postgres=start_postgres()).prepare()
    assert new._database is not None
    new.homeserver = Homeserver(old.directory, new.options())
    new.homeserver._write_config()
    config = new.homeserver.config_file
    assert command_here(*_SCHEMA, config).status == 0
    # The port would do so too, and sleep for a second after each.
    _run_background_updates(new)
    _synapse_script(
        "synapse_port_db",
        *("--sqlite-database", old.directory / "homeserver.db", "--postgres-config", config),
        cwd=old.directory,
    )

    ending.enter_context(_stopping(new))
    new.homeserver.start()
    moved = [_moved(new, user, ending) for user in (bob, scene.alice)]
    assert _rules_of(moved[0]) == rules
    assert moved[0].get_pushers() == pushers
    after = Scene(new, gateway, moved[1], moved[0], scene.room)
    silent, odd, fence = after.thing(), after.thing(_ODD), after.fence()
    here = Device(moved[0], phone.pushkey, gateway)
    assert [push.event_id for push in here.pushes_until(fence)] == [odd]
    assert silent not in here.event_ids()
    assert desk.event_ids() == []
    plain.wait_for(fence)
    # The tables are recorded as made: nothing is applied at this start or the next.
    new.restart()
    assert _rules_of(moved[0]) == rules
    new.assert_log_is_clean()


def _moved(deployment: Deployment, user: Session, ending: ExitStack) -> Session:
    session = Session(
        route=deployment.homeserver.route,
        user_id=user.user_id,
        device_id=user.device_id,
        access_token=user.access_token,
    )
    ending.callback(session.close)
    return session


def _run_background_updates(deployment: Deployment) -> None:
    config = deployment.homeserver.config_file
    options = ("--database-config", config, "--run-background-updates")
    _synapse_script("update_synapse_database", *options, cwd=deployment.directory)


def _synapse_script(name: str, *arguments: str | Path, cwd: Path) -> None:
    """Run one of Synapse's own scripts, as an admin does."""
    script = Path(sys.executable).with_name(name)
    done = subprocess.run(
        [str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=_SCRIPT_SECONDS,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
