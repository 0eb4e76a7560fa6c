# SPDX-License-Identifier: AGPL-3.0-or-later
"""Compiling and matching a device scope, against evaluating its rules one by one.

Both run Synapse's own evaluator. The oracle compiles each rule alone, asks in the order of
priority whether it matches, and stops at the first that does.
"""

import json
from collections.abc import Sequence
from typing import Any

import attr
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import event as note
from hypothesis import strategies as st
from synapse.storage.databases.main.push_rule import _load_rules
from synapse.synapse_rust.push import get_base_rule_ids

from synapse_msc3881.cascade.profile_tags import Actions, Match
from synapse_msc3881.cascade.rulesets import KINDS, DeviceRule, by_priority, to_json
from synapse_msc3881.evaluation.compilation import GlobalCompilation
from synapse_msc3881.evaluation.compiling import Compiler, RawRule
from synapse_msc3881.evaluation.conditions import is_costly
from synapse_msc3881.evaluation.evaluator import match_scopes
from synapse_msc3881.evaluation.matching import (
    CompiledScope,
    SilentGlobal,
    UserScopes,
)
from synapse_msc3881.evaluation.prefilter import searchable
from synapse_msc3881.evaluation.running import EventFacts, mark_of
from synapse_msc3881.seams import RuleCompiler
from tests.harness.compiling import compile_scope, compile_user
from tests.harness.occasions import (
    ACTIONS,
    CONDITIONS,
    EXTENSIBLE_EVENTS,
    EXTENSIBLE_OFF,
    FLAGS,
    MATCHED,
    MESSAGE,
    OCCASIONS,
    ROOMS,
    SENDERS,
    SETTINGS,
    USER,
    VERSIONS,
    Occasion,
    Running,
    Setting,
    device_rules,
    facts,
    rule,
    runner,
)

# --- The oracle ---------------------------------------------------------------------------------


def first_match(rules: list[DeviceRule], occasion: Occasion, setting: Setting) -> Match | None:
    """The first rule that matches, each rule evaluated alone."""
    run = runner(occasion, setting)
    order = ("override", "content", "room", "sender", "underride")
    by_kind = {kind: [one for one in rules if one.kind == kind] for kind in order}
    for kind in order:
        for one in sorted(by_kind[kind], key=lambda one: -one.priority):
            if not one.enabled:
                continue
            conditions = json.loads(one.conditions)
            if kind in ("room", "sender"):
                key = "room_id" if kind == "room" else "sender"
                conditions = [{"kind": "event_property_is", "key": key, "value": one.rule_id}]
            alone = RawRule("x", 5, json.dumps(conditions), to_json(MATCHED))
            if run(setting.compiler.compile([alone])) == MATCHED:
                note(kind)
                return Match(json.loads(one.actions), one.name)
    note("no match")
    return None


def found(rules: list[DeviceRule], occasion: Occasion, setting: Setting) -> Actions | None:
    """The actions that the module finds, as `Evaluation` asks for them."""
    match = found_match(rules, occasion, setting)
    return None if match is None else match.actions


def found_match(rules: list[DeviceRule], occasion: Occasion, setting: Setting) -> Match | None:
    scopes = compile_user(rules, [("phone",)], setting.compiler.compile)
    if scopes is None:
        return None
    event = facts(occasion, setting)
    matches = match_scopes(scopes, Running(runner(occasion, setting)), event)
    if matches:
        assert scopes.could_match(event)
    return matches.get("phone")


# --- Compiling and matching ---------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(device_rules(), OCCASIONS, SETTINGS)
def test_a_scope_matches_as_its_rules_do_one_by_one(
    rules: list[DeviceRule], occasion: Occasion, setting: Setting
) -> None:
    assert found_match(rules, occasion, setting) == first_match(rules, occasion, setting)


@pytest.mark.parametrize("room_version", [*VERSIONS])
@pytest.mark.parametrize("flags", [(), ("msc1767_enabled",), FLAGS], ids=["off", "1767", "on"])
@settings(max_examples=10, deadline=None)
@given(device_rules(), OCCASIONS)
def test_a_scope_matches_so_in_every_room_version(
    room_version: str, flags: Sequence[str], rules: list[DeviceRule], occasion: Occasion
) -> None:
    setting = Setting(frozenset(flags), room_version)
    assert found_match(rules, occasion, setting) == first_match(rules, occasion, setting)


