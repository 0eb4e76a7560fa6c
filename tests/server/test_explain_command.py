# SPDX-License-Identifier: AGPL-3.0-or-later
"""`python -m synapse_msc3881 explain`: what an admin is told of an event and a user."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from demo.gateway import Gateway
from tests.conftest import FreshDeployment
from tests.harness.admin import Answer, command, command_here
from tests.harness.deployment import Deployment
from tests.server.cascade_helpers import (
    SILENT,
    SIREN,
    THING,
    Scene,
    device,
    explained,
    make_scene,
    on_all,
    on_type,
    wait_until_recorded,
)


def arguments(scene: Scene, event_id: str, user_id: str = "") -> list[str]:
    config = str(scene.deployment.homeserver.config_file)
    return ["explain", "-c", config, "--event", event_id, "--user", user_id or scene.bob.user_id]


def explain(scene: Scene, event_id: str, user_id: str = "") -> Answer:
    return command_here(*arguments(scene, event_id, user_id))


def test_the_admin_sees_what_the_user_sees(scene: Scene) -> None:
    scene.bob.put_rule("phone", "override", "things", on_type(THING, SIREN))
    scene.bob.put_rule("quiet", "room", scene.room, on_all(SILENT))
    phone, quiet = scene.device(["phone", "global"]), scene.device(["quiet", "phone"])
    scene.device(enabled=False)
    event_id = scene.thing()
    phone.wait_for(event_id)
    wait_until_recorded(scene.deployment, phone, event_id)

    told = command(*arguments(scene, event_id), "--json")
    assert (told.status, told.errors) == (0, "")
    assert told.json == explained(scene, event_id)

    shown = command(*arguments(scene, event_id))
    assert (shown.status, shown.errors) == (0, "")
    assert shown.output.startswith(f"{event_id}\n  in {scene.room}, by {scene.alice.user_id}\n")
    lines = [" ".join(line.split()) for line in shown.output.splitlines()]
    assert "walk phone: override/things, notifies, sound siren" in lines
    assert f"walk quiet: room/{scene.room}, silent" in lines
    assert "walk global: no rule notifies (silent or no match; which is not recorded)" in lines
    assert any(line.startswith("result sent 20") for line in lines)
    assert "result not sent" in lines
    assert "result not sent: the pusher is off" in lines
    assert f"http pusher org.example.app {quiet.pushkey}, on" in lines


def test_the_admin_sees_also_what_the_user_may_not(scene: Scene) -> None:
    room = scene.alice.create_room(preset="private_chat")
    event_id = scene.alice.send(room, "hello")
    told = explain(scene, event_id)
    assert told.status == 0
    assert "Nothing is recorded of it for this user." in told.output
    assert "was not in the room" in " ".join(told.output.split())
    assert "The user has no pushers." in told.output


def test_what_users_chose_does_no_harm_to_a_terminal(scene: Scene) -> None:
    name = "\x1b[2J\u202ephone\n"
    scene.bob.set_pusher(
        "a-key-that-is-nobodys-business", "app\x07", scene.gateway.url, device_display_name=name
    )
    told = explain(scene, scene.message())
    assert told.status == 0
    assert "\\x1b[2J\\u202ephone\\n" in told.output
    assert not set("\x1b\x07\u202e") & set(told.output)
    assert "a-key-that-i" in told.output
    assert "business" not in told.output


# --- What cannot be explained -------------------------------------------------------------------


def test_what_is_not_there(scene: Scene) -> None:
    event_id = scene.message()
    unknown = explain(scene, "$unknown")
    assert (unknown.status, unknown.output) == (1, "")
    assert unknown.errors == "There is no event $unknown in the database.\n"
    nobody = explain(scene, event_id, "@nobody:synapse.test")
    assert (nobody.status, nobody.output) == (1, "")
    assert nobody.errors == "There is no user @nobody:synapse.test on this server.\n"


@pytest.mark.parametrize(
    ("event_id", "user_id", "says"),
    [
        ("", "@bob:synapse.test", "put it in single quotes"),
        ("x", "@bob:synapse.test", "put it in single quotes"),
        # What the shell leaves of "$LEi-HlYz".
        ("-HlYz", "@bob:synapse.test", "put it in single quotes"),
        ("$x", "bob", "begins with an @"),
    ],
)
def test_wrong_usage(event_id: str, user_id: str, says: str, tmp_path: Path) -> None:
    told = command_here(
        "explain", "-c", tmp_path / "none.yaml", "--event", event_id, "--user", user_id
    )
    assert told.status == 2
    assert says in told.errors


def test_a_config_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "none.yaml"
    told = command_here("explain", "-c", file, "--event", "$x", "--user", "@bob:synapse.test")
    assert told.status == 1
    assert str(file) in told.errors
    assert "Traceback" not in told.errors


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "homeserver.yaml"
    config = {
        "server_name": "synapse.test",
        "report_stats": False,
        "database": {"name": "sqlite3", "args": {"database": str(tmp_path / "none.db")}},
    }
    file.write_text(yaml.safe_dump(config))
    told = command_here("explain", "-c", file, "--event", "$x", "--user", "@bob:synapse.test")
    assert told.status == 1
    assert "there is no such file" in told.errors
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


def test_a_server_that_was_never_started_with_the_module(
    fresh_deployment: FreshDeployment, gateway: Gateway
) -> None:
    scene = make_scene(fresh_deployment(with_module=False), gateway)
    told = explain(scene, scene.message())
    assert told.status == 1
    assert "was not started with it yet" in told.errors


def files(directory: Path) -> Mapping[str, str]:
    found = sorted(file for file in directory.rglob("*") if file.is_file())
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


def test_it_changes_nothing(tmp_path_factory: pytest.TempPathFactory, gateway: Gateway) -> None:
    directory = tmp_path_factory.mktemp("stopped")
    deployment = Deployment(kind="sqlite", directory=directory).start()
    try:
        scene = make_scene(deployment, gateway)
        phone = device(scene.bob, gateway)
        event_id = scene.message()
        phone.wait_for(event_id)
        wait_until_recorded(deployment, phone, event_id)
    finally:
        deployment.stop()
    before = files(directory)
    assert explain(scene, event_id).status == 0
    assert files(directory) == before
