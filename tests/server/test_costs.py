# SPDX-License-Identifier: AGPL-3.0-or-later
"""What users' rules cost, and what becomes of the rules of somebody who is over the bound."""

import json
import re

import pytest

from demo.client import Session
from demo.gateway import Gateway
from tests.conftest import FreshDeployment
from tests.harness.deployment import Deployment
from tests.server.cascade_helpers import (
    BELL,
    SILENT,
    SIREN,
    Scene,
    fence_off,
    make_scene,
    on_all,
    on_type,
)

#: Nothing here depends on the database.
pytestmark = pytest.mark.one_deployment

EVENTS = 40

KEYWORDS = ("pizza", "lunch", "noon", "deploy", "outage", "release", "review", "budget", "cat", "x")


def cost_fallbacks(deployment: Deployment) -> float:
    pattern = r'^synapse_msc3881_fallbacks_total\{[^}]*reason="cost"[^}]*\} (\S+)$'
    (found,) = re.findall(pattern, deployment.metrics(), re.MULTILINE)
    return float(found)


def write_rules(deployment: Deployment, user: Session, patterns: list[list[str]]) -> None:
    """Write override rules into the scope `phone`, as a request for each would take minutes."""
    rows = []
    for number, of_rule in enumerate(patterns):
        conditions = [
            {"kind": "event_match", "key": "content.body", "pattern": each} for each in of_rule
        ]
        rule_id, text = f"dear-{number}", json.dumps(conditions)
        rows.append((user.user_id, "phone", "override", rule_id, number, text, '["notify"]', 1))
    columns = (
        "user_id profile_tag kind rule_id priority conditions actions enabled".split()  # noqa: SIM905
    )
    deployment.insert("synapse_msc3881_device_rules", columns, rows)


def muted_scene(deployment: Deployment, gateway: Gateway) -> Scene:
    """Bob muted the room on his phone; in `global` it rings."""
    scene = make_scene(deployment, gateway)
    fence_off(scene.bob, "phone")
    scene.bob.put_rule("phone", "room", scene.room, on_all(SILENT))
    return scene


def test_what_others_send_does_not_unmute(
    fresh_deployment: FreshDeployment, gateway: Gateway
) -> None:
    """Ten keywords, against a flood of long messages in which all but occur."""
    deployment = fresh_deployment()
    scene = muted_scene(deployment, gateway)
    for word in KEYWORDS:
        rule = {"pattern": word, "actions": SIREN}
        scene.bob.put_rule("phone", "content", word, rule)
    phone = scene.device(["phone", "global"])
    near_misses = " ".join(f"x{word}x {word}y" for word in KEYWORDS)
    for number in range(EVENTS):
        scene.message(f"{number} {near_misses * (50_000 // len(near_misses))}")
    assert phone.pushes_until(scene.fence()) == []
    assert cost_fallbacks(deployment) == 0
    # And with the words, all of them ring.
    sent = [scene.message(f"{n} " + "lorem deploy " * 4000) for n in range(EVENTS)]
    pushed = phone.pushes_until(scene.fence())
    assert [push.event_id for push in pushed[-EVENTS:]] == sent
    assert {push.tweaks["sound"] for push in pushed[-EVENTS:]} == {"siren"}
    assert cost_fallbacks(deployment) == 0


def test_who_is_over_the_bound_keeps_what_costs_nothing(
    fresh_deployment: FreshDeployment, gateway: Gateway
) -> None:
    deployment = fresh_deployment()
    scene = muted_scene(deployment, gateway)
    dear = ["*".join("abcdefghijklmnopqrstuvwxy") + f"*{n}" for n in range(400)]
    write_rules(deployment, scene.bob, [[each] for each in dear])
    scene.bob.put_rule("phone", "underride", "thing", on_type("org.example.thing", BELL))
    quiet_room = scene.room
    phone = scene.device(["phone", "global"])
    alphabet = "abcdefghijklmnopqrstuvwxy" * 2000
    for number in range(EVENTS):
        scene.message(f"{number} {alphabet}")
    assert phone.pushes_until(scene.fence()) == []
    assert cost_fallbacks(deployment) > 0
    assert deployment.log_text().count("cost failed for") == 1
    # In another room a rule that only compares rings, before the debt is paid.
    other = scene.alice.create_room(preset="public_chat")
    scene.bob.join(other)
    event_id = scene.thing(room=other)
    assert phone.wait_for(event_id).tweaks == {"sound": "bell"}
    scene.message("hush")
    assert quiet_room != other
    last = scene.fence()
    assert [push.event_id for push in phone.pushes_until(last)][-1] == event_id
