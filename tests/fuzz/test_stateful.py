# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two users change their pushers and rules at random; the server must show what the model says.

After each step all pushers and rules of both are compared, so that neither influences the other:
with what each device of the one who made it reads, and has heard of in its syncs, since each may
have settings of its own.
"""

import time
from collections import Counter
from typing import Any

import attr
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from demo.client import JsonDict, Session, rules_path
from tests.conftest import FreshDeployment
from tests.fuzz import model
from tests.fuzz.budget import SECONDS, spend
from tests.harness.deployment import Deployment
from tests.server.helpers import SET_PUSHER, pusher
from tests.server.own_settings_helpers import own_path
from tests.server.syncing import classic

SCOPES = ["phone", "desk", "a/b"]
DEVICE_IDS = ["FIRST", "SECOND"]

USERS = st.integers(0, 1)
DEVICES = st.integers(0, 1)
APPS = st.sampled_from(["org.example.app", "org.example.other"])
PUSHKEY = "key"
# With duplicates, empty ones, and too many: at most 3 different ones are allowed.
TAGS = st.lists(st.sampled_from(["global", *SCOPES, "nowhere", *DEVICE_IDS]), max_size=5)

SOME_SCOPE = st.sampled_from(["phone", "phone", "global", "global", *SCOPES, *DEVICE_IDS])
KINDS = st.integers(0, 1)
IDS = st.sampled_from(["a", "b", "!room:synapse.test"])
NEIGHBOURS = st.sampled_from(["", "", "a", "b", "unheard-of"])
ACTIONS = st.sampled_from(
    [
        [],
        ["notify"],
        ["notify", {"set_tweak": "sound", "value": "ding"}],
        ["notify", {"set_tweak": "highlight", "value": False}],
    ]
)
CONDITIONS = st.sampled_from(
    [[], [{"kind": "event_match", "key": "content.body", "pattern": "x"}], [{"kind": "unheard-of"}]]
)
RULE_BODIES = st.fixed_dictionaries(
    {"actions": ACTIONS, "conditions": CONDITIONS, "pattern": st.sampled_from(["x", "*y?"])}
)

PUSHER_BODIES = st.fixed_dictionaries(
    {
        "app_id": APPS,
        "app_display_name": st.sampled_from(["A client", "Another"]),
        "profile_tag": st.sampled_from(["", "phone"]),
    },
    optional={
        "append": st.sampled_from([None, False, True]),
        "enabled": st.booleans(),
        "org.matrix.msc3881.enabled": st.booleans(),
        "profile_tags": TAGS,
        "org.matrix.msc3837.profile_tags": TAGS,
        # A client cannot say whose a pusher is.
        "device_id": st.just("SOMEBODY"),
    },
)
BAD_FIELDS = st.sampled_from(
    [
        {"enabled": None},
        {"org.matrix.msc3881.enabled": "false"},
        {"profile_tags": [""]},
        {"org.matrix.msc3837.profile_tags": None},
        {"data": {}},
        {"lang": 5},
    ]
)
BAD_RULES = st.sampled_from(
    [{}, {"actions": ["shout"], "conditions": [], "pattern": "x"}, {"actions": None}]
)
ECHOES = st.one_of(
    st.tuples(st.sampled_from(["enabled", "org.matrix.msc3881.enabled"]), st.booleans()),
    st.tuples(st.sampled_from(["profile_tags", "org.matrix.msc3837.profile_tags"]), TAGS),
)
#: Server-default rules, and one that is none.
DEFAULTS = st.sampled_from(
    [
        ("override", model.MASTER),
        ("override", ".m.rule.suppress_notices"),
        ("content", ".m.rule.contains_user_name"),
        ("underride", ".m.rule.message"),
        ("override", ".m.rule.unheard-of"),
    ]
)
#: The kinds of rules that may be about a room.
ROOM_KINDS = st.sampled_from(["room", "override", "underride"])

#: How many room upgrades there are in a sequence at most: one takes as long as many other steps.
UPGRADES = 4 if SECONDS else 2

#: How long a device may take to hear of a change: a logout is told a moment after it was answered,
#: and until then nothing that was written after it is news.
HEARD_SECONDS = 20.0


@attr.s(auto_attribs=True)
class Synced:
    """Where a device's next sync starts, and the rules that it has heard of last."""

    since: str
    rules: JsonDict | None


