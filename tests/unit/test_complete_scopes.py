# SPDX-License-Identifier: AGPL-3.0-or-later
"""The complete scope of a device with settings of its own, against Synapse's own evaluator.

The oracle compiles the same rules as a user's `global` ones, in one go, and runs them.
"""

import json
from collections.abc import Mapping, Sequence
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
    return scopes.scopes["phone"].match(Running(runner(occasion, setting), left), event)


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


# --- Several devices of a user ------------------------------------------------------------------

NO_NOTICES = {"override/.m.rule.suppress_notices": DefaultChange(enabled=False)}


def matches_of(
    devices: Sequence[Mapping[str, DefaultChange]], occasion: Occasion, run: Running
) -> list[Any]:
    """What matches for each of the devices, which have these changes."""
    compiler = Compiler(PLAIN.compiler.compile, PLAIN.compiler.compile_complete)
    own = {str(number): OwnSettings(str(number), changes) for number, changes in enumerate(devices)}
    compilation = Compilation(compiler, [], [], _fail, own=own)
    for _ in compilation.steps():
        pass
    scopes = compilation.so_far()
    assert scopes is not None
    event = facts(occasion, PLAIN)
    return [scope.match(run, event) for scope in scopes.scopes.values()]


def test_devices_with_the_same_changes_cost_as_much_as_one() -> None:
    run = Running(runner(MESSAGE, PLAIN))
    first, *others = matches_of([{}, NO_NOTICES, {}, NO_NOTICES, {}], MESSAGE, run)
    assert others == [first] * 4
    assert run.runs == 2


def test_only_one_device_has_the_user_s_name_looked_for_without_paying() -> None:
    """A name can be made so that looking for it takes milliseconds."""
    named = attr.evolve(MESSAGE, keys={**MESSAGE.keys, "content.body": "hello Bob"})
    devices = [{}, NO_NOTICES, {"override/.m.rule.reaction": DefaultChange(enabled=False)}]
    named_rule, plain_rule = (
        "override/.m.rule.contains_display_name",
        "underride/.m.rule.room_one_to_one",
    )
    for left, expected in (
        (9, [named_rule] * 3),
        (1, [named_rule, named_rule, plain_rule]),
        (0, [named_rule, plain_rule, plain_rule]),
    ):
        run = Running(runner(named, PLAIN), left)
        assert [match.rule for match in matches_of(devices, named, run)] == expected
        assert run.skipped == expected.count(plain_rule)
    # Where there is no text, or no such rule, nobody is asked.
    run = Running(runner(MATCHED_BY_NONE, PLAIN), 0)
    assert matches_of(devices, MATCHED_BY_NONE, run) == [None] * 3
    names = ("override/.m.rule.contains_display_name", "content/.m.rule.contains_user_name")
    off = {name: DefaultChange(enabled=False) for name in (*names, "override/.m.rule.roomnotif")}
    run = Running(runner(named, PLAIN), 0)
    matches_of([off, {**off, **NO_NOTICES}], named, run)
    assert run.skipped == 0


MATCHED_BY_NONE = attr.evolve(MESSAGE, keys={"type": "org.example.nothing", "room_id": ROOMS[0]})
