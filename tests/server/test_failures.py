# SPDX-License-Identifier: AGPL-3.0-or-later
"""Nothing of ours fails an event: whatever breaks, it is sent, and pushers use the `global` rules.

Or, where a user's rules cannot be read or compiled, those that were compiled before.

Each failure is logged once with the user and the reason, and counted each time.
"""

import re
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from demo.client import JsonDict
from demo.gateway import Behaviour, Gateway
from synapse_msc3881.delivery.backlog import MAX_WAITING
from tests.conftest import FreshDeployment
from tests.harness import fault_injection, metrics
from tests.harness.cluster import ClusterHomeserver
from tests.harness.deployment import Deployment
from tests.harness.waiting import wait_until
from tests.server.cascade_helpers import (
    BELL,
    SILENT,
    SIREN,
    Device,
    Scene,
    device,
    make_scene,
    on_body,
    rules_in_database,
    wait_until_recorded,
)
from tests.server.own_settings_helpers import switch

INJECTION = {"module": "tests.harness.fault_injection.FaultInjection", "config": {}}
RULES = "synapse_msc3881_device_rules"
TAGS = "synapse_msc3881_pusher_tags"


@pytest.fixture(scope="module")
def breaking(module_deployment: FreshDeployment) -> Deployment:
    """A server with points that can be made to fail."""
    return module_deployment(further_modules=[INJECTION])


@pytest.fixture
def scene(breaking: Deployment, gateway: Gateway) -> Iterator[Scene]:
    """Bob's `global` rings a bell at "loud" and "soft", his phone a siren at "loud"."""
    scene = make_scene(breaking, gateway)
    for word in ("loud", "soft"):
        scene.bob.put_rule("global", "override", word, on_body(word, BELL))
    scene.bob.put_rule("phone", "override", "loud", on_body("loud", SIREN))
    yield scene
    fail_at(breaking, "")
    breaking.homeserver.close_sessions()
    breaking.assert_log_is_clean()


def fail_at(deployment: Deployment, point: str) -> None:
    """Make a point fail on all processes from now on; "" for none."""
    session = deployment.register()
    homeserver = deployment.homeserver
    where = f"{fault_injection.PATH}?point={quote(point)}"
    urls = [homeserver.base_url]
    if isinstance(homeserver, ClusterHomeserver):
        urls = [f"http://127.0.0.1:{port}" for port in homeserver.replication_ports.values()]
    for url in urls:
        session.route = lambda *_, url=url: url
        session.call("PUT", where, token=False)
    session.close()


def fallbacks(deployment: Deployment, reason: str) -> float:
    """How often the module fell back for a reason so far."""
    pattern = rf'^synapse_msc3881_fallbacks_total\{{[^}}]*reason="{reason}"[^}}]*\}} (\S+)$'
    return sum(float(n) for n in re.findall(pattern, deployment.metrics(), re.MULTILINE))


def log_lines(deployment: Deployment, scene: Scene, reason: str) -> list[str]:
    """What was logged about a reason and Bob."""
    about = f"msc3881: {reason} failed for {scene.bob.user_id}"
    return [line for line in deployment.log_text().splitlines() if about in line]


def sound(pusher: Device, event_id: str) -> object:
    return pusher.wait_for(event_id).tweaks.get("sound")


# Where each point's failure is reported.
REPORTED = {
    "load": "load",
    "compile": "compile",
    "evaluate": "evaluate",
    "serialise": "evaluate",
    "fire": "fire",
}


