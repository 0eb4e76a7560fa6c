# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pushes through Sygnal, the gateway that admins run, to a browser and to an app.

Runs where a `sygnal` is on the PATH, or where SYGNAL names one.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from demo.client import Session
from demo.gateway import Gateway
from tests.harness.deployment import Deployment
from tests.harness.sygnal import BROWSER, RECORDED, Ends, Sygnal, find_sygnal
from tests.harness.waiting import wait_until
from tests.server.cascade_helpers import (
    BELL,
    NOTIFY,
    SILENT,
    SIREN,
    Device,
    Scene,
    fence_off,
    make_scene,
    new_pushkey,
    on_all,
    on_body,
    tags_in_database,
    wait_until_recorded,
)


@pytest.fixture(scope="module")
def ends() -> Iterator[Ends]:
    with Ends() as ends:
        yield ends


@pytest.fixture(scope="module")
def sygnal(tmp_path_factory: pytest.TempPathFactory, ends: Ends) -> Iterator[Sygnal]:
    program = find_sygnal()
    if program is None:
        pytest.skip("there is no `sygnal` on the PATH; pip's index does not have it")
    with Sygnal(program, tmp_path_factory.mktemp("sygnal"), ends) as sygnal:
        yield sygnal


@pytest.fixture
def scene(deployment: Deployment, gateway: Gateway) -> Scene:
    scene = make_scene(deployment, gateway)
    fence_off(scene.bob, "mine", "global")
    return scene


def subscribe(user: Session, sygnal: Sygnal, ends: Ends, **fields: Any) -> str:
    """Register a browser's pusher, and return its pushkey."""
    subscription = ends.subscribe()
    data = {"url": sygnal.url, **subscription.data, **fields.pop("data", {})}
    user.set_pusher(subscription.pushkey, BROWSER, sygnal.url, data=data, **fields)
    return subscription.pushkey


def test_a_browser_is_pushed_what_its_own_rules_say(
    scene: Scene, sygnal: Sygnal, ends: Ends
) -> None:
    scene.bob.put_rule("mine", "override", "quiet", on_body("quiet", SILENT))
    scene.bob.put_rule("mine", "override", "loud", on_body("loud", SIREN))
    browser = subscribe(scene.bob, sygnal, ends, profile_tags=["mine"])
    scene.message("quiet")
    loud = scene.message("loud")
    scene.message("nothing matches")
    fence = scene.fence()

    ends.wait_for(browser, fence)
    assert [arrived.content["event_id"] for arrived in ends.of(browser)] == [loud, fence]
    content = ends.of(browser)[0].content
    assert content["room_id"] == scene.room
    assert content["content"]["body"] == "loud"
    assert content["sender"] == scene.alice.user_id
    assert ends.of(browser)[0].headers["content-encoding"] == "aes128gcm"


def test_tweaks_are_those_of_the_rule_that_decides(
    scene: Scene, sygnal: Sygnal, ends: Ends
) -> None:
    scene.bob.put_rule("mine", "override", "siren", on_body("siren", SIREN))
    scene.bob.put_rule("mine", "override", "plain", on_body("plain", NOTIFY))
    scene.bob.put_rule("global", "override", "bell", on_body("bell", BELL))
    app = new_pushkey()
    scene.bob.set_pusher(app, RECORDED, sygnal.url, profile_tags=["mine", "global"])
    for body, sound in (("siren", "siren"), ("plain", None), ("bell", "bell")):
        read = ends.wait_for(app, scene.message(body)).content
        assert (read["content"]["body"], read["sound"]) == (body, sound)


def test_event_id_only(scene: Scene, sygnal: Sygnal, ends: Ends) -> None:
    scene.bob.put_rule("mine", "room", scene.room, on_all(SIREN))
    browser = subscribe(
        scene.bob, sygnal, ends, profile_tags=["mine"], data={"format": "event_id_only"}
    )
    event_id = scene.message()
    assert ends.wait_for(browser, event_id).content == {
        "event_id": event_id,
        "room_id": scene.room,
        "unread": 1,
    }


def test_a_browser_that_is_switched_off_hears_nothing(
    scene: Scene, sygnal: Sygnal, ends: Ends
) -> None:
    browser = subscribe(scene.bob, sygnal, ends)
    ends.wait_for(browser, scene.fence())
    laptop = scene.deployment.login(scene.bob, "LAPTOP")
    (shown,) = laptop.get_pushers()
    switch = "org.matrix.msc3881.enabled"
    laptop.call("POST", "/_matrix/client/v3/pushers/set", {**shown, switch: False})
    before = ends.of(browser)
    scene.message()
    (shown,) = laptop.get_pushers()
    laptop.call("POST", "/_matrix/client/v3/pushers/set", {**shown, switch: True})
    fence = scene.fence()
    ends.wait_for(browser, fence)
    assert [arrived.content.get("event_id") for arrived in ends.of(browser)[len(before) :]] == [
        fence
    ]


def test_a_push_that_only_the_device_rules_made_is_cleared_when_read(
    scene: Scene, sygnal: Sygnal, ends: Ends
) -> None:
    scene.bob.put_rule("global", "override", "muted", on_body("muted", SILENT))
    scene.bob.put_rule("mine", "room", scene.room, on_all(NOTIFY))
    browser = subscribe(scene.bob, sygnal, ends, profile_tags=["mine"])
    event_id = scene.message("muted")
    ends.wait_for(browser, event_id)
    # While the push is under way, a receipt has nothing to update.
    wait_until_recorded(scene.deployment, Device(scene.bob, browser, scene.gateway), event_id)
    scene.bob.read(scene.room, event_id)
    wait_until(lambda: len(ends.of(browser)) == 2, "the badge update")
    assert ends.of(browser)[1].content == {"unread": 0}


@pytest.mark.parametrize("app_id", [BROWSER, RECORDED, "org.example.unknown"])
def test_a_pushkey_that_is_rejected_goes_with_its_tags(
    app_id: str, scene: Scene, sygnal: Sygnal, ends: Ends
) -> None:
    """By a browser's maker (410), by an app, and by Sygnal, which does not know the app."""
    if app_id == BROWSER:
        pushkey = subscribe(scene.bob, sygnal, ends, profile_tags=["mine"])
    else:
        pushkey = new_pushkey()
        scene.bob.set_pusher(pushkey, app_id, sygnal.url, profile_tags=["mine"])
    ends.gone.add(pushkey)
    assert set(tags_in_database(scene.deployment, scene.bob)) == {pushkey}
    scene.fence()
    wait_until(lambda: scene.bob.get_pushers() == [], "the pusher's end")
    assert tags_in_database(scene.deployment, scene.bob) == {}