EXTENSIBLE = Setting(frozenset(["msc1767_enabled"]), "org.matrix.msc1767.10")


@pytest.mark.parametrize("kind", ["override", "room", "sender", "underride"])
def test_in_rooms_with_extensible_events_rules_must_ask_for_the_room_version(kind: str) -> None:
    rule_id = {"room": ROOMS[0], "sender": SENDERS[0]}.get(kind, "a")
    unaware = rule(kind, rule_id, ["notify"])
    assert found([unaware], MESSAGE, Setting(frozenset(), "10")) == ["notify"]
    assert found([unaware], MESSAGE, EXTENSIBLE) is None
    supports = {
        "kind": "org.matrix.msc3931.room_version_supports",
        "feature": EXTENSIBLE_EVENTS,
    }
    aware = rule("underride", "aware", ["coalesce"], [supports])
    assert found([unaware, aware], MESSAGE, EXTENSIBLE) == ["coalesce"]


@pytest.mark.parametrize("actions", [[], ["dont_notify"], ["notify"], [{"set_tweak": "mark"}]])
@pytest.mark.parametrize("kind", [*KINDS])
def test_a_silent_match_is_a_match(kind: str, actions: list[Any]) -> None:
    rule_id = {"room": ROOMS[0], "sender": SENDERS[0]}.get(kind, "a")
    pattern = [{"kind": "event_match", "key": "content.body", "pattern": "hello"}]
    conditions = pattern if kind == "content" else []
    silent = rule(kind, rule_id, actions, conditions)
    assert found_match([silent], MESSAGE, EXTENSIBLE_OFF) == Match(actions, f"{kind}/{rule_id}")


def test_a_scope_with_only_disabled_rules_is_none() -> None:
    disabled = attr.evolve(rule("room", ROOMS[0], ["notify"]), enabled=False)
    assert compile_scope([disabled], EXTENSIBLE_OFF.compiler.compile) is None
    assert compile_scope([], EXTENSIBLE_OFF.compiler.compile) is None


def test_a_scope_of_room_and_sender_rules_never_runs_the_evaluator() -> None:
    rules = [rule("room", ROOMS[0], ["notify"]), rule("sender", SENDERS[0], [])]
    scope = compile_scope(rules, EXTENSIBLE_OFF.compiler.compile)
    assert scope is not None

    def refuse(_: Any) -> Sequence[Any]:
        raise AssertionError("the evaluator was run")

    run = Running(refuse, is_over=True)
    nothing = searchable({})
    in_room = scope.match(run, EventFacts(refuse, ROOMS[0], SENDERS[0], nothing, False))
    by_sender = scope.match(run, EventFacts(refuse, ROOMS[1], SENDERS[0], nothing, False))
    assert in_room == Match(["notify"], f"room/{ROOMS[0]}")
    assert by_sender == Match([], f"sender/{SENDERS[0]}")
    assert scope.match(run, EventFacts(refuse, ROOMS[1], SENDERS[1], nothing, False)) is None
    assert scope.match(run, EventFacts(refuse, None, None, nothing, False)) is None
    assert run.skipped == 0


CHEAP = {"kind": "event_match", "key": "type", "pattern": "m.room.message"}


def body(pattern: str) -> dict[str, str]:
    return {"kind": "event_match", "key": "content.body", "pattern": pattern}


WORD = body("noon")
WILD = {"kind": "event_match", "key": "type", "pattern": "m.*"}


@pytest.mark.parametrize(
    ("conditions", "groups"),
    [
        ([], []),
        ([[CHEAP], [], [CHEAP, CHEAP]], [(3, False)]),
        ([[WORD], [WORD]], [(2, True)]),
        ([[CHEAP], [WORD], [WORD], [CHEAP]], [(1, False), (2, True), (1, False)]),
        ([[WORD], [WILD], [WILD], [WORD]], [(4, True)]),
        ([[CHEAP]] * 24, [(24, False)]),
        ([[CHEAP], [CHEAP] * 1000, [CHEAP]], [(1, False), (1, True), (1, False)]),
    ],
    ids=str,
)
def test_costly_rules_are_in_other_groups_than_cheap_ones(
    conditions: list[Any], groups: list[tuple[int, bool]]
) -> None:
    rules = [rule("override", f"{n}", [], each) for n, each in enumerate(conditions)]
    scope = compile_scope([rule("room", ROOMS[0], []), *rules], EXTENSIBLE_OFF.compiler.compile)
    assert scope is not None
    assert [(len(each.matches), each.tests.is_costly) for each in scope.groups] == groups


