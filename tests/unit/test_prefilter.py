# SPDX-License-Identifier: AGPL-3.0-or-later
"""The test before the evaluator, against the evaluator: it never rules out a match."""

import json
from typing import Any

import pytest
from hypothesis import event as note
from hypothesis import example, given, settings
from hypothesis import strategies as st

from synapse_msc3881.evaluation.compiling import RawRule
from synapse_msc3881.evaluation.prefilter import (
    Hints,
    Needs,
    could_match,
    has_much_text,
    has_wildcard,
    hints_of,
    is_costly,
    is_hinted_at,
    needs_of,
    searchable,
)
from tests.unit.test_matching import EXTENSIBLE_OFF, MATCHED, MESSAGE, Occasion, runner

# Letters whose case folds in odd ways.
LONG_S, KELVIN, DOTTED_I, DOTLESS_I = "\u017f", "\u212a", "\u0130", "\u0131"
SHARP_S, CAPITAL_SHARP_S, SIGMAS, DOT, LIGATURE = "ß", "ẞ", "Σς\u03c3", "\u0307", "\ufb01"
LETTERS = (
    f"sS{LONG_S}kK{KELVIN}iI{DOTTED_I}{DOTLESS_I}{DOT}{SHARP_S}{CAPITAL_SHARP_S}{SIGMAS}f{LIGATURE}"
    "aA éÉ."
)
TEXTS = st.text(LETTERS, max_size=8)
PATTERNS = st.text(LETTERS + "**??", max_size=6)
KEYS = st.sampled_from(["content.body", "content.topic"])
KINDS = st.sampled_from(["event_match", "event_property_is"])

FOLDED = {"kind": "event_match", "key": "content.topic", "pattern": "*sk"}


def occasion(keys: dict[str, Any]) -> Occasion:
    return Occasion({**MESSAGE.keys, **keys}, None, False, 2, 0, None)


def matches(conditions: list[Any], event: Occasion) -> bool:
    row = RawRule("x", 5, json.dumps(conditions), json.dumps(MATCHED))
    compiled = EXTENSIBLE_OFF.compiler.compile([row])
    return runner(event, EXTENSIBLE_OFF)(compiled) == MATCHED


@st.composite
def conditions_and_events(draw: st.DrawFn) -> tuple[list[Any], Occasion]:
    """Conditions, and an event whose texts were made from their patterns."""
    conditions: list[Any] = []
    texts: dict[str, Any] = {}
    for _ in range(draw(st.integers(1, 2))):
        key, pattern = draw(KEYS), draw(PATTERNS)
        if draw(KINDS) == "event_match":
            conditions.append({"kind": "event_match", "key": key, "pattern": pattern})
        else:
            conditions.append({"kind": "event_property_is", "key": key, "value": pattern})
        text = "".join(
            draw(TEXTS) if character in "*?" else draw(st.sampled_from(_like(character)))
            for character in pattern
        )
        texts[key] = draw(st.sampled_from([text, f"{text} s", text.upper(), text.lower(), None]))
    return conditions, occasion(texts)


def _like(character: str) -> list[str]:
    """A character, and those of `LETTERS` that are the same without case."""
    return [character] + [each for each in LETTERS if each.casefold() == character.casefold()]


@settings(max_examples=500, deadline=None)
@given(conditions_and_events())
@example(([FOLDED], occasion({"content.topic": f"-{LONG_S}{KELVIN}"})))
def test_no_match_is_ruled_out(case: tuple[list[Any], Occasion]) -> None:
    conditions, event = case
    needs = [needs_of(conditions)]
    possible = could_match(needs, searchable(event.keys))
    if possible:
        assert is_hinted_at(hints_of(needs), searchable(event.keys))
    if matches(conditions, event):
        note("match")
        assert possible
    else:
        note("no match, ruled out" if not possible else "no match, not ruled out")


def test_the_example_above_is_a_match() -> None:
    """Or else it would show nothing."""
    assert matches([FOLDED], occasion({"content.topic": f"-{LONG_S}{KELVIN}"}))


BODY = {"content.body": "Lunch at NOON?", "content.number": 3, "content.list": ["a"]}