@pytest.mark.parametrize("point", REPORTED)
def test_a_failure_leaves_the_event_and_goes_by_global(
    breaking: Deployment, scene: Scene, point: str
) -> None:
    """No event has come yet: of Bob's rules, nothing is compiled."""
    phone, only_phone = scene.device(["phone", "global"]), scene.device(["phone"])
    others = scene.device()
    tablet = breaking.login(scene.bob, "TABLET")
    switch(tablet, on=True)
    tablet.put_rule("global", "override", "loud", on_body("loud", SILENT))
    own = device(tablet, scene.gateway)
    reason = REPORTED[point]
    before = fallbacks(breaking, reason)
    fail_at(breaking, point)

    event_ids = [scene.message("loud") for _ in range(3)]

    for event_id in event_ids:
        for pusher in (phone, only_phone, others, own):
            assert sound(pusher, event_id) == "bell"
    expected = 1 if point == "compile" else 3
    assert fallbacks(breaking, reason) - before >= expected
    lines = log_lines(breaking, scene, reason)
    # In a cluster each process that meets it logs it once.
    assert 1 <= len(lines) <= (2 if isinstance(breaking.homeserver, ClusterHomeserver) else 1)
    assert "secret-rule-text" not in breaking.log_text()

    # And it ends with the failure.
    fail_at(breaking, "")
    scene.bob.put_rule("phone", "override", "again", on_body("again", SIREN))
    assert sound(phone, scene.message("loud")) == "siren"


@pytest.mark.parametrize("point", ["load", "compile"])
def test_what_was_muted_stays_muted_while_rules_cannot_be_read_or_compiled(
    breaking: Deployment, scene: Scene, point: str
) -> None:
    scene.bob.put_rule("phone", "override", "soft", on_body("soft", SILENT))
    phone, others = scene.device(["phone", "global"]), scene.device()
    assert sound(phone, scene.message("loud")) == "siren"
    fail_at(breaking, point)
    # What is compiled and up to date does not fail.
    scene.bob.put_rule("phone", "override", "more", on_body("more", SIREN))
    muted = [scene.message("soft") for _ in range(3)]
    assert sound(phone, scene.message("loud")) == "siren"
    assert not set(muted) & set(phone.event_ids())
    for event_id in muted:
        assert sound(others, event_id) == "bell"
    assert log_lines(breaking, scene, REPORTED[point])
    # And it ends with the failure.
    fail_at(breaking, "")
    scene.bob.put_rule("phone", "override", "again", on_body("again", SIREN))
    assert sound(phone, scene.message("more")) == "siren"


BAD_ROWS: dict[str, tuple[str, str]] = {
    "actions are no JSON": (RULES, "actions = '['"),
    "actions are a number": (RULES, "actions = '5'"),
    "actions are null": (RULES, "actions = 'null'"),
    "actions are an object": (RULES, """actions = '{"notify": 1}'"""),
    "actions hold NaN": (RULES, """actions = '["notify", NaN]'"""),
    "actions hold infinity": (
        RULES,
        """actions = '["notify", {"set_tweak": "sound", "value": -Infinity}]'""",
    ),
    "actions hold half a character": (
        RULES,
        r"""actions = '["notify", {"set_tweak": "sound", "value": "\ud800"}]'""",
    ),
    "conditions are no JSON": (RULES, "conditions = 'x'"),
    "conditions are an object": (RULES, "conditions = '{}'"),
    "conditions no longer parse": (RULES, """conditions = '[{"kind": 5}]'"""),
    "the kind is unknown": (RULES, "kind = 'nonsense'"),
    "tags are no JSON": (TAGS, "profile_tags = '['"),
    "tags are an object": (TAGS, "profile_tags = '{}'"),
    "tags are numbers": (TAGS, "profile_tags = '[1]'"),
    "tags are null": (TAGS, "profile_tags = 'null'"),
    "tags are nested too deep": (TAGS, f"profile_tags = '{'[' * 5000 + ']' * 5000}'"),
    "tags hold half a character": (TAGS, r"""profile_tags = '["\ud800"]'"""),
}


