# SPDX-License-Identifier: AGPL-3.0-or-later
"""The complete scope of a device with settings of its own, against Synapse's own evaluator.

The oracle compiles the same rules as a user's `global` ones, in one go, and runs them.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import attr
import pytest
from hypothesis import event as note
from hypothesis import given, settings
from hypothesis import strategies as st
from synapse.storage.databases.main.push_rule import _load_rules

from synapse_msc3881.cascade.own_settings import DefaultChange, OwnSettings, complete_rows
from synapse_msc3881.cascade.profile_tags import Match
from synapse_msc3881.cascade.rulesets import DeviceRule, to_json
from synapse_msc3881.evaluation.compilation import Compilation
from synapse_msc3881.evaluation.compiling import Compiler
from synapse_msc3881.evaluation.matching import UserScopes
from synapse_msc3881.evaluation.running import Run, RunNative
from synapse_msc3881.evaluation.spending import EventShare, MeteredRun, Spending
from tests.harness.occasions import (
    FLAGS,
    MATCHED,
    MESSAGE,
    OCCASIONS,
    ROOMS,
    SETTINGS,
    VERSIONS,
    Occasion,
    Running,
    Setting,
    device_rules,
    facts,
    rule,
    runner,
)

PLAIN = Setting(frozenset(), "10")
DEFAULT_IDS = sorted(
    found.rule_id[len("global/") :]
    for found, _ in _load_rules([], {}, SimpleNamespace(**dict.fromkeys(FLAGS, True))).rules()  # type: ignore[arg-type]
)
NOTIFY: list[Any] = ["notify", {"set_tweak": "sound", "value": "bell"}]
CHANGES = st.builds(
    DefaultChange,
    actions=st.sampled_from([None, None, to_json([]), to_json(["notify"]), to_json(NOTIFY)]),
    enabled=st.sampled_from([None, True, False]),
)
# Each of them seldom, or else little would get past the master rule.
DEFAULTS = st.dictionaries(st.sampled_from([*DEFAULT_IDS, "override/.gone"]), CHANGES, max_size=6)


def own(defaults: Mapping[str, DefaultChange] | None = None) -> OwnSettings:
    return OwnSettings("phone", defaults or {})


def with_plain_ids(rules: Sequence[DeviceRule]) -> list[DeviceRule]:
    """Without ids that hold the names of proposals: in `global` Synapse leaves those rules out."""
    return [
        each
        if each.kind in ("room", "sender")
        else attr.evolve(each, rule_id=f"r{number}-{each.kind}")
        for number, each in enumerate(rules)
    ]


def compiled(
    rules: Sequence[DeviceRule], settings_: OwnSettings, setting: Setting = PLAIN
) -> UserScopes:
    compiler = Compiler(setting.compiler.compile, setting.compiler.compile_complete)
    compilation = Compilation(compiler, rules, [], _fail, own={"phone": settings_})
    for _ in compilation.steps():
        pass
    scopes = compilation.so_far()
    assert scopes is not None
    return scopes


def _fail(rule: DeviceRule, error: BaseException) -> None:
    raise AssertionError(rule) from error


def found(
    rules: Sequence[DeviceRule],
    settings_: OwnSettings,
    occasion: Occasion,
    setting: Setting = PLAIN,
    left: int = 1_000_000,
) -> Match | None:
    event = facts(occasion, setting)
    scopes = compiled(rules, settings_, setting)
    assert scopes.could_match(event)
    # As the only one of its user, and as one of several: these are run in different ways.
    only, one_of_several = (
        scopes.scopes["phone"].match(
            Running(runner(occasion, setting), left, complete_scopes=number, user=occasion.user()),
            event,
        )
        for number in (1, 2)
    )
    assert only == one_of_several
    return only


def matching_by_id(each: DeviceRule) -> DeviceRule:
    """The rule with conditions, as a rule about a room or a sender matches in a device scope."""
    if each.kind not in ("room", "sender"):
        return each
    key = "room_id" if each.kind == "room" else "sender"
    condition = {"kind": "event_property_is", "key": key, "value": each.rule_id}
    return attr.evolve(each, conditions=to_json([condition]))


def oracle(
    rules: Sequence[DeviceRule], settings_: OwnSettings, occasion: Occasion, setting: Setting
) -> Match | None:
    """What Synapse makes of these as the rules of `global`; the name only for a silent match."""
    rows, enabled = complete_rows(map(matching_by_id, rules), settings_)
    known = {each.rule_id for each, _ in _load_rules([], {}, setting.experimental).rules()}
    rows = [row for row in rows if row[1] > 0 or row[0] in known]
    run = runner(occasion, setting)
    loaded = _load_rules(rows, enabled, setting.experimental)
    actions = run(loaded)
    matched = _names_of_matches(rows, enabled, run, setting)
    return Match(actions, matched[0]) if matched else None


def _names_of_matches(
    rows: Sequence[tuple[str, int, str, str]],
    enabled: Mapping[str, bool],
    run: Any,
    setting: Setting,
) -> Sequence[str]:
    """The rules that match, in the order of evaluation, each of them run alone."""
    names = []
    every = _load_rules(list(rows), dict(enabled), setting.experimental).rules()
    defaults = {each.rule_id for each, _ in every if each.default}
    for each, is_on in every:
        if not is_on:
            continue
        switches = {name: name == each.rule_id for name in defaults}
        conditions = json.dumps(list(each.conditions))
        alone = [(each.rule_id, each.priority_class, conditions, to_json(MATCHED))]
        if run(_load_rules(alone, switches, setting.experimental)) == MATCHED:
            names.append(each.rule_id[len("global/") :])
    return names


def without_noops(match: Match | None) -> Match | None:
    if match is None:
        return None
    return Match(
        [each for each in match.actions if each not in ("dont_notify", "coalesce")], match.rule
    )


@settings(max_examples=150, deadline=None)
@given(device_rules(), DEFAULTS, OCCASIONS, SETTINGS)
def test_it_matches_as_the_same_rules_do_in_global(
    rules: list[DeviceRule],
    defaults: dict[str, DefaultChange],
    occasion: Occasion,
    setting: Setting,
) -> None:
    rules = with_plain_ids(rules)
    expected = oracle(rules, own(defaults), occasion, setting)
    note("no match" if expected is None else (expected.rule or "").partition("/")[0])
    assert without_noops(found(rules, own(defaults), occasion, setting)) == expected


@pytest.mark.parametrize("room_version", [*VERSIONS])
@settings(max_examples=4, deadline=None)
@given(device_rules(), DEFAULTS, OCCASIONS)
def test_it_does_so_in_every_room_version(
    room_version: str,
    rules: list[DeviceRule],
    defaults: dict[str, DefaultChange],
    occasion: Occasion,
) -> None:
    setting = Setting(frozenset(FLAGS), room_version)
    rules = with_plain_ids(rules)
    expected = oracle(rules, own(defaults), occasion, setting)
    assert without_noops(found(rules, own(defaults), occasion, setting)) == expected


def test_the_oracle_tells_of_all_kinds() -> None:
    rules = [rule("room", ROOMS[0], []), rule("underride", "u", ["notify"])]
    match = oracle(rules, own(), MESSAGE, PLAIN)
    assert match == Match([], f"room/{ROOMS[0]}")
    assert oracle([], own(), MESSAGE, PLAIN) == Match(
        [
            "notify",
            {"set_tweak": "sound", "value": "default"},
            {"set_tweak": "highlight", "value": False},
        ],
        "underride/.m.rule.room_one_to_one",
    )


def test_a_user_who_is_in_debt_keeps_the_server_default_rules_and_what_is_muted() -> None:
    word = {"kind": "event_match", "key": "content.body", "pattern": "hel*"}
    rules = [
        rule("override", "dear", NOTIFY, [word]),
        rule("room", ROOMS[0], []),
    ]
    elsewhere = attr.evolve(MESSAGE, keys={**MESSAGE.keys, "room_id": ROOMS[2]})
    assert found(rules, own(), MESSAGE) == Match(NOTIFY, "override/dear")
    assert found(rules, own(), MESSAGE, left=0) == Match([], f"room/{ROOMS[0]}")
    match = found(rules, own(), elsewhere, left=0)
    assert match is not None
    assert match.rule == "underride/.m.rule.room_one_to_one"


def test_the_master_rule_comes_before_all_others() -> None:
    master = {"override/.m.rule.master": DefaultChange(enabled=True)}
    match = found([rule("override", "o", NOTIFY)], own(master), MESSAGE)
    assert match == Match([], "override/.m.rule.master")


def test_users_share_the_server_default_rules() -> None:
    compiler = Compiler(PLAIN.compiler.compile, PLAIN.compiler.compile_complete)
    changed = {"override/.m.rule.reaction": DefaultChange(enabled=False)}
    assert compiler.complete_defaults({}) is compiler.complete_defaults({})
    first = compiler.complete_defaults(changed)
    assert compiler.complete_defaults(dict(changed)) is first
    assert first is not compiler.complete_defaults({})


# --- Who is asked -------------------------------------------------------------------------------

MENTIONS = "content.m\\.mentions.user_ids"
LONG_S, KELVIN, SHARP_S, SIGMA = "\u017f", "\u212a", "\u00df", "\u03c2"
LETTERS = f"aKkSs {LONG_S}{KELVIN}{SHARP_S}{SIGMA}\u03a3\u03c3\u0130i.*?"


def asked_of(message: Occasion, users: Sequence[tuple[str, str | None]]) -> list[str]:
    """The users for whom the default rules are run, on one event, besides once for nobody."""
    settings_ = compiled([], own())
    event, asked = facts(message, PLAIN), []
    native = message.evaluator(PLAIN).run
    for user in users:
        run = Running(partial(_run_for, native, user), user=user, complete_scopes=1)
        settings_.scopes["phone"].match(run, event)
        asked += [user[0]] * run.runs
    return asked


def _run_for(native: RunNative, user: tuple[Any, ...], rules: Any) -> Sequence[Any]:
    return native(rules, *user)


def test_the_default_rules_are_run_for_those_whom_an_event_names_or_mentions_and_no_others() -> (
    None
):
    named, mentioned, other = "@al:example.org", "@bo:example.org", "@cy:example.org"
    users = [(named, "Al"), (mentioned, "Bo"), (other, "Cy"), ("@hell:example.org", None)]
    keys = {**MESSAGE.keys, "content.body": "hello al", MENTIONS: [mentioned, "@no:example.org"]}
    message = attr.evolve(MESSAGE, keys=keys)
    # Of the last, the name is in the text, though not as a word: Synapse decides that.
    assert asked_of(message, users) == [named, mentioned, "@hell:example.org"]
    long = attr.evolve(MESSAGE, keys={**keys, "content.body": "hello " * 1000})
    assert asked_of(long, users) == [each for each, _ in users]
    no_text = attr.evolve(MESSAGE, keys={"type": "m.room.encrypted", "room_id": ROOMS[0]})
    assert asked_of(no_text, [*users, ("@d:example.org", "*")]) == ["@d:example.org"]


def test_what_all_users_have_in_common_is_run_once_for_an_event() -> None:
    runs: list[Any] = []
    native = MESSAGE.evaluator(PLAIN).run

    def run_native(*args: Any) -> Sequence[Any]:
        runs.append(args)
        actions: Sequence[Any] = native(*args)
        return actions

    event = attr.evolve(facts(MESSAGE, PLAIN), run_native=run_native)
    scope = compiled([], own()).scopes["phone"]
    for number in range(5):
        user = (f"@{number}:example.org", "Somebody")
        match = scope.match(Running(run_native, user=user, complete_scopes=1), event)
        assert match is not None
        assert match.rule == ONE_TO_ONE
    # Those that compare, and the one that looks for "@room".
    assert [user for _, *user in runs] == [[None, None]] * 2


@settings(max_examples=150, deadline=None)
@given(
    st.text(LETTERS, max_size=4) | st.none(),
    st.sampled_from(["", "s", "K.a", SHARP_S, "*"]),
    st.text(LETTERS, max_size=4),
    st.booleans(),
)
def test_no_name_in_a_text_is_missed(
    name: str | None, localpart: str, text: str, capitals: bool
) -> None:
    """Whatever Synapse takes for the same letters."""
    inside = (name or localpart).upper() if capitals else (name or localpart).lower()
    for body in (text, f"{text} {inside} {text}", text + inside):
        message = attr.evolve(
            MESSAGE, display_name=name, keys={**MESSAGE.keys, "content.body": body}
        )
        native = message.evaluator(PLAIN).run
        user = (f"@{localpart}:example.org", name)
        run = Running(partial(_run_for, native, user), user=user, complete_scopes=1)
        match = compiled([], own()).scopes["phone"].match(run, facts(message, PLAIN))
        at_once = native(_load_rules([], {}, PLAIN.experimental), *user)
        note("named" if run.runs else "not named")
        assert match is not None
        assert match.actions == at_once


# --- Several devices of a user ------------------------------------------------------------------


def matches_of(
    devices: Sequence[Mapping[str, DefaultChange]], occasion: Occasion, run: Run
) -> list[str | None]:
    """The rules that match for each of the devices, which have these changes."""
    compiler = Compiler(PLAIN.compiler.compile, PLAIN.compiler.compile_complete)
    own = {str(number): OwnSettings(str(number), changes) for number, changes in enumerate(devices)}
    compilation = Compilation(compiler, [], [], _fail, own=own)
    for _ in compilation.steps():
        pass
    scopes = compilation.so_far()
    assert scopes is not None
    event = facts(occasion, PLAIN)
    if isinstance(run, MeteredRun):
        event = attr.evolve(event, run_native=run.run_native)
    matches = [scope.match(run, event) for scope in scopes.scopes.values()]
    return [None if match is None else match.rule for match in matches]


NAMED = "override/.m.rule.contains_display_name"
ONE_TO_ONE = "underride/.m.rule.room_one_to_one"


@pytest.mark.parametrize("changed", [None, "override/.gone"])
def test_devices_with_the_same_changes_cost_as_much_as_one(changed: str | None) -> None:
    changes = {changed: DefaultChange(enabled=False)} if changed else {}
    one, five = Running(runner(MESSAGE, PLAIN)), Running(runner(MESSAGE, PLAIN))
    assert matches_of([changes] * 5, MESSAGE, five) == matches_of([changes], MESSAGE, one) * 5
    assert one.runs == five.runs


@pytest.mark.parametrize(("name", "expected"), [("Hello", NAMED), ("Bob", ONE_TO_ONE)])
def test_a_user_with_one_device_is_asked_at_once_if_named_and_else_not(
    name: str, expected: str
) -> None:
    message = attr.evolve(MESSAGE, display_name=name)
    run = Running(runner(message, PLAIN), complete_scopes=1, user=message.user())
    assert matches_of([{}], message, run) == [expected]
    assert run.runs == (expected == NAMED)


@pytest.mark.parametrize(
    ("body", "expected", "is_searched"),
    [
        ("hello", ONE_TO_ONE, False),
        ("hello Bobby", ONE_TO_ONE, True),
        ("hello Bob", NAMED, True),
    ],
)
def test_a_text_is_searched_once_however_many_devices_a_user_has(
    body: str, expected: str, is_searched: bool
) -> None:
    """A name can be made so that looking for it takes milliseconds, which nobody pays for."""
    message = attr.evolve(MESSAGE, keys={**MESSAGE.keys, "content.body": body})
    devices = [
        {name: DefaultChange(enabled=False)}
        for name in ("override/.gone", "override/.m.rule.reaction", NAMED)
    ]
    native = message.evaluator(PLAIN).run
    searched: Counter[str] = Counter()

    def run_native(rules: Any, *user: Any) -> Sequence[Any]:
        searched.update(
            each.rule_id for each, is_on in rules.rules() if is_on and _searches(each.conditions)
        )
        actions: Sequence[Any] = native(rules, *user)
        return actions

    spending = Spending(lambda: 0.0, lambda: 0.0)
    run = MeteredRun(run_native, message.user(), spending, EventShare(), len(devices))
    # The last of them does not go by the display name; its user's other name is "bob".
    by_user_name = "content/.m.rule.contains_user_name" if expected == NAMED else expected
    assert matches_of(devices, message, run) == [expected, expected, by_user_name]
    assert set(searched.values()) == {1}
    assert (f"global/{NAMED}" in searched) is is_searched


def _searches(conditions: Sequence[Mapping[str, Any]]) -> bool:
    return any(
        each["kind"] == "contains_display_name" or each.get("key") == "content.body"
        for each in conditions
    )
