# SPDX-License-Identifier: AGPL-3.0-or-later
"""The outcome of an evaluation, stored in a row and decided from it."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapse_msc3881.cascade.outcomes import (
    FAILED,
    MARK,
    MAX_ACTIONS_BYTES,
    Suppressed,
    fingerprint,
    is_mark,
    with_outcomes,
    without_mark,
)
from synapse_msc3881.cascade.profile_tags import Match, walk
from synapse_msc3881.cascade.rulesets import to_json
from synapse_msc3881.cascade.stored_outcomes import Outcomes
from synapse_msc3881.storage.push_actions import _OURS
from tests.harness.rows import has_highlight, row_of, row_text

TWEAK = {"set_tweak": "sound", "value": "siren"}
HIGHLIGHT = {"set_tweak": "highlight"}

SCOPES = st.sampled_from(["phone", "tablet", "ß/%_"])
TAGS = st.lists(st.sampled_from(["global", "phone", "tablet", "ß/%_", "nothing"]), max_size=5)
ACTIONS: st.SearchStrategy[list[Any]] = st.lists(
    st.sampled_from(["notify", "dont_notify", TWEAK, HIGHLIGHT]), max_size=3
)
RULES = st.none() | st.sampled_from(["room/!a:b", "content/", "override/ß%"])
MATCHES = st.dictionaries(
    SCOPES,
    st.builds(Match, ACTIONS, RULES)
    | st.builds(Suppressed, st.sampled_from([".m.rule.master", ".m.rule.reaction"]), RULES),
)


@given(TAGS, st.none() | ACTIONS, MATCHES)
def test_deciding_from_the_row_is_walking_over_what_matched(
    tags: list[str], global_actions: list[Any] | None, scopes: dict[str, Match | Suppressed]
) -> None:
    """`global_actions` is None where no global rule matched."""
    notifies = global_actions is not None and "notify" in global_actions
    outcomes = dict(scopes)
    if global_actions is not None and not notifies:
        outcomes["global"] = Match([])
    row = row_of(with_outcomes(global_actions or [], outcomes))

    read = Outcomes.read(row, notifies)
    decision = read.decide(tags)

    matches = {scope: match for scope, match in scopes.items() if isinstance(match, Match)}
    if global_actions is not None:
        matches["global"] = Match(global_actions if notifies else [])
    expected = walk(tags, matches.get)
    assert (decision is None) == (expected is None)
    if decision is not None and expected is not None:
        assert (decision.scope, decision.actions) == (expected.scope, expected.actions)

    # And the names come back for who knows them.
    names = {
        (fingerprint(scope), fingerprint(match.rule)): match.rule
        for scope, match in scopes.items()
        if match.rule is not None
    }
    named = read.named(lambda: names)
    for scope, match in scopes.items():
        is_match = isinstance(match, Match)
        assert named.match_in(scope) == (match if is_match else None)
        assert named.suppressed_in(scope) == (None if is_match else match)
    # Who does not know them sees none.
    assert not any(match.rule for match in read.named(dict).matches.values())


@given(ACTIONS, MATCHES)
def test_synapse_reads_from_the_row_what_it_would_without_us(
    actions: list[Any], scopes: dict[str, Match | Suppressed]
) -> None:
    stored = with_outcomes(actions, scopes)
    row = row_of(stored)
    notifies = "notify" in actions
    assert without_mark(row) == (actions if notifies else [])
    # What it counts, before it writes the row.
    assert ("notify" in stored) == notifies
    assert has_highlight(stored) == (notifies and has_highlight(actions))


@given(ACTIONS, MATCHES)
def test_a_row_is_written_as_synapse_would_write_it(
    actions: list[Any], scopes: dict[str, Match | Suppressed]
) -> None:
    stored = with_outcomes(actions, scopes)
    text = row_text(stored)
    assert text == stored.text == to_json(json.loads(text))
    # And others' rows as ever.
    assert row_text(actions) == to_json(actions)
    # Should Synapse not ask for the text, everybody goes by `global`.
    assert Outcomes.read(list(stored), "notify" in stored).failed


@given(MATCHES)
def test_a_row_that_only_a_device_scope_made_is_found_by_its_beginning(
    scopes: dict[str, Match | Suppressed],
) -> None:
    for row in (with_outcomes([], scopes), [FAILED, "notify"]):
        assert row_text(row).startswith(_OURS)


@given(TAGS, ACTIONS)
def test_a_row_without_our_mark_is_a_match_of_global(tags: list[str], actions: list[Any]) -> None:
    row = ["notify", *actions]
    assert Outcomes.read(row, True).decide(tags) == walk(tags, {"global": Match(row)}.get)


@given(TAGS, ACTIONS)
def test_after_a_failure_every_pusher_goes_by_global(tags: list[str], actions: list[Any]) -> None:
    row = row_of([FAILED, "notify", *actions])
    for outcomes in (Outcomes.read(row, True), Outcomes.of_global(row, True)):
        decision = outcomes.decide(tags)
        assert decision is not None
        assert (decision.scope, list(decision.actions)) == ("global", ["notify", *actions])
        assert outcomes.failed


@pytest.mark.parametrize(
    "broken",
    [
        "text",
        1,
        True,
        [1],
        [[]],
        [["a", "b"]],
        [["a", "b", ["notify"], 1]],
        [["a", "b", None]],
        [["a", "b", 0]],
        [["a", "b", []], ["c", "d", 1]],
        [["a", "b", []], ["c", "d", -1]],
        [["a", "b", []], ["c", "d", False]],
        [["a", "b", {}]],
        [["a", 5, []]],
        [[None, "b", []]],
        {"phone": "notify"},
        {"phone": None},
        {"phone": {}},
        {"phone": {"room/!a:b": "notify"}},
        {"phone": {"room/!a:b": ["notify"], "room/!b:c": []}},
        {"phone": {"room/!a:b": {"room/!a:b": []}}},
    ],
)
def test_a_broken_mark_is_an_error(broken: object) -> None:
    with pytest.raises(ValueError, match="outcome"):
        Outcomes.read(["notify", {MARK: broken}], True)
    assert Outcomes.of_global(["notify", {MARK: broken}], True).matches == {
        "global": Match(["notify"])
    }


def test_rows_of_the_first_releases_are_read() -> None:
    row = [
        {MARK: {"phone": {"content/pizza": ["notify", TWEAK]}, "tv": [], "global": []}},
    ]
    read = Outcomes.read(row, False)
    assert read.named(dict) == read
    assert read.matches == {
        "phone": Match(["notify", TWEAK], "content/pizza"),
        "tv": Match([]),
        "global": Match([]),
    }
    decision = read.decide(["x", "phone"])
    assert decision is not None
    assert decision.match == Match(["notify", TWEAK], "content/pizza")


NAMES = st.text(min_size=1, max_size=300)
LARGE: st.SearchStrategy[list[Any]] = st.lists(
    st.sampled_from(["notify", "dont_notify", TWEAK, HIGHLIGHT])
    | st.builds(
        lambda name, value: {"set_tweak": name, "value": value},
        st.sampled_from(["sound", "highlight"]) | NAMES,
        st.none() | st.booleans() | st.integers(0, 2**40).map(lambda number: "x" * (number % 900)),
    ),
    max_size=8,
)


@given(
    st.dictionaries(
        NAMES, st.builds(Match, LARGE, NAMES) | st.just(Suppressed(".m.rule.a", "b")), max_size=20
    )
)
def test_what_a_row_holds_of_our_own_is_bounded(scopes: dict[str, Match | Suppressed]) -> None:
    compact = with_outcomes([], scopes).text
    assert len(compact) <= 2048

    read = Outcomes.read(json.loads(compact), False)
    for scope, match in scopes.items():
        found = read.match_in(scope)
        if isinstance(match, Suppressed):
            assert found is None
            assert read.suppressed_in(scope) is not None
        else:
            # What is silent stays silent, and what rings rings.
            assert found is not None
            assert found.notifies == match.notifies
    assert not any(name in compact for name in scopes if len(name) > 20)


def test_actions_without_room_are_stored_in_short() -> None:
    long = {"set_tweak": "org.example", "value": "x" * (MAX_ACTIONS_BYTES - 100)}
    quiet = {"set_tweak": "highlight", "value": False}
    scopes: dict[str, Match | Suppressed] = {
        "a": Match(["notify", long]),
        "b": Match(["notify", long]),
        "c": Match(["notify", {**TWEAK, "value": "siren" * 40}, long]),
        "d": Match(["notify", quiet, {**long, "set_tweak": "x"}]),
        "e": Match([{**long, "set_tweak": "y"}]),
        "f": Match([HIGHLIGHT, "notify", {**long, "set_tweak": "z"}]),
        "g": Match(["notify", TWEAK]),
    }
    read = Outcomes.read(row_of(with_outcomes([], scopes)), False)

    actions = {}
    for scope in scopes:
        match = read.match_in(scope)
        assert match is not None
        actions[scope] = match.actions
    assert actions == {
        "a": ["notify", long],
        "b": ["notify", long],
        "c": ["notify", {"set_tweak": "sound", "value": "default"}],
        "d": ["notify"],
        "e": [],
        "f": ["notify", HIGHLIGHT],
        "g": ["notify", TWEAK],
    }


def test_what_is_the_same_to_python_only_is_not_shared() -> None:
    one: list[Any] = ["notify", {"set_tweak": "urgent", "value": 1}]
    true: list[Any] = ["notify", {"set_tweak": "urgent", "value": True}]
    row = row_of(with_outcomes([], {"phone": Match(one), "tablet": Match(true)}))
    outcomes = Outcomes.read(row, False)
    for scope, actions in (("phone", one), ("tablet", true)):
        match = outcomes.match_in(scope)
        assert match is not None
        assert to_json(list(match.actions)) == to_json(actions)


def test_long_actions_of_global_are_not_kept_in_memory() -> None:
    """Synapse before 1.157.2 does not bound them, and a user may write others at each event."""
    tracemalloc.start()
    try:
        for number in range(20):
            sound = {"set_tweak": "sound", "value": f"{number}" * 50_000}
            row_text(with_outcomes(["notify", sound], {"phone": Match([])}))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1_000_000  # The last ones of all are still at hand.


def test_what_no_pusher_can_send_is_left_out() -> None:
    bad: list[Any] = [{"set_tweak": []}, {"set_tweak": 5, "value": 1}, {"value": 1}, 5, None]
    row = row_of(with_outcomes(["notify", *bad], {"phone": Match([*bad, "notify", TWEAK])}))
    for tag, expected in (("phone", ["notify", TWEAK]), ("global", ["notify"])):
        match = Outcomes.read(row, True).match_in(tag)
        assert match is not None
        assert match.actions == expected


def test_no_tweak_of_a_user_is_taken_for_our_mark() -> None:
    forged: dict[str, Any] = {"set_tweak": "x", MARK: [["global", None, []]]}
    row: list[Any] = ["notify", forged]
    assert without_mark(row) == row
    assert Outcomes.read(row, True).match_in("global") == Match(row)


def test_only_our_mark_is_taken_out() -> None:
    assert is_mark(FAILED)
    for action in ("notify", MARK, HIGHLIGHT, {"set_tweak": MARK}, 1, None):
        assert not is_mark(action)
    assert without_mark([FAILED, "notify", HIGHLIGHT]) == ["notify", HIGHLIGHT]
