# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a client does with both proposals, once with each library, up to the push at the gateway."""

from demo.client import JsonDict
from tests.clients.conftest import World
from tests.clients.libraries import Action, ClientSession
from tests.clients.matrix_nio import NioSession

ENABLED = "org.matrix.msc3881.enabled"
AS_READ = "org.matrix.msc3881.as_read"
DEVICE_ID = "org.matrix.msc3881.device_id"

SIREN: list[Action] = ["notify", {"set_tweak": "sound", "value": "siren"}]


def pusher_of(session: ClientSession, device_id: str) -> JsonDict:
    """The pusher of a device, as Element Web looks for it."""
    (found,) = (shown for shown in session.get_pushers() if shown[DEVICE_ID] == device_id)
    return found


def test_one_session_turns_the_pusher_of_another_off_and_on(world: World) -> None:
    mine = world.pusher("phone")
    world.phone.set_pusher(mine)
    world.desktop.set_pusher(world.pusher("desktop"))
    before = world.bob.send(world.room, "before")
    world.gateway.wait_for(pushkey=mine["pushkey"], event_id=before)

    shown = pusher_of(world.desktop, "PHONE")
    assert (shown["pushkey"], shown[ENABLED], shown["enabled"]) == (mine["pushkey"], True, True)
    world.desktop.set_pusher({**shown, ENABLED: False})
    for session in (world.phone, world.desktop):
        seen = pusher_of(session, "PHONE")
        as_read = {**shown[AS_READ], "enabled": False}
        assert seen == {**shown, ENABLED: False, "enabled": False, AS_READ: as_read}

    while_off = world.bob.send(world.room, "while off")
    # The other device's pusher is not touched, and shows that the event was handled.
    others = pusher_of(world.phone, "DESKTOP")["pushkey"]
    world.gateway.wait_for(pushkey=others, event_id=while_off)

    world.desktop.set_pusher({**pusher_of(world.desktop, "PHONE"), ENABLED: True})
    assert pusher_of(world.phone, "PHONE") == shown
    after = world.bob.send(world.room, "after")
    world.gateway.wait_for(pushkey=mine["pushkey"], event_id=after)
    assert world.pushed(mine) == [before, after]


def test_a_room_is_muted_on_one_device_only(world: World) -> None:
    phone = {**world.pusher("phone"), "profile_tags": ["phone", "global"]}
    desktop = world.pusher("desktop")
    world.phone.set_pusher(phone)
    world.desktop.set_pusher(desktop)
    assert "device" not in world.phone.next_push_rules()

    def send_to_both() -> JsonDict:
        """A message that both devices are pushed; the tweaks of the phone's push."""
        event_id = world.bob.send(world.room, "for both")
        world.gateway.wait_for(pushkey=desktop["pushkey"], event_id=event_id)
        expected.append(event_id)
        push = world.gateway.wait_for(pushkey=phone["pushkey"], event_id=event_id)
        return dict(push.tweaks)

    expected: list[str | None] = []
    shared = send_to_both()

    world.desktop.put_rule("device/phone", "room", world.room, {"actions": []})
    rules = world.phone.next_push_rules()
    assert rules["device"]["phone"]["room"] == [
        {"rule_id": world.room, "default": False, "enabled": True, "actions": []}
    ]
    # What a library itself makes of push rules is as it was.
    assert rules["global"]["override"]
    if isinstance(world.phone, NioSession):
        assert world.phone.seen is not None
        assert world.phone.seen.global_rules.override
    muted = world.bob.send(world.room, "muted on the phone")
    world.gateway.wait_for(pushkey=desktop["pushkey"], event_id=muted)

    world.desktop.set_rule_enabled("device/phone", "room", world.room, False)
    (shown,) = world.phone.next_push_rules()["device"]["phone"]["room"]
    assert shown["enabled"] is False
    assert send_to_both() == shared

    world.desktop.set_rule_enabled("device/phone", "room", world.room, True)
    world.desktop.set_rule_actions("device/phone", "room", world.room, SIREN)
    assert send_to_both() == {"sound": "siren"}

    world.desktop.delete_rule("device/phone", "room", world.room)
    assert send_to_both() == shared
    assert world.pushed(phone) == expected
    assert world.pushed(desktop)[1] == muted


def test_other_clients_are_not_upset_by_an_odd_profile_tag(world: World) -> None:
    """`device` used to be a ruleset: a tag that is called like a kind is its hardest case."""
    for tag in ("override", "room"):
        world.desktop.put_rule(f"device/{tag}", "room", world.room, {"actions": []})
    rules = world.phone.next_push_rules()
    assert set(rules["device"]) == {"override", "room"}
    assert rules["global"]["override"]
    if isinstance(world.phone, NioSession):
        assert world.phone.seen is not None
        assert world.phone.seen.global_rules.override