def test_the_size_of_what_is_compiled_grows_with_rules_and_their_text() -> None:
    def size(*rules: DeviceRule) -> int:
        scopes = compile_user(rules, [("phone",)], EXTENSIBLE_OFF.compiler.compile)
        assert scopes is not None
        return scopes.size

    word, wild = rule("override", "1", [], [WORD]), rule("override", "2", [], [WILD])
    long = rule("override", "3", [], [{**WORD, "pattern": "noon" * 200}])
    room, sender = rule("room", ROOMS[0], []), rule("sender", SENDERS[0], [])
    assert 0 < size(room) < size(room, sender) < size(word) < size(word, wild)
    assert size(long) > size(word) + 2 * 790
    # What a user takes anyway is counted once.
    assert 0 < size(room) + size(word) - size(room, word) < size(room)


def test_an_event_is_costly_where_default_rules_may_be_run() -> None:
    assert not facts(MESSAGE, EXTENSIBLE_OFF).is_costly
    assert facts(MESSAGE, EXTENSIBLE).is_costly


@settings(max_examples=300, deadline=None)
@given(st.lists(CONDITIONS, max_size=2), OCCASIONS, SETTINGS)
def test_rules_that_only_compare_say_the_same_for_all_users(
    conditions: list[Any], occasion: Occasion, setting: Setting
) -> None:
    assume(not is_costly(conditions))
    compiled = setting.compiler.compile([RawRule("x", 5, to_json(conditions), to_json(MATCHED))])
    evaluator = occasion.evaluator(setting)
    _, _, *thread = occasion.user()
    bob = evaluator.run(compiled, USER, "Bob", *thread) == MATCHED
    note("match" if bob else "no match")
    for user_id, display_name, subscribed in (
        (USER, None, True),
        (SENDERS[0], "hello", False),
        ("@world:example.org", "m.room.message", None),
    ):
        user = (user_id, display_name, *[subscribed for _ in thread])
        assert (evaluator.run(compiled, *user) == MATCHED) is bob


def test_rules_that_only_compare_are_run_once_for_an_event() -> None:
    compile_rules = EXTENSIBLE_OFF.compiler.compile
    run = Running(runner(MESSAGE, EXTENSIBLE_OFF))
    two_members = {"kind": "room_member_count", "is": "2"}

    def match(conditions: Any, event: EventFacts) -> Match | None:
        # Compiled anew for each user, with an action of their own.
        scope = compile_scope([rule("override", "1", ["notify"], conditions)], compile_rules)
        assert scope is not None
        return scope.match(run, event)

    once = facts(MESSAGE, EXTENSIBLE_OFF)
    for _ in range(3):
        assert match([CHEAP, two_members], once) == Match(["notify"], "override/1")
        assert match([{**CHEAP, "pattern": "m.room.messages"}], once) is None
    assert run.runs == 1
    assert match([CHEAP, two_members], facts(MESSAGE, EXTENSIBLE_OFF)) is not None
    assert run.runs == 2
    for _ in range(2):
        assert match([WILD], once) is not None
    assert run.runs == 4


def test_rules_that_compare_ascii_are_not_run_at_all() -> None:
    def runs(conditions: list[Any], occasion: Occasion, setting: Setting) -> int:
        scope = compile_scope([rule("override", "1", [], conditions)], setting.compiler.compile)
        assert scope is not None
        run = Running(runner(occasion, setting))
        scope.match(run, facts(occasion, setting))
        return run.runs

    topic = {"kind": "event_match", "key": "content.topic", "pattern": "KEYS"}
    message, odd = (
        attr.evolve(MESSAGE, keys={**MESSAGE.keys, "content.topic": text})
        for text in ("keys", "\N{KELVIN SIGN}eys")
    )
    assert runs([CHEAP, topic], message, EXTENSIBLE_OFF) == 0
    # Whether these match, only Synapse knows.
    assert runs([CHEAP, topic], odd, EXTENSIBLE_OFF) == 1
    assert runs([CHEAP, {**topic, "pattern": "\N{KELVIN SIGN}eys"}], message, EXTENSIBLE_OFF) == 1
    assert runs([CHEAP, topic], message, EXTENSIBLE) == 1