@pytest.mark.parametrize("bad", BAD_ROWS)
def test_a_corrupt_row_does_no_harm(breaking: Deployment, scene: Scene, bad: str) -> None:
    """Whatever stands in our tables: the event is sent, and pushed in some sensible way."""
    phone, others = scene.device(["phone", "global"]), scene.device()
    table, change = BAD_ROWS[bad]
    before = breaking.log_text().count(f"failed for {scene.bob.user_id}")
    breaking.sql(f"UPDATE {table} SET {change} WHERE user_id = ?", [scene.bob.user_id])
    # Bob's rules are read again, here and at a restart.
    scene.device(["unrelated"])
    assert scene.bob.request("GET", "/_matrix/client/v3/pushrules/").status == 200
    assert scene.bob.request("GET", "/_matrix/client/v3/pushers").status == 200
    assert scene.bob.sync()

    for word in ("loud", "soft", "loud"):
        event_id = scene.message(word)
        assert sound(others, event_id) == "bell"
        if word == "soft":
            assert sound(phone, event_id) == "bell"
        else:
            # The rule is gone by, or what is bad does not keep it from being matched.
            assert sound(phone, event_id) in ("bell", "siren")
    logged = breaking.log_text().count(f"failed for {scene.bob.user_id}") - before
    assert logged <= 4  # one for each reason that met it, however many events


DEEP = "[" * 5000 + "]" * 5000

#: SQLite takes any value in any column; PostgreSQL does not.
BAD_VALUES: dict[str, str] = {
    "the actions are nested too deep": f"actions = '{DEEP}'",
    "the actions are nested a little too deep": f"actions = '{DEEP[4870:5130]}'",
    "the conditions are nested too deep": f"conditions = '{DEEP}'",
    "the conditions are an object": "conditions = '{}'",
    "the conditions are no JSON": "conditions = '['",
    "the conditions are bytes": "conditions = x'5b5d'",
    "the actions are bytes": "actions = x'5b5d'",
    "the priority is a text": "priority = 'high'",
    "the state is a text": "enabled = 'yes'",
    "the kind is unknown": "kind = 'nonsense'",
    "the kind is bytes": "kind = x'6f'",
    "the scope is bytes": "profile_tag = x'6f'",
    "the id is bytes": "rule_id = x'6f'",
}


@pytest.mark.parametrize("bad", BAD_VALUES)
def test_a_bad_row_costs_its_owner_that_row(breaking: Deployment, scene: Scene, bad: str) -> None:
    change, bob = BAD_VALUES[bad], scene.bob
    of_another_type = any(value in change for value in ("x'", "'high'", "'yes'"))
    if breaking.kind != "sqlite" and of_another_type:
        pytest.skip("PostgreSQL keeps the types of its columns")
    scene.bob.put_rule("phone", "override", "good", on_body("soft", SIREN))
    carol = breaking.register()
    carol.join(scene.room)
    carol.put_rule("phone", "override", "good", on_body("soft", SIREN))
    phone, carols = scene.device(["phone"]), device(carol, scene.gateway, ["phone"])
    count = fallbacks(breaking, "read_rules")
    breaking.sql(
        f"UPDATE {RULES} SET {change} WHERE user_id = ? AND rule_id = 'loud'", [bob.user_id]
    )

    shown = bob.get_rules()["device"]["phone"]["override"]
    assert [rule["rule_id"] for rule in shown] == ["good"]
    assert bob.sync()["account_data"]["events"]
    assert fallbacks(breaking, "read_rules") > count
    lines = log_lines(breaking, scene, "read_rules")
    assert any("loud" in line or "b'o'" in line for line in lines)

    # Rules are written, read and copied as if it were not there.
    bob.put_rule("phone", "override", "better", on_body("better", SIREN), after="good")
    event_id = scene.message("soft")
    for pusher in (phone, carols):
        assert sound(pusher, event_id) == "siren"
    assert sound(phone, scene.message("better")) == "siren"
    room = scene.alice.upgrade_room(scene.room, "10")
    bob.join(room)


