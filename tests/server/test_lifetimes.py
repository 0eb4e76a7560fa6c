# SPDX-License-Identifier: AGPL-3.0-or-later
"""How long device rules and profile tags live, and Synapse with and without the module.

specification 6 and 7.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from demo.client import JsonDict, Session
from demo.gateway import Gateway
from demo.homeserver import PASSWORD, Homeserver, Options
from demo.process import ProcessError
from synapse_msc3881.storage.migrations import TABLES
from tests.conftest import FreshDeployment
from tests.harness.deployment import MODULE, Deployment
from tests.harness.foreign_wrapper import MODULE as FOREIGN
from tests.harness.metrics import DECISIONS, scrape, value
from tests.harness.waiting import wait_until
from tests.server.cascade_helpers import (
    BELL,
    NOTIFY,
    SILENT,
    SIREN,
    THING,
    Scene,
    device,
    fence_off,
    make_scene,
    on_all,
    on_type,
    rules_in_database,
    tags_in_database,
    wait_until_recorded,
)
from tests.server.own_settings_helpers import switch

CHECKOUT = Path(__file__).parents[2]


# --- Devices and users --------------------------------------------------------------------------


def test_logging_out_removes_the_devices_pushers_and_tags_and_no_scope(
    scene: Scene, gateway: Gateway
) -> None:
    phone = scene.deployment.login(scene.bob, "PHONE")
    scene.bob.put_rule("phone", "room", scene.room, on_all(SIREN))
    phones, desktops = device(phone, gateway, ["phone"]), scene.device(["phone", "global"])

    phone.logout()

    assert [pusher["pushkey"] for pusher in scene.bob.get_pushers()] == [desktops.pushkey]
    assert set(tags_in_database(scene.deployment, scene.bob)) == {desktops.pushkey}
    assert "phone" in scene.bob.get_rules()["device"]
    event_id = scene.message()
    assert desktops.wait_for(event_id).tweaks == {"sound": "siren"}
    assert phones.pushes() == []


def test_deleting_the_last_pusher_removes_its_tags_and_no_scope(scene: Scene) -> None:
    scene.bob.put_rule("phone", "room", scene.room, on_all(SIREN))
    pusher = scene.device(["phone"])
    scene.bob.delete_pusher(pusher.pushkey, pusher.app_id)
    assert tags_in_database(scene.deployment, scene.bob) == {}
    assert rules_in_database(scene.deployment, scene.bob) == 1
    # The same pushkey starts afresh.
    pusher.set()
    stored = pusher.stored()
    assert stored is not None
    assert stored["profile_tags"] == ["global"]


def test_deactivating_removes_the_rules_and_tags_of_that_user_alone(
    scene: Scene, gateway: Gateway
) -> None:
    carol = scene.deployment.register()
    for user in (scene.bob, carol):
        user.put_rule("phone", "room", scene.room, on_all(SIREN))
        user.put_rule("tablet", "override", "r", on_all(SILENT))
        device(user, gateway, ["phone", "tablet"])

    scene.bob.deactivate(PASSWORD)

    assert rules_in_database(scene.deployment, scene.bob) == 0
    assert tags_in_database(scene.deployment, scene.bob) == {}
    assert rules_in_database(scene.deployment, carol) == 2
    assert len(tags_in_database(scene.deployment, carol)) == 1
    scene.message()


# --- Room upgrades ------------------------------------------------------------------------------


def about_room(room: str, actions: list[Any], **more: Any) -> JsonDict:
    condition = {"kind": "event_match", "key": "room_id", "pattern": room}
    mention = {"kind": "event_match", "key": "content.body", "pattern": "hello"}
    return {"conditions": [mention, condition], "actions": actions, **more}


def enabled_rules(user: Session, scope: str, kind: str) -> dict[str, JsonDict]:
    rules = user.get_rules(scope)[kind]
    return {rule["rule_id"]: rule for rule in rules if not rule["default"] and rule["enabled"]}


def test_a_room_upgrade_copies_the_rules_about_the_room_in_all_scopes(scene: Scene) -> None:
    bob, old = scene.bob, scene.room
    bob.put_rule("phone", "room", old, on_all(SIREN))
    bob.put_rule("tablet", "override", "mentions", about_room(old, BELL))
    bob.put_rule("tablet", "override", "other", on_type("org.example.x", BELL))
    bob.put_rule("tablet", "room", "!other:synapse.test", on_all(BELL))
    bob.put_rule("off", "room", old, on_all(SIREN))
    bob.set_rule_enabled("off", "room", old, False)
    bob.put_rule("global", "room", old, on_all(SILENT))
    phone, tablet = scene.device(["phone", "global"]), scene.device(["tablet", "global"])

    new = scene.alice.upgrade_room(old, "10")
    bob.join(new)

    assert {*enabled_rules(bob, "global", "room")} == {old, new}
    assert {*enabled_rules(bob, "phone", "room")} == {old, new}
    assert enabled_rules(bob, "phone", "room")[new]["actions"] == SIREN
    assert {*enabled_rules(bob, "tablet", "room")} == {"!other:synapse.test"}
    overrides = enabled_rules(bob, "tablet", "override")
    assert overrides.pop("mentions")["conditions"] == about_room(old, BELL)["conditions"]
    assert overrides.pop("other")["conditions"] == on_type("org.example.x", BELL)["conditions"]
    (copied,) = overrides.values()
    assert (copied["conditions"], copied["actions"]) == (
        about_room(new, BELL)["conditions"],
        BELL,
    )
    assert [rule["rule_id"] for rule in bob.get_rules("off")["room"]] == [old]

    event_id = scene.alice.send(new, "Hello there")
    assert phone.wait_for(event_id).tweaks == {"sound": "siren"}
    assert tablet.wait_for(event_id).tweaks == {"sound": "bell"}


def test_a_room_upgrade_keeps_each_of_several_rules_about_the_room(scene: Scene) -> None:
    bob, old = scene.bob, scene.room
    for scope in ("global", "phone"):
        bob.put_rule(scope, "override", "a", about_room(old, SIREN))
        bob.put_rule(scope, "underride", "b", about_room(old, NOTIFY))
        bob.put_rule(scope, "room", old, on_all(SILENT))

    new = scene.alice.upgrade_room(old, "10")
    bob.join(new)

    def copies(scope: str) -> dict[str, list[tuple[list[Any], list[Any]]]]:
        return {
            kind: [
                (rule.get("conditions", []), rule["actions"])
                for rule in bob.get_rules(scope)[kind]
                if not rule["default"] and (new in repr(rule))
            ]
            for kind in ("override", "room", "underride")
        }

    assert copies("phone") == copies("global")


def test_of_rules_that_get_the_same_id_the_same_one_wins_as_in_global(scene: Scene) -> None:
    """Synapse gives the copies of all rules of a kind one id, so that only one is left."""
    bob, old = scene.bob, scene.room
    sounds = {name: [*NOTIFY, {"set_tweak": "sound", "value": name}] for name in "abcdef"}
    for scope in ("global", "phone"):
        for name in "cafebd":
            bob.put_rule(scope, "override", name, about_room(old, sounds[name]))
            bob.put_rule(scope, "underride", name, about_room(old, sounds[name]))
        bob.put_rule(scope, "override", "e", about_room(old, sounds["e"]), before="c")
        bob.put_rule(scope, "underride", "b", about_room(old, sounds["b"]), after="c")
        # What is off is not copied.
        bob.put_rule(scope, "underride", "z", about_room(old, SIREN), after="b")
        bob.set_rule_enabled(scope, "underride", "z", False)

    bob.join(scene.alice.upgrade_room(old, "10"))

    def order(scope: str) -> dict[str, list[tuple[str, list[Any]]]]:
        return {
            kind: [
                (rule["rule_id"], rule["actions"])
                for rule in bob.get_rules(scope)[kind]
                if not rule["default"]
            ]
            for kind in ("override", "underride")
        }

    assert order("phone") == order("global")
    assert order("phone")["override"][0][1] == sounds["c"]
    assert order("phone")["underride"][0][1] == sounds["b"]


def test_a_room_upgrade_is_one_change_however_many_rules_are_about_the_room(scene: Scene) -> None:
    bob, old, deployment = scene.bob, scene.room, scene.deployment
    bob.put_rule("phone", "room", old, on_all(SIREN))
    rule = about_room(old, SILENT)
    columns = ("user_id", "profile_tag", "kind", "rule_id", "priority", "conditions", "actions")
    rows = [
        (bob.user_id, scope, "override", f"r{n}", n, json.dumps(rule["conditions"]), "[]")
        for scope in ("phone", "tablet")
        for n in range(1500)
    ]
    deployment.insert("synapse_msc3881_device_rules", columns, rows)

    def changes() -> int:
        ((count,),) = deployment.sql(
            "SELECT COUNT(*) FROM push_rules_stream WHERE user_id = ?", [bob.user_id]
        )
        return int(count)

    before = changes()
    bob.join(scene.alice.upgrade_room(old, "10"))

    assert changes() == before + 1
    assert rules_in_database(deployment, bob) == 1 + len(rows) + 3


# --- The module, taken out and put back ---------------------------------------------------------


def applied_schemas(deployment: Deployment) -> list[tuple[Any, ...]]:
    return deployment.sql(
        "SELECT module_name, file FROM applied_module_schemas ORDER BY module_name, file"
    )


def test_taking_the_module_out_and_putting_it_back(
    fresh_deployment: FreshDeployment, gateway: Gateway
) -> None:
    deployment = fresh_deployment()
    scene = make_scene(deployment, gateway)
    schemas = applied_schemas(deployment)
    assert schemas
    assert {name for name, _ in schemas} == {"synapse_msc3881"}
    scene.bob.put_rule("phone", "room", scene.room, on_all(SILENT))
    fence_off(scene.bob, "phone")
    watch_session = deployment.login(scene.bob, "WATCH")
    switch(watch_session, True)
    watch_session.put_rule("global", "room", scene.room, on_all(SILENT))
    fence_off(watch_session, "global")
    rules, watch_rules = scene.bob.get_rules(), watch_session.get_rules()
    phone, gone = scene.device(["phone", "global"]), scene.device(["phone"])
    watch = device(watch_session, gateway)
    disabled = scene.device(["phone", "global"], enabled=False)

    # With rows that hold our mark still to be read, and which pushers have dropped.
    decisions = value(scrape(deployment), DECISIONS)
    scene.message("Before")
    wait_until(
        lambda: value(scrape(deployment), DECISIONS) == decisions + len((phone, gone, watch)),
        "the pushers' decisions",
    )
    deployment.restart(with_module=False)

    event_id = scene.message("Without the module")
    assert phone.wait_for(event_id).tweaks.get("sound") in (None, "default")
    # And nothing that was silent before.
    assert [push.event_id for each in (phone, watch) for push in each.pushes_until(event_id)] == []
    assert "device" not in scene.bob.get_rules()
    assert watch_session.get_rules() == scene.bob.get_rules()
    assert scene.bob.request("GET", "/_matrix/client/v3/pushrules/device/").status == 400
    listed = scene.bob.call("GET", "/_matrix/client/v3/notifications")["notifications"]
    assert event_id in [entry["event"]["event_id"] for entry in listed]
    assert "profile_tags" not in repr(scene.bob.get_pushers())
    assert rules_in_database(deployment, scene.bob) == 4
    # Its tags are without an owner now.
    scene.bob.delete_pusher(gone.pushkey, gone.app_id)
    event_id = scene.message("Before the module is back")
    for each in (phone, watch):
        each.wait_for(event_id)
        wait_until_recorded(deployment, each, event_id)

    # Back, and listed twice: the first one counts.
    twice = [{"module": MODULE, "config": {}}, {"module": MODULE, "config": {}}]
    deployment.restart(with_module=True, extra={"modules": twice})

    assert "the module is in the config twice" in deployment.log_text()
    assert applied_schemas(deployment) == schemas
    assert scene.bob.get_rules() == rules
    assert watch_session.get_rules() == watch_rules
    assert tags_in_database(deployment, scene.bob) == {
        phone.pushkey: '["phone","global"]',
        disabled.pushkey: '["phone","global"]',
    }
    before = {each: len(each.pushes()) for each in (phone, watch)}
    scene.message("With the module again")
    fence = scene.fence()
    for each, count in before.items():
        each.wait_for(fence)
        assert each.event_ids()[count:] == [fence]
    assert disabled.pushes() == []


# --- Data ---------------------------------------------------------------------------------------

#: Where a user's device rules and tags, or their traces, can stand, and whose they are.
PLACES = {
    "synapse_msc3881_device_rules": "user_id",
    "synapse_msc3881_pusher_tags": "user_id",
    "pushers": "user_name",
    "push_rules_stream": "user_id",
}


def traces(deployment: Deployment) -> set[str]:
    """The tables and columns that hold anything that only the module writes."""
    found = set()
    for table, column in _text_columns(deployment):
        rows = deployment.sql(f'SELECT "{column}" FROM "{table}"')
        if any(re.search("msc3881|msc3837|device/phone", str(value)) for (value,) in rows):
            found.add(f"{table}.{column}")
    names = {table for table, _ in _text_columns(deployment)}
    return found | {name for name in names if "msc3881" in name}


def _text_columns(deployment: Deployment) -> list[tuple[str, str]]:
    if deployment.kind == "sqlite":
        tables = deployment.sql("SELECT name FROM sqlite_master WHERE type = 'table'")
        return [
            (table, column)
            for (table,) in tables
            for (column,) in deployment.sql("SELECT name FROM pragma_table_info(?)", [table])
        ]
    return [
        (str(table), str(column))
        for table, column in deployment.sql(
            "SELECT table_name, column_name FROM information_schema.columns"
            " WHERE table_schema = 'public'"
        )
    ]


def documented_sql(heading: str) -> list[str]:
    """The statements in docs/admin-guide.md between a line that is given and the next text."""
    text = (CHECKOUT / "docs" / "admin-guide.md").read_text()
    block = re.search(rf"{re.escape(heading)}\n+```sql\n(.*?)```", text, re.DOTALL)
    assert block is not None, heading
    return [part.strip() for part in block[1].split(";") if part.strip()]


def test_the_documented_statements_remove_all_traces(
    fresh_deployment: FreshDeployment, gateway: Gateway
) -> None:
    deployment = fresh_deployment()
    scene = make_scene(deployment, gateway)
    scene.bob.put_rule("phone", "room", scene.room, on_all(SIREN))
    scene.bob.put_rule("phone", "override", "thing", on_type(THING, SIREN))
    phone = scene.device(["phone", "global"])
    # One row that `global` notifies of too, and one that is there for the scope alone.
    ours = [scene.message(), scene.thing()]
    phone.wait_for(ours[-1])
    wait_until_recorded(deployment, phone, ours[-1])
    deployment.restart(with_module=False)
    # And a row of Synapse's own.
    native = scene.message("Native")
    phone.wait_for(native)
    before = _rows(deployment)
    deployment.homeserver.stop()
    # What stays is a week old at most: user ids under the name of the module's cache.
    stays = {"cache_invalidation_stream_by_instance.cache_func"} & traces(deployment)
    assert traces(deployment) - stays == {
        "applied_module_schemas.module_name",
        "event_push_actions.actions",
        "push_rules_stream.rule_id",
        *TABLES,
    }

    for statement in documented_sql("To remove all of it:"):
        deployment.sql(statement)
    kind = "SQLite" if deployment.kind == "sqlite" else "PostgreSQL"
    for statement in documented_sql(f"and then, on {kind}:"):
        deployment.sql(statement)

    assert traces(deployment) == stays
    after = _rows(deployment)
    assert after.keys() == before.keys() - {ours[1]}
    assert after[native] == before[native]
    assert json.loads(after[ours[0]]) == json.loads(before[ours[0]])[1:]
    # Synapse goes on, with and without the module, as if it had never been there.
    deployment.homeserver.start()
    listed = scene.bob.call("GET", "/_matrix/client/v3/notifications")["notifications"]
    assert {entry["event"]["event_id"] for entry in listed} >= {native, ours[0]}
    since = scene.bob.sync()["next_batch"]
    scene.bob.put_rule("global", "room", scene.room, on_all(SILENT))
    changed = scene.bob.sync(since=since)["account_data"]["events"]
    assert "m.push_rules" in {event["type"] for event in changed}
    deployment.restart(with_module=True)
    assert "device" not in scene.bob.get_rules()
    scene.bob.put_rule("phone", "room", scene.room, on_all(SIREN))


def _rows(deployment: Deployment) -> dict[str, str]:
    return dict(deployment.sql("SELECT event_id, actions FROM event_push_actions"))


def test_a_user_gets_their_data_and_an_export_of_synapse_does_not_hold_it(
    fresh_deployment: FreshDeployment, gateway: Gateway, tmp_path: Path
) -> None:
    deployment = fresh_deployment()
    scene = make_scene(deployment, gateway)
    scene.bob.put_rule("phone", "room", scene.room, on_all(SIREN))
    phone = scene.device(["phone", "global"])

    rules = scene.bob.get_rules()
    assert rules["device"]["phone"]["room"][0]["rule_id"] == scene.room
    where = f"/_matrix/client/v3/user/{scene.bob.user_id}/account_data/m.push_rules"
    assert scene.bob.call("GET", where) == rules
    assert [pusher["profile_tags"] for pusher in scene.bob.get_pushers()] == [["phone", "global"]]
    assert phone.stored() is not None

    admin = deployment.homeserver.register("admin", admin=True)
    users = f"/_synapse/admin/v1/users/{scene.bob.user_id}"
    account_data = admin.call("GET", f"{users}/accountdata")
    assert account_data == {"account_data": {"global": {}, "rooms": {}}}
    (pusher,) = admin.call("GET", f"{users}/pushers")["pushers"]
    assert "profile_tags" not in pusher

    deployment.homeserver.stop()
    exported = tmp_path / "export"
    config = str(deployment.homeserver.config_file)
    command = [sys.executable, "-m", "synapse.app.admin_cmd", "-c", config, "export-data"]
    subprocess.run(
        [*command, scene.bob.user_id, "--output-directory", str(exported)],
        env=deployment.homeserver._environment(),
        check=True,
        capture_output=True,
    )
    files = [file.read_text() for file in exported.rglob("*") if file.is_file()]
    assert any(scene.bob.user_id in text for text in files)
    assert not any("siren" in text or "profile_tags" in text for text in files)


def test_erasing_a_user_leaves_only_what_synapse_leaves(
    fresh_deployment: FreshDeployment, gateway: Gateway
) -> None:
    deployment = fresh_deployment()
    scene = make_scene(deployment, gateway)
    scene.bob.put_rule("affair", "content", "rendezvous", {"pattern": "hello", "actions": SIREN})
    phone = scene.device(["affair", "global"])
    event_id = scene.message()
    phone.wait_for(event_id)
    for table, column in PLACES.items():
        assert _count(deployment, table, column, scene.bob) > 0, table

    admin = deployment.homeserver.register("admin", admin=True)
    where = f"/_synapse/admin/v1/deactivate/{scene.bob.user_id}"
    admin.call("POST", where, {"erase": True})

    for table, column in PLACES.items():
        assert _count(deployment, table, column, scene.bob) == 0, table
    # Synapse's own rows of what was pushed, with what it decided, go when it rotates them. What the
    # user called scopes and rules is not in them.
    rows = deployment.sql(
        "SELECT actions FROM event_push_actions WHERE user_id = ?", [scene.bob.user_id]
    )
    assert len(rows) == 1
    assert "siren" in rows[0][0]
    assert "affair" not in rows[0][0]
    assert "rendezvous" not in rows[0][0]


def test_who_is_deactivated_without_the_module_is_forgotten_at_its_next_start(
    fresh_deployment: FreshDeployment, gateway: Gateway
) -> None:
    deployment = fresh_deployment()
    scene = make_scene(deployment, gateway)
    for user in (scene.alice, scene.bob):
        user.put_rule("phone", "room", scene.room, on_all(SIREN))
        device(user, gateway, ["phone", "global"])
    deployment.restart(with_module=False)
    scene.bob.deactivate(PASSWORD)
    assert rules_in_database(deployment, scene.bob) == 1

    deployment.restart(with_module=True)

    assert rules_in_database(deployment, scene.bob) == 0
    assert tags_in_database(deployment, scene.bob) == {}
    assert rules_in_database(deployment, scene.alice) == 1
    assert len(tags_in_database(deployment, scene.alice)) == 1


def _count(deployment: Deployment, table: str, column: str, user: Session) -> int:
    ((count,),) = deployment.sql(f"SELECT COUNT(*) FROM {table} WHERE {column} = ?", [user.user_id])
    return int(count)


# --- A bad config -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"keep_omited": True}, "keep_omited"),
        ({"keep_omitted": "yes"}, "keep_omitted"),
        ({"limits": {"device_scopes_per_user": 0}}, "limits.device_scopes_per_user"),
    ],
    ids=["an unknown option", "a wrong type", "a limit below 1"],
)
def test_a_bad_option_stops_synapse_and_is_named(
    tmp_path: Path, config: JsonDict, path: str
) -> None:
    modules = [{"module": MODULE, "config": config}]
    homeserver = Homeserver(tmp_path, Options(modules=modules, python_path=[CHECKOUT]))
    with pytest.raises(ProcessError) as caught:
        homeserver.start()
    assert f"modules.<item 0>.config.{path}" in str(caught.value)
    assert homeserver.pid is None


# --- Beside a module that wraps the same ---------------------------------------------------------


@pytest.mark.one_deployment
def test_tags_are_kept_beside_another_module_that_wraps_the_store(
    fresh_deployment: FreshDeployment, gateway: Gateway
) -> None:
    """Then a pusher and its tags are two transactions, and all else is as ever."""
    ours = {"module": MODULE, "config": {}}
    deployment = fresh_deployment(extra={"modules": [FOREIGN, ours]})
    scene = make_scene(deployment, gateway)
    scene.bob.put_rule("phone", "room", scene.room, on_all(SIREN))
    phone = scene.device()
    phone.set(profile_tags=["phone"])
    stored = phone.stored()
    assert stored is not None
    assert stored["profile_tags"] == ["phone"]
    assert phone.wait_for(scene.thing()).tweaks == {"sound": "siren"}

    deployment.restart()
    assert phone.wait_for(scene.thing()).tweaks == {"sound": "siren"}
    phone.set(profile_tags=["global"])
    assert tags_in_database(deployment, scene.bob) == {}
    phone.set(profile_tags=["phone"])
    scene.bob.delete_pusher(phone.pushkey, phone.app_id)
    assert tags_in_database(deployment, scene.bob) == {}
    phone.set(profile_tags=["phone"])
    scene.bob.deactivate(PASSWORD)
    assert tags_in_database(deployment, scene.bob) == {}