def test_users_share_what_their_rules_ask_for_whatever_their_names_and_actions() -> None:
    compiler = Compiler(EXTENSIBLE_OFF.compiler.compile)
    (one,), (other,) = (
        compiler.compile([rule("override", name, actions, [CHEAP])], lambda *_: None).groups
        for name, actions in (("1", ["notify"]), ("2", []))
    )
    assert one.tests is other.tests
    assert (one.matches, other.matches) == (
        (Match(["notify"], "override/1"),),
        (Match([], "override/2"),),
    )


# --- What it costs ------------------------------------------------------------------------------


def scope_of(*conditions: Any) -> CompiledScope:
    rules = [rule("override", f"{n}", [], each) for n, each in enumerate(conditions)]
    scope = compile_scope(
        [rule("room", ROOMS[0], ["notify"]), *rules], EXTENSIBLE_OFF.compiler.compile
    )
    assert scope is not None
    return scope


def test_of_rules_with_patterns_only_that_is_run_which_looks_like_a_match() -> None:
    """To find that a word is part of another one takes Synapse half a millisecond."""
    near_misses = [[body(f"word{n}")] for n in range(30)]
    text = " ".join(f"xword{n}x" for n in range(30))
    event = attr.evolve(MESSAGE, keys={**MESSAGE.keys, "content.body": f"{text} noon"})
    run = Running(runner(event, EXTENSIBLE_OFF))
    match = scope_of(*near_misses, [WORD]).match(run, facts(event, EXTENSIBLE_OFF))
    assert match == Match([], "override/30")
    assert run.runs == 1


def test_who_runs_the_rules_is_asked_before_patterns_and_told_what_they_take() -> None:
    run = Running(lambda _: [])
    event = facts(MESSAGE, EXTENSIBLE_OFF)
    assert scope_of([CHEAP, {"kind": "room_member_count", "is": "77"}]).match(run, event)
    assert (run.runs, run.work_ns) == (1, [])
    assert scope_of([WILD]).match(run, event)
    assert run.runs == 2
    *looks, run_ns = run.work_ns
    assert len(looks) == 2
    assert 0 < sum(looks) < 10_000
    assert run_ns > 400_000


def test_a_rule_with_the_user_s_name_takes_what_the_name_takes() -> None:
    """Synapse makes a pattern of a name with wildcards, which its user chooses."""
    named = attr.evolve(MESSAGE, display_name="é*?" * 85)
    for occasion, least, most in ((MESSAGE, 400_000, 500_000), (named, 2_000_000, 10_000_000)):
        run = Running(runner(occasion, EXTENSIBLE_OFF), name=occasion.display_name)
        scope_of([{"kind": "contains_display_name"}]).match(run, facts(occasion, EXTENSIBLE_OFF))
        assert least < sum(run.work_ns) < most


def test_patterns_that_may_not_be_run_do_not_match_and_all_else_does() -> None:
    event = facts(MESSAGE, EXTENSIBLE_OFF)
    for already_over in (True, False):
        run = Running(runner(MESSAGE, EXTENSIBLE_OFF), left=0, is_over=already_over)
        by_pattern = scope_of([WILD])
        assert by_pattern.match(run, event) == Match(["notify"], f"room/{ROOMS[0]}")
        assert (run.runs, run.skipped) == (0, 1)
        # In their order.
        comparing = scope_of([WILD], [CHEAP], [WILD], [CHEAP])
        assert comparing.match(run, event) == Match([], "override/1")


def test_comparing_with_long_texts_is_paid_for_and_with_others_not() -> None:
    long = attr.evolve(MESSAGE, keys={**MESSAGE.keys, "content.x": ["x"] * 50_000})
    event = facts(long, EXTENSIBLE_OFF)
    unknown = {"kind": "room_member_count", "is": "77"}
    in_list = {"kind": "event_property_contains", "key": "content.x", "value": "x"}
    run = Running(runner(long, EXTENSIBLE_OFF))
    assert scope_of([CHEAP], [unknown]).match(run, event) == Match([], "override/0")
    assert run.work_ns == []
    assert scope_of([in_list, unknown]).match(run, event) == Match(["notify"], f"room/{ROOMS[0]}")
    assert sum(run.work_ns) >= 500_000
    assert scope_of([in_list]).match(Running(run.native, left=0), event) is not None