def test_pushers_start_whatever_a_row_of_tags_holds(
    fresh_deployment: FreshDeployment, gateway: Gateway
) -> None:
    deployment = fresh_deployment()
    scene = make_scene(deployment, gateway)
    carol = deployment.register()
    carol.join(scene.room)
    bad, good = scene.device(["phone", "global"]), device(carol, gateway, ["phone", "global"])
    deployment.sql(
        f"UPDATE {TAGS} SET profile_tags = ? WHERE user_id = ?",
        ["[" * 5000 + "]" * 5000, scene.bob.user_id],
    )
    deployment.restart()
    event_id = scene.message("loud")
    for pusher in (bad, good):
        pusher.wait_for(event_id)
    (shown,) = scene.bob.get_pushers()
    assert shown["profile_tags"] == ["global"]
    assert any(
        "the tags of a pusher of" in line for line in log_lines(deployment, scene, "read_tags")
    )


def test_a_pusher_without_a_position_keeps_no_other_from_pushing(
    fresh_deployment: FreshDeployment, gateway: Gateway
) -> None:
    """Synapse's column may hold none; such a pusher starts from the present."""
    deployment = fresh_deployment()
    scene = make_scene(deployment, gateway)
    carol = deployment.register()
    carol.join(scene.room)
    tagged, native = scene.device(["phone", "global"]), scene.device()
    others = [device(carol, gateway), device(deployment.register(), gateway, ["phone", "global"])]
    others[1].user.join(scene.room)
    deployment.homeserver.stop()
    deployment.sql(
        "UPDATE pushers SET last_stream_ordering = NULL WHERE user_name = ?", [scene.bob.user_id]
    )
    deployment.restart()

    def are_started() -> bool:
        return metrics.value(metrics.scrape(deployment), "synapse_pushers") == 4

    wait_until(are_started, "the start of the pushers")
    event_id = scene.message()
    for pusher in (*others, tagged):
        pusher.wait_for(event_id)
    assert native.pushes() == [], "as without the module"


def test_a_position_that_could_not_be_written_is_written_later(
    breaking: Deployment, scene: Scene
) -> None:
    """At the end of the process at the latest: else what was silent rings after the start."""
    phone = scene.device()
    tablet = breaking.login(scene.bob, "TABLET")
    switch(tablet, on=True)
    tablet.put_rule("global", "override", "loud", on_body("loud", SILENT))
    own = device(tablet, scene.gateway)
    silent = scene.message("loud")
    phone.wait_for(silent)
    wait_until_recorded(breaking, phone, silent)
    fail_at(breaking, "move")
    before = fallbacks(breaking, "read_tags")
    switch(tablet, on=False)
    assert fallbacks(breaking, "read_tags") > before
    fail_at(breaking, "")
    breaking.restart()
    ringing = scene.message("soft")
    own.wait_for(ringing)
    assert own.event_ids() == [ringing]


@pytest.mark.parametrize("kind", ["nonsense", "postcontent", "global", "Override"])
def test_a_rule_of_an_unknown_kind_can_be_deleted(
    breaking: Deployment, scene: Scene, kind: str
) -> None:
    breaking.sql(f"UPDATE {RULES} SET kind = ? WHERE user_id = ?", [kind, scene.bob.user_id])
    scene.bob.delete_rule("phone", kind, "loud")
    assert rules_in_database(breaking, scene.bob) == 0


@pytest.mark.parametrize("name", ["[]", "{}", "5", "null"])
def test_a_tweak_without_a_name_does_not_stop_a_pusher(
    breaking: Deployment, scene: Scene, name: str
) -> None:
    """Such rules were taken once. What else the rule says is pushed."""
    actions = f'[{{"set_tweak":{name},"value":1}},"notify",{{"set_tweak":"sound","value":"siren"}}]'
    breaking.sql(f"UPDATE {RULES} SET actions = ? WHERE user_id = ?", [actions, scene.bob.user_id])
    phone = scene.device(["phone"])
    for _ in range(2):
        assert phone.wait_for(scene.message("loud")).tweaks == {"sound": "siren"}