class Api(RuleBasedStateMachine):
    """The steps. Each goes to the server and to the model, whose statuses must agree."""

    deployment: Deployment
    keep_omitted: bool
    tried: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.models = [model.User(), model.User()]
        self.sessions: list[list[Session]] = []
        # What clients read at some time, and may send back whenever they like.
        self.lists: list[list[JsonDict]] = [[], []]
        self.synced: list[dict[str, Synced]] = [{}, {}]
        self.untouched: list[JsonDict] = []
        self.rooms: dict[int, str] = {}
        self.upgrades = self.first_syncs = 0
        self.acted = 0
        for user, _ in enumerate(self.models):
            first = self.deployment.register(device_id="FIRST")
            self.sessions.append([first, self.deployment.login(first, "SECOND")])
            self.untouched.append(first.get_rules("global"))
            for session in self.sessions[user]:
                self.sync(user, session, first.get_rules())
        self.tried["sequences"] += 1

    def teardown(self) -> None:
        for user, devices in zip(self.models, self.sessions, strict=True):
            for app_id, pushkey in user.pushers:
                devices[0].delete_pusher(pushkey, app_id)
            for session in devices:
                session.close()

    def step(
        self, user: int, device: int, method: str, where: str, body: JsonDict | None, status: int
    ) -> None:
        """Send a request, and hold its answer to what the model has it be."""
        response = self.sessions[user][device].request(method, where, body)
        self.acted = user
        self.tried["steps"] += 1
        assert response.status == status, response
        assert response.json == {} if status == 200 else response.errcode is not None

    def sync(self, user: int, session: Session, until: JsonDict) -> JsonDict | None:
        """The rules that a device has heard of, once they are those or none come any more."""
        known = self.synced[user].get(session.device_id)
        if known is None:
            # Another time each, or Synapse might give a device that is logged in again the answer
            # that it has kept of the one before.
            self.first_syncs += 1
            first = classic(session, timeout_ms=self.first_syncs)
            known = self.synced[user][session.device_id] = Synced(first.since, first.rules)
        deadline = time.monotonic() + HEARD_SECONDS
        timeout_ms = 0
        while True:
            news = classic(session, known.since, timeout_ms)
            if news.rules is not None:
                known.rules = news.rules
            timeout_ms = 0 if news.since != known.since else 1000
            known.since = news.since
            if known.rules == until or time.monotonic() > deadline:
                break
        return known.rules

    @initialize(kinds=st.permutations(model.KINDS))
    def choose_kinds(self, kinds: list[str]) -> None:
        """Two for the whole sequence: with all of them, steps would seldom meet."""
        self.kinds = kinds[:2]

    # Pushers

    @rule(user=USERS, device=DEVICES, fields=PUSHER_BODIES)
    def set_pusher(self, user: int, device: int, fields: JsonDict) -> None:
        self.send_pusher(user, device, {**pusher(PUSHKEY), **fields})

    @rule(user=USERS, device=DEVICES, change=ECHOES, data=st.data())
    def send_back_what_get_gave(
        self, user: int, device: int, change: tuple[str, Any], data: st.DataObject
    ) -> None:
        """As clients do: with one name of one field changed, and the other as it was."""
        session = self.sessions[user][device]
        shown = model.by_key(session.get_pushers())
        if not shown:  # No `assume`: that would end the sequence.
            return
        name, value = change
        echo = data.draw(st.sampled_from(shown))
        self.lists[user].append(echo)
        self.send_pusher(user, device, {**echo, name: value})

    @rule(user=USERS, device=DEVICES, change=ECHOES, repeat=st.booleans(), data=st.data())
    def send_back_what_get_gave_long_ago(
        self,
        user: int,
        device: int,
        change: tuple[str, Any],
        repeat: bool,
        data: st.DataObject,
    ) -> None:
        if not self.lists[user]:
            return
        name, value = change
        body = {**data.draw(st.sampled_from(self.lists[user])), name: value}
        for _ in range(1 + repeat):
            self.send_pusher(user, device, body)

    def send_pusher(self, user: int, device: int, body: JsonDict) -> None:
        session = self.sessions[user][device]
        takes_it = self.models[user].holds_the_phone(body, session.device_id)
        status = self.models[user].set_pusher(body, session.device_id, self.keep_omitted)
        if status == 200 and takes_it and not body.get("append"):
            self.models[1 - user].remove_pusher(body["app_id"], body["pushkey"])
        self.step(user, device, "POST", SET_PUSHER, body, status)

    @rule(user=USERS, device=DEVICES, fields=PUSHER_BODIES, bad=BAD_FIELDS)
    def set_a_bad_pusher(self, user: int, device: int, fields: JsonDict, bad: JsonDict) -> None:
        self.step(user, device, "POST", SET_PUSHER, pusher(PUSHKEY, **{**fields, **bad}), 400)

    @rule(user=USERS, device=DEVICES, app_id=APPS)
    def remove_pusher(self, user: int, device: int, app_id: str) -> None:
        self.models[user].remove_pusher(app_id, PUSHKEY)
        body = {"kind": None, "app_id": app_id, "pushkey": PUSHKEY}
        self.step(user, device, "POST", SET_PUSHER, body, 200)

    @rule(user=USERS)
    def log_out_and_in_again(self, user: int) -> None:
        first, second = self.sessions[user]
        self.models[user].log_out(second.device_id)
        second.logout()
        second.close()
        self.sessions[user][1] = self.deployment.login(first, second.device_id)
        del self.synced[user][second.device_id]
        self.acted = user
        self.tried["steps"] += 1

    # Rules

    @rule(
        user=USERS,
        device=DEVICES,
        scope=SOME_SCOPE,
        kind=KINDS,
        rule_id=IDS,
        body=RULE_BODIES,
        before=NEIGHBOURS,
        after=NEIGHBOURS,
    )
    def put_rule(
        self,
        user: int,
        device: int,
        scope: str,
        kind: int,
        rule_id: str,
        body: JsonDict,
        before: str,
        after: str,
    ) -> None:
        self.put(user, device, (scope, self.kinds[kind], rule_id), body, before, after)

    @rule(user=USERS, device=DEVICES, data=st.data(), body=RULE_BODIES, before=NEIGHBOURS)
    def write_a_rule_again(
        self, user: int, device: int, data: st.DataObject, body: JsonDict, before: str
    ) -> None:
        self.put(user, device, self.draw_rule(user, device, data), body, before)

    def put(
        self,
        user: int,
        device: int,
        where: tuple[str, str, str],
        body: JsonDict,
        before: str = "",
        after: str = "",
    ) -> None:
        status = self.models[user].put_rule(DEVICE_IDS[device], where, body, before, after)
        query = {"before": before or None, "after": after or None}
        self.step(user, device, "PUT", rules_path(*where, query=query), body, status)

    @rule(user=USERS, device=DEVICES, scope=SOME_SCOPE, kind=KINDS, rule_id=IDS, body=BAD_RULES)
    def put_a_bad_rule(
        self, user: int, device: int, scope: str, kind: int, rule_id: str, body: JsonDict
    ) -> None:
        where = rules_path(scope, self.kinds[kind], rule_id)
        self.step(user, device, "PUT", where, body, 400)

    @rule(user=USERS, device=DEVICES, data=st.data())
    def delete_rule(self, user: int, device: int, data: st.DataObject) -> None:
        where = self.draw_rule(user, device, data)
        status = self.models[user].delete_rule(DEVICE_IDS[device], where)
        self.step(user, device, "DELETE", rules_path(*where), None, status)

    @rule(user=USERS, device=DEVICES, data=st.data(), enabled=st.booleans())
    def enable_rule(self, user: int, device: int, data: st.DataObject, enabled: bool) -> None:
        where, found = self.some_rule(user, device, data)
        if found is not None:
            found.enabled = enabled
        status = 200 if found else 404
        self.step(user, device, "PUT", f"{where}/enabled", {"enabled": enabled}, status)

    @rule(user=USERS, device=DEVICES, data=st.data(), actions=ACTIONS)
    def change_actions(
        self, user: int, device: int, data: st.DataObject, actions: list[Any]
    ) -> None:
        where, found = self.some_rule(user, device, data)
        if found is not None:
            found.body = {**found.body, "actions": actions}
        status = 200 if found else 404
        self.step(user, device, "PUT", f"{where}/actions", {"actions": actions}, status)

    def some_rule(
        self, user: int, device: int, data: st.DataObject
    ) -> tuple[str, model.Rule | None]:
        """The path of a rule, mostly one that is there, and the model's rule."""
        scope, *name = self.draw_rule(user, device, data)
        rules = self.models[user].rules
        found = rules.find(rules.meant(DEVICE_IDS[device], scope), *name)
        return rules_path(scope, *name), found

    def draw_rule(self, user: int, device: int, data: st.DataObject) -> tuple[str, str, str]:
        """Scope, kind and id of a rule, mostly of one that is there, as a device names it."""
        rules = self.models[user].rules
        names = {rules.meant(DEVICE_IDS[device], "global"): "global"}
        there = [
            (name, kind, found.rule_id)
            for scope, kinds in sorted(rules.scopes.items())
            for name in {names.get(scope, scope): 0, scope: 0}
            if name != "global" or rules.meant(DEVICE_IDS[device], name) == scope
            for kind, order in sorted(kinds.items())
            for found in order
        ]
        any_rule = st.tuples(SOME_SCOPE, st.sampled_from(self.kinds), IDS)
        is_there = bool(there) and data.draw(st.integers(0, 4)) > 0
        where: tuple[str, str, str] = data.draw(st.sampled_from(there) if is_there else any_rule)
        return where

    # Server-default rules

    @rule(user=USERS, device=DEVICES, default=DEFAULTS, enabled=st.booleans())
    def enable_a_default_rule(
        self, user: int, device: int, default: tuple[str, str], enabled: bool
    ) -> None:
        self.change_default(user, device, default, "enabled", enabled)

    @rule(user=USERS, device=DEVICES, default=DEFAULTS, actions=ACTIONS)
    def change_actions_of_a_default_rule(
        self, user: int, device: int, default: tuple[str, str], actions: list[Any]
    ) -> None:
        self.change_default(user, device, default, "actions", actions)

    def change_default(
        self, user: int, device: int, default: tuple[str, str], attribute: str, value: Any
    ) -> None:
        rules = self.models[user].rules
        kind, rule_id = default
        is_one = any(rule_id == one["rule_id"] for one in self.untouched[user][kind])
        if is_one:
            scope = rules.meant(DEVICE_IDS[device], "global")
            rules.change_default(scope, default, attribute, value)
        where = rules_path("global", kind, rule_id, attribute)
        self.step(user, device, "PUT", where, {attribute: value}, 200 if is_one else 404)

    @rule(user=USERS, device=DEVICES, default=DEFAULTS)
    def delete_a_default_rule(self, user: int, device: int, default: tuple[str, str]) -> None:
        rules = self.models[user].rules
        status = rules.delete_default(rules.meant(DEVICE_IDS[device], "global"), default)
        self.step(user, device, "DELETE", rules_path("global", *default), None, status)

    # A device's own settings

    @initialize(user=USERS, of=st.sampled_from([[], [1], [1], [0, 1]]))
    def have_own_settings(self, user: int, of: list[int]) -> None:
        """From the first: else much of a sequence would go by without."""
        for device in of:
            self.switch(user, 0, device, on=True)

    @rule(user=USERS, device=DEVICES, of=DEVICES, on=st.booleans())
    def switch_own_settings(self, user: int, device: int, of: int, on: bool) -> None:
        """Also to what they are, which changes nothing."""
        self.switch(user, device, of, on)

    @precondition(lambda self: self.with_own())
    @rule(data=st.data(), upgrade=st.booleans(), as_global=st.booleans(), actions=ACTIONS)
    def switch_off_and_on(
        self, data: st.DataObject, upgrade: bool, as_global: bool, actions: list[Any]
    ) -> None:
        """Perhaps after an upgrade of a room that the settings have a rule about."""
        user, of = data.draw(st.sampled_from(self.with_own()))
        if upgrade and self.upgrades < UPGRADES:
            device, scope = (of, "global") if as_global else (1 - of, DEVICE_IDS[of])
            self.put_about_room(user, device, scope, "room", "", actions)
            self.upgrade(user)
            self.the_server_shows_what_the_model_says()
        self.switch(user, 1 - of, of, on=False)
        self.the_server_shows_what_the_model_says()
        self.switch(user, of, of, on=True)

    @precondition(lambda self: self.with_own())
    @rule(data=st.data(), as_global=st.booleans(), kind=KINDS, rule_id=IDS, body=RULE_BODIES)
    def write_to_own_settings(
        self, data: st.DataObject, as_global: bool, kind: int, rule_id: str, body: JsonDict
    ) -> None:
        """As the device's own app does, or as a client does that knows of device scopes."""
        user, of = data.draw(st.sampled_from(self.with_own()))
        device, scope = (of, "global") if as_global else (1 - of, DEVICE_IDS[of])
        self.put(user, device, (scope, self.kinds[kind], rule_id), body)

    def with_own(self) -> list[tuple[int, int]]:
        """The users and devices that have settings of their own."""
        return [
            (user, device)
            for user, each in enumerate(self.models)
            for device, name in enumerate(DEVICE_IDS)
            if name in each.rules.own
        ]

    def switch(self, user: int, device: int, of: int, on: bool) -> None:
        status = self.models[user].rules.switch(DEVICE_IDS[of], on)
        self.step(user, device, "PUT", own_path(DEVICE_IDS[of]), {"enabled": on}, status)
        for reader in self.sessions[user]:
            is_on = reader.call("GET", own_path(DEVICE_IDS[of]))
            assert is_on == {"enabled": DEVICE_IDS[of] in self.models[user].rules.own}

    # Rooms

    @rule(
        user=USERS,
        device=DEVICES,
        scope=SOME_SCOPE,
        kind=ROOM_KINDS,
        rule_id=IDS,
        actions=ACTIONS,
    )
    def put_a_rule_about_a_room(
        self, user: int, device: int, scope: str, kind: str, rule_id: str, actions: list[Any]
    ) -> None:
        self.put_about_room(user, device, scope, kind, rule_id, actions)

    def put_about_room(
        self, user: int, device: int, scope: str, kind: str, rule_id: str, actions: list[Any]
    ) -> None:
        if user not in self.rooms:
            self.rooms[user] = self.sessions[user][0].create_room(room_version="10")
        room = self.rooms[user]
        condition = {"kind": "event_match", "key": "room_id", "pattern": room}
        body: JsonDict = {"actions": actions, "conditions": [condition]}
        self.put(user, device, (scope, kind, room if kind == "room" else rule_id), body)

    @precondition(lambda self: self.upgrades < UPGRADES)
    @rule(
        user=USERS, device=DEVICES, scope=SOME_SCOPE, kind=ROOM_KINDS, rule_id=IDS, actions=ACTIONS
    )
    def upgrade_a_room(
        self, user: int, device: int, scope: str, kind: str, rule_id: str, actions: list[Any]
    ) -> None:
        """With a rule about it at least, unless there may be no further scope."""
        self.put_about_room(user, device, scope, kind, rule_id, actions)
        self.upgrade(user)

    def upgrade(self, user: int) -> None:
        new = self.sessions[user][0].upgrade_room(self.rooms[user], "11")
        self.models[user].rules.upgrade_room(self.rooms[user], new)
        self.rooms[user] = new
        self.upgrades += 1
        self.tried["room upgrades"] += 1

    # What it comes to

    @invariant()
    def the_server_shows_what_the_model_says(self) -> None:
        for number, (user, devices) in enumerate(zip(self.models, self.sessions, strict=True)):
            assert model.by_key(devices[0].get_pushers()) == user.shown_pushers()
            for session in devices if number == self.acted else devices[1:]:
                shown = user.rules.shown(session.device_id, self.untouched[number])
                assert session.get_rules() == shown, session.device_id

    @invariant()
    def the_devices_have_heard_of_it(self) -> None:
        user, untouched = self.models[self.acted], self.untouched[self.acted]
        for session in self.sessions[self.acted]:
            shown = user.rules.shown(session.device_id, untouched)
            assert self.sync(self.acted, session, shown) == shown, session.device_id


@pytest.mark.parametrize("keep_omitted", [False, True])
def test_pushers_and_rules_are_those_of_the_model(
    fresh_deployment: FreshDeployment, tried: Counter[str], keep_omitted: bool
) -> None:
    limits = {
        "profile_tags_per_pusher": model.TAG_LIMIT,
        "device_scopes_per_user": model.SCOPE_LIMIT,
    }
    deployment = fresh_deployment(module_config={"keep_omitted": keep_omitted, "limits": limits})
    given = {"deployment": deployment, "keep_omitted": keep_omitted, "tried": tried}
    machine = type("Api", (Api,), given)

    def run(budget: settings) -> None:
        run_state_machine_as_test(machine, settings=settings(budget, stateful_step_count=60))
        deployment.assert_log_is_clean()

    spend(run, examples=8, round_of=8)