def test_in_rooms_with_extensible_events_all_that_is_run_is_paid_for() -> None:
    supports = {"kind": "org.matrix.msc3931.room_version_supports", "feature": EXTENSIBLE_EVENTS}
    run = Running(runner(MESSAGE, EXTENSIBLE))
    rules = [rule("override", "1", [], [CHEAP, {"kind": "room_member_count", "is": "77"}])]
    scope = compile_scope(
        [*rules, rule("override", "2", [], [supports])], EXTENSIBLE.compiler.compile
    )
    assert scope is not None
    assert scope.match(run, facts(MESSAGE, EXTENSIBLE)) == Match([], "override/2")
    assert max(run.work_ns) >= 1_000_000


@pytest.mark.parametrize(
    "broken",
    [
        {"conditions": "no JSON"},
        {"conditions": "{}"},
        {"conditions": '[{"kind":"event_match"}]', "kind": "override"},
        {"kind": "unknown"},
        {"actions": "no JSON"},
    ],
    ids=str,
)
def test_a_row_that_is_no_rule_is_left_out(broken: Any) -> None:
    # Two of them, among others of a group.
    rows = [attr.evolve(rule("override", name, ["notify"]), **broken) for name in ("a", "c")]
    fine = [rule("override", name, [name], [CHEAP]) for name in ("b", "d")]
    assert found(rows, MESSAGE, EXTENSIBLE_OFF) is None
    assert found([rows[0], fine[0], rows[1], fine[1]], MESSAGE, EXTENSIBLE_OFF) == ["b"]
    assert found([rows[0], rows[1], fine[1]], MESSAGE, EXTENSIBLE_OFF) == ["d"]


@pytest.mark.parametrize(
    "broken",
    [
        {"conditions": "no JSON"},
        {"actions": "no JSON"},
        {"actions": "{}"},
        {"actions": "no JSON", "kind": "sender"},
    ],
    ids=str,
)
def test_each_row_that_is_no_rule_is_reported(broken: Any) -> None:
    rows = [attr.evolve(rule("override", name, ["notify"]), **broken) for name in ("a", "c")]
    fine = [rule("override", name, ["notify"], [CHEAP]) for name in ("b", "d")]
    bad = []
    compile_user([*rows, *fine], [("phone",)], COMPILER, lambda row, _: bad.append(row.rule_id))
    assert sorted(bad) == ["a", "c"]


@pytest.mark.parametrize(
    ("actions", "mark"),
    [
        ([], None),
        ([{"set_tweak": "mark", "value": 7}], 7),
        # Those of server-default rules.
        (["notify"], None),
        ([{"set_tweak": "sound", "value": "default"}, "notify"], None),
    ],
    ids=str,
)
def test_a_mark_is_read_from_what_the_evaluator_returned(
    actions: list[Any], mark: int | None
) -> None:
    assert mark_of(actions) == mark


# --- Which scopes of a user ---------------------------------------------------------------------

COMPILER = EXTENSIBLE_OFF.compiler.compile


def in_scope(tag: str, enabled: bool = True) -> DeviceRule:
    return attr.evolve(rule("room", ROOMS[0], ["notify"]), profile_tag=tag, enabled=enabled)


def test_only_scopes_that_a_pusher_lists_are_compiled() -> None:
    rules = [in_scope("phone"), in_scope("tv"), in_scope("off", enabled=False)]
    scopes = compile_user(rules, [("phone", "global"), ("off",)], COMPILER)
    assert scopes is not None
    assert set(scopes.scopes) == {"phone"}
    assert compile_user(rules, [("off", "global"), ("nothing",)], COMPILER) is None
    assert compile_user([], [("phone",)], COMPILER) is None


@pytest.mark.parametrize(
    ("tags", "needed"),
    [
        (("global", "phone"), True),
        (("tv", "global", "nothing", "phone"), True),
        (("phone", "global"), False),
        (("phone",), False),
        (("global", "nothing"), False),
        (("global", "off"), False),
    ],
)
def test_whether_global_matched_is_asked_for_those_who_walk_on(
    tags: tuple[str, ...], needed: bool
) -> None:
    rules = [in_scope("phone"), in_scope("off", enabled=False)]
    for lists in ([("phone",), tags], [tags, ("phone", "global")]):
        scopes = compile_user(rules, lists, COMPILER)
        assert scopes is not None
        assert scopes.needs_global_match is needed