@pytest.mark.parametrize(
    ("condition", "possible"),
    [
        ({"kind": "event_match", "key": "content.body", "pattern": "noon"}, True),
        ({"kind": "event_match", "key": "content.body", "pattern": "L*?Noon"}, True),
        ({"kind": "event_match", "key": "content.body", "pattern": "lunch*dinner"}, False),
        ({"kind": "event_match", "key": "content.body", "pattern": "*é*"}, True),
        ({"kind": "event_match", "key": "content.body", "pattern": "*"}, True),
        ({"kind": "event_match", "key": "content.topic", "pattern": "*"}, False),
        ({"kind": "event_match", "key": "content.number", "pattern": "3"}, False),
        ({"kind": "event_property_is", "key": "content.number", "value": 3}, True),
        ({"kind": "event_property_is", "key": "content.none", "value": None}, False),
        ({"kind": "event_property_contains", "key": "content.list", "value": "a"}, True),
        ({"kind": "event_property_contains", "key": "content.none", "value": "a"}, False),
        ({"kind": "contains_display_name"}, True),
        ({"kind": "related", "key": "content.none", "pattern": "a"}, True),
        ({"kind": "event_match", "key": "content.body"}, True),
        ({"kind": "event_match", "key": 5, "pattern": "a"}, True),
        ("no condition", True),
    ],
    ids=str,
)
def test_what_is_ruled_out(condition: Any, possible: bool) -> None:
    event = searchable(BODY)
    assert could_match([needs_of([condition])], event) is possible
    ruled_out = needs_of([{"kind": "event_match", "key": "content.none", "pattern": "a"}])
    # All conditions of a rule are needed, and one rule of several is enough.
    assert could_match([needs_of([condition, condition])], event) is possible
    assert not could_match([needs_of([condition]) + ruled_out], event)
    assert could_match([ruled_out, needs_of([condition])], event) is possible


def test_no_rules_match_nothing_and_a_rule_without_conditions_anything() -> None:
    assert not could_match([], {})
    assert could_match([needs_of([])], {})
    assert could_match([needs_of("no list")], {})


BY_TYPE: Needs = (("type", ("m.room.",)), ("content.body", ("hi",)))
BY_BODY: Needs = (("type", ("m.room.",)), ("content.body", ("hi", "lunch!!!")))


@pytest.mark.parametrize(
    ("alternatives", "hints"),
    [
        ([], ()),
        ([()], (("", ("",)),)),
        ([(("content.body", ()),)], (("", ("",)),)),
        ([BY_BODY], (("content.body", ("lunch!!!",)),)),
        ([BY_TYPE, BY_BODY, BY_TYPE], (("type", ("m.room.",)), ("content.body", ("lunch!!!",)))),
    ],
)
def test_the_hint_of_a_rule_is_its_longest_text(alternatives: list[Needs], hints: Hints) -> None:
    assert hints_of(alternatives) == hints


@pytest.mark.parametrize(
    ("alternatives", "event", "expected"),
    [
        ([], {"type": "m.room.message"}, False),
        ([()], {}, True),
        ([BY_TYPE], {"type": "m.room.message"}, True),
        ([BY_TYPE], {"type": "m.reaction"}, False),
        ([BY_TYPE], {}, False),
        ([BY_TYPE, BY_BODY], {"content.body": "time for lunch!!!"}, True),
        ([BY_TYPE, BY_BODY], {"content.body": "m.room.message"}, False),
    ],
)
def test_an_event_is_hinted_at_by_one_of_the_texts(
    alternatives: list[Needs], event: dict[str, str], expected: bool
) -> None:
    assert is_hinted_at(hints_of(alternatives), event) is expected


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([{"kind": "event_match", "key": "a", "pattern": "b"}], False),
        ([{"kind": "event_match", "key": "a", "pattern": "b?"}], True),
        ([{"kind": "x"}, {"kind": "im.nheko.msc3664.related_event_match", "pattern": "*"}], True),
        ([{"kind": "event_property_is", "key": "a", "value": "*"}], False),
        (["*"], False),
        ("*", False),
    ],
    ids=str,
)
def test_wildcards_are_seen(conditions: Any, expected: bool) -> None:
    assert has_wildcard(conditions) is expected


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ([], False),
        ([{"kind": "event_match", "key": "type", "pattern": "m.room.message"}], False),
        ([{"kind": "event_match", "key": "type", "pattern": "m.*"}], True),
        ([{"kind": "event_match", "key": "content.body", "pattern": "lunch"}], True),
        ([{"kind": "event_match", "key": "type", "pattern_type": "user_id"}], True),
        ([{"kind": "event_property_is", "key": "content.body", "value": "lunch *"}], False),
        ([{"kind": "event_property_contains", "key": "content.list", "value": 1}], False),
        ([{"kind": "event_property_contains", "key": "x", "value_type": "user_id"}], True),
        ([{"kind": "room_member_count", "is": ">2"}], False),
        ([{"kind": "sender_notification_permission", "key": "room"}], False),
        ([{"kind": "contains_display_name"}], True),
        ([{"kind": "im.nheko.msc3664.related_event_match", "key": "type"}], True),
        ([{"kind": "room_member_count", "is": "2"}, {"kind": "contains_display_name"}], True),
        ([{}], True),
        (["no condition"], True),
        ("no list", True),
    ],
    ids=str,
)
def test_only_rules_that_compare_are_cheap(conditions: Any, expected: bool) -> None:
    assert is_costly(conditions) is expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, False),
        ({"content.body": "Hello", "content.number": 5, "content.none": None}, False),
        ({"content.body": "Hello", "content.other": "x" * 4096}, True),
        ({"content.list": ["x"] * 5000}, True),
        ({f"content.{n}": "x" * 100 for n in range(100)}, True),
    ],
    ids=["none", "little", "long", "list", "many"],
)
def test_much_text_is_seen(keys: dict[str, Any], expected: bool) -> None:
    assert has_much_text(keys) is expected