def test_a_corrupt_outcome_goes_by_global(breaking: Deployment, scene: Scene) -> None:
    pusher = scene.device(["phone", "global"])
    before = fallbacks(breaking, "fire")
    scene.gateway.behave(pusher.pushkey, Behaviour.ERROR)
    # A pusher keeps so many in memory, and reads what comes after them when these are pushed.
    kept = [scene.message("loud") for _ in range(MAX_WAITING)]
    # The first can be read, and says that `global` is silent.
    rows = ("[]", "x", '[{"org.matrix.msc3837.outcomes": [1]}, "notify"]')
    corrupt = {scene.message("loud"): row for row in rows}
    for event_id, row in corrupt.items():
        breaking.sql(
            "UPDATE event_push_actions SET actions = ? WHERE event_id = ?", [row, event_id]
        )

    def accepted() -> dict[str | None, JsonDict]:
        return {p.event_id: p.tweaks for p in pusher.pushes() if p.behaviour is Behaviour.OK}

    scene.gateway.behave(pusher.pushkey, Behaviour.OK)
    wait_until(lambda: kept[-1] in accepted(), "the first of them")
    last = scene.message("loud")
    wait_until(lambda: last in accepted(), "the last one")

    by_phone = {event_id: {"sound": "siren"} for event_id in (*kept, last)}
    by_global: dict[str, JsonDict] = {event_id: {} for event_id in [*corrupt][1:]}
    assert accepted() == by_phone | by_global
    assert fallbacks(breaking, "fire") > before


# --- Rules that cost too much ------------------------------------------------------------------

# Its letters are in the body, so that only a regular expression tells that it does not match.
# The longest that Synapse allows: some ms each.
COSTLY_BODY = "loud and clear"
COSTLY_PATTERN = "a*e*?r" + "?" * 900
COSTLY_WORD = "clear"
COSTLY_RULES = 60


def test_patterns_of_a_user_whose_rules_cost_too_much_do_not_match_until_that_is_made_up_for(
    breaking: Deployment, scene: Scene
) -> None:
    scene.bob.put_rule("global", "override", "clear", on_body(COSTLY_BODY, BELL))
    scene.bob.put_rule("phone", "content", "clear", {"pattern": COSTLY_WORD, "actions": SIREN})
    phone = scene.device(["phone", "global"])
    assert sound(phone, scene.message(COSTLY_BODY)) == "siren"
    condition = {"kind": "event_match", "key": "content.body", "pattern": COSTLY_PATTERN}
    for n in range(COSTLY_RULES):
        rule = {"conditions": [condition], "actions": SILENT}
        scene.bob.put_rule("phone", "override", f"costly-{n}", rule)
    before = fallbacks(breaking, "cost")

    event_ids = [scene.message(COSTLY_BODY) for _ in range(3)]

    assert [sound(phone, event_id) for event_id in event_ids] == ["bell"] * 3
    assert fallbacks(breaking, "cost") - before >= 3
    lines = log_lines(breaking, scene, "cost")
    assert 1 <= len(lines) <= (2 if isinstance(breaking.homeserver, ClusterHomeserver) else 1)
    assert all("TooCostlyError" in line for line in lines)
    # Nobody else is concerned.
    carol = breaking.register()
    scene.alice.invite(scene.room, carol.user_id)
    carol.join(scene.room)
    carol.put_rule("phone", "override", "clear", on_body(COSTLY_BODY, SIREN))
    other = device(carol, scene.gateway, ["phone"])
    assert sound(other, scene.message(COSTLY_BODY)) == "siren"

    for n in range(COSTLY_RULES):
        scene.bob.delete_rule("phone", "override", f"costly-{n}")

    def is_made_up_for() -> bool:
        return sound(phone, scene.message(COSTLY_BODY)) == "siren"

    wait_until(is_made_up_for, "Bob's own rules in force again", timeout=60)