# --- Whether `global` matched at all ------------------------------------------------------------

GlobalRules = tuple[list[tuple[str, int, str, str]], dict[str, bool]]


@st.composite
def global_rules(draw: st.DrawFn) -> GlobalRules:
    """A user's rows of push rules, highest priority first, and which rules are on or off."""
    rows = []
    rules = by_priority(draw(device_rules()))
    for row in rules:
        conditions = row.conditions
        if row.kind in ("room", "sender"):
            key = "room_id" if row.kind == "room" else "user_id"
            match = {"kind": "event_match", "key": key, "pattern": row.rule_id}
            conditions = to_json([match])
        rule_id = f"global/{row.kind}/{row.rule_id}"
        rows.append((rule_id, KINDS[row.kind], conditions, row.actions))
    defaults = draw(st.lists(st.sampled_from(sorted(get_base_rule_ids())), unique=True, max_size=4))
    rows += [(rule_id, -1, "[]", to_json(draw(ACTIONS))) for rule_id in defaults]
    switched = draw(
        st.dictionaries(st.sampled_from(sorted(get_base_rule_ids())), st.booleans(), max_size=30)
    )
    off = {row[0]: rule.enabled for row, rule in zip(rows, rules, strict=False)}
    return rows, {**off, **switched}


MUTED: GlobalRules = ([], {"global/override/.m.rule.master": True})


@settings(max_examples=200, deadline=None)
@given(global_rules(), OCCASIONS, SETTINGS)
@example(MUTED, MESSAGE, EXTENSIBLE_OFF)
@example(([], {}), MESSAGE, EXTENSIBLE_OFF)
@example(([], {}), MESSAGE, EXTENSIBLE)
def test_marked_global_matches_where_any_global_rule_does(
    rules: GlobalRules, occasion: Occasion, setting: Setting
) -> None:
    rows, enabled = rules
    native = _load_rules(rows, enabled, setting.experimental)
    run = runner(occasion, setting)
    everything_off = dict.fromkeys(get_base_rule_ids(), False)

    def matches_alone(rule: Any) -> bool:
        conditions = json.dumps(list(rule.conditions))
        row = (rule.rule_id, rule.priority_class, conditions, to_json(MATCHED))
        alone = {**everything_off, rule.rule_id: True}
        return bool(run(_load_rules([row], alone, setting.experimental)))

    expected = any(matches_alone(rule) for rule, is_on in native.rules() if is_on)
    if run(native):
        assert expected
    else:
        silent = find_silent(native, setting.compiler)
        assert silent.matches(Running(run), facts(occasion, setting)) == expected


def find_silent(native: Any, compiler: RuleCompiler) -> SilentGlobal:
    compilation = GlobalCompilation(Compiler(compiler.compile), compiler, native)
    for _ in compilation.steps():
        assert not compilation.so_far().is_complete
    return compilation.so_far()


def test_what_is_not_known_of_global_counts_as_matching() -> None:
    scopes = UserScopes({}, are_many=False, needs_global_match=True)
    run = Running(runner(MESSAGE, EXTENSIBLE_OFF))
    event = facts(MESSAGE, EXTENSIBLE_OFF)
    everything_off = dict.fromkeys(get_base_rule_ids(), False)
    nothing, other = (
        _load_rules([], everything_off, EXTENSIBLE_OFF.experimental) for _ in range(2)
    )
    assert scopes.matches_global(nothing, run, event)
    scopes.silent_global = find_silent(nothing, EXTENSIBLE_OFF.compiler)
    assert not scopes.matches_global(nothing, run, event)
    # It was changed.
    assert scopes.matches_global(other, run, event)


def test_what_may_not_be_run_of_global_counts_as_matching() -> None:
    row = ("global/override/wild", 5, to_json([{**WILD, "pattern": "m.*.nothing"}]), "[]")
    everything_off = dict.fromkeys(get_base_rule_ids(), False)
    native = _load_rules([row], everything_off, EXTENSIBLE_OFF.experimental)
    silent = find_silent(native, EXTENSIBLE_OFF.compiler)
    event = facts(MESSAGE, EXTENSIBLE_OFF)
    assert not silent.matches(Running(runner(MESSAGE, EXTENSIBLE_OFF)), event)
    assert silent.matches(Running(runner(MESSAGE, EXTENSIBLE_OFF), is_over=True), event)
