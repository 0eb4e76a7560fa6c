# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two users change their pushers and rules at random; the server must show what the model says.

After each step all pushers and rules of both are compared, so that neither influences the other.
"""

from collections import Counter
from typing import Any

import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from demo.client import JsonDict, Response, Session, rules_path
from tests.conftest import FreshDeployment
from tests.fuzz import model
from tests.fuzz.budget import spend
from tests.harness.deployment import Deployment
from tests.server.helpers import SET_PUSHER, own_rules, pusher, set_pusher

SCOPES = ["phone", "desk", "a/b"]

USERS = st.integers(0, 1)
DEVICES = st.integers(0, 1)
APPS = st.sampled_from(["org.example.app", "org.example.other"])
PUSHKEY = "key"
# With duplicates, empty ones, and too many: at most 3 different ones are allowed.
TAGS = st.lists(st.sampled_from(["global", *SCOPES, "nowhere"]), max_size=5)

SOME_SCOPE = st.sampled_from(["phone", "phone", "global", *SCOPES])
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
        for _ in self.models:
            first = self.deployment.register(device_id="FIRST")
            self.sessions.append([first, self.deployment.login(first, "SECOND")])
        self.tried["sequences"] += 1

    def teardown(self) -> None:
        for user, devices in zip(self.models, self.sessions, strict=True):
            for app_id, pushkey in user.pushers:
                devices[0].delete_pusher(pushkey, app_id)
            for session in devices:
                session.close()

    def step(self, response: Response, status: int) -> None:
        self.tried["steps"] += 1
        assert response.status == status, response
        assert response.json == {} if status == 200 else response.errcode is not None

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
        assume(shown)
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
        assume(self.lists[user])
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
        self.step(session.request("POST", SET_PUSHER, body), status)

    @rule(user=USERS, device=DEVICES, fields=PUSHER_BODIES, bad=BAD_FIELDS)
    def set_a_bad_pusher(self, user: int, device: int, fields: JsonDict, bad: JsonDict) -> None:
        response = set_pusher(self.sessions[user][device], **{**fields, **bad})
        self.step(response, 400)

    @rule(user=USERS, device=DEVICES, app_id=APPS)
    def remove_pusher(self, user: int, device: int, app_id: str) -> None:
        self.models[user].remove_pusher(app_id, PUSHKEY)
        body = {"kind": None, "app_id": app_id, "pushkey": PUSHKEY}
        self.step(self.sessions[user][device].request("POST", SET_PUSHER, body), 200)

    @rule(user=USERS)
    def log_out_and_in_again(self, user: int) -> None:
        first, second = self.sessions[user]
        self.models[user].log_out(second.device_id)
        second.logout()
        second.close()
        self.sessions[user][1] = self.deployment.login(first, second.device_id)
        self.tried["steps"] += 1

    # Rules

    @rule(
        user=USERS,
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
        scope: str,
        kind: int,
        rule_id: str,
        body: JsonDict,
        before: str,
        after: str,
    ) -> None:
        status = self.models[user].rules.put(scope, self.kinds[kind], rule_id, body, before, after)
        query = {"before": before or None, "after": after or None}
        self.put(user, rules_path(scope, self.kinds[kind], rule_id, query=query), body, status)

    @rule(user=USERS, data=st.data(), body=RULE_BODIES, before=NEIGHBOURS)
    def write_a_rule_again(
        self, user: int, data: st.DataObject, body: JsonDict, before: str
    ) -> None:
        where = self.draw_rule(user, data)
        status = self.models[user].rules.put(*where, body, before, "")
        self.put(user, rules_path(*where, query={"before": before or None}), body, status)

    @rule(user=USERS, scope=SOME_SCOPE, kind=KINDS, rule_id=IDS, body=BAD_RULES)
    def put_a_bad_rule(
        self, user: int, scope: str, kind: int, rule_id: str, body: JsonDict
    ) -> None:
        self.put(user, rules_path(scope, self.kinds[kind], rule_id), body, 400)

    @rule(user=USERS, scope=SOME_SCOPE, kind=KINDS, rule_id=IDS)
    def delete_rule(self, user: int, scope: str, kind: int, rule_id: str) -> None:
        status = self.models[user].rules.delete(scope, self.kinds[kind], rule_id)
        where = rules_path(scope, self.kinds[kind], rule_id)
        self.step(self.sessions[user][0].request("DELETE", where), status)

    @rule(user=USERS, data=st.data(), enabled=st.booleans())
    def enable_rule(self, user: int, data: st.DataObject, enabled: bool) -> None:
        where, found = self.some_rule(user, data)
        if found is not None:
            found.enabled = enabled
        self.put(user, f"{where}/enabled", {"enabled": enabled}, 200 if found else 404)

    @rule(user=USERS, data=st.data(), actions=ACTIONS)
    def change_actions(self, user: int, data: st.DataObject, actions: list[Any]) -> None:
        where, found = self.some_rule(user, data)
        if found is not None:
            found.body = {**found.body, "actions": actions}
        self.put(user, f"{where}/actions", {"actions": actions}, 200 if found else 404)

    def some_rule(self, user: int, data: st.DataObject) -> tuple[str, model.Rule | None]:
        """The path of a rule, mostly one that is there, and the model's rule."""
        where = self.draw_rule(user, data)
        return rules_path(*where), self.models[user].rules.find(*where)

    def draw_rule(self, user: int, data: st.DataObject) -> tuple[str, str, str]:
        """Scope, kind and id of a rule, mostly of one that is there."""
        rules = self.models[user].rules
        there = [
            (scope, kind, found.rule_id)
            for scope, kinds in sorted(rules.scopes.items())
            for kind, order in sorted(kinds.items())
            for found in order
        ]
        any_rule = st.tuples(SOME_SCOPE, st.sampled_from(self.kinds), IDS)
        is_there = bool(there) and data.draw(st.integers(0, 4)) > 0
        where: tuple[str, str, str] = data.draw(st.sampled_from(there) if is_there else any_rule)
        return where

    def put(self, user: int, where: str, body: JsonDict, status: int) -> None:
        self.step(self.sessions[user][1].request("PUT", where, body), status)

    # What it comes to

    @invariant()
    def the_server_shows_what_the_model_says(self) -> None:
        for user, devices in zip(self.models, self.sessions, strict=True):
            assert model.by_key(devices[0].get_pushers()) == user.shown_pushers()
            shown = devices[1].get_rules()
            assert {**shown, "global": own_rules(shown["global"])} == user.rules.shown()


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
