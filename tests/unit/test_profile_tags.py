# SPDX-License-Identifier: AGPL-3.0-or-later
"""Profile tags: what is accepted, and the walk (specification 2 and 5)."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapse_msc3881.cascade.profile_tags import (
    DEFAULT_TAGS,
    Actions,
    InvalidProfileTagsError,
    Match,
    check_tag,
    parse_tags,
    walk,
)

NAMES = st.sampled_from(["global", "phone", "tablet", "tv", "nothing"])
ACTIONS: st.SearchStrategy[Actions] = st.lists(
    st.sampled_from(["notify", "dont_notify", {"set_tweak": "sound", "value": "x"}]), max_size=3
)
TAGS = st.text(
    st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=63
)  # At most 4 bytes for each character.


# --- What is accepted ---------------------------------------------------------------------------


@given(st.lists(TAGS, max_size=10))
def test_valid_tags_are_kept_in_order_each_once(tags: list[str]) -> None:
    parsed = parse_tags(tags, 10)
    assert set(parsed) == (set(tags) or {"global"})
    assert len(parsed) == len(set(parsed))
    if tags:
        assert sorted(parsed, key=tags.index) == list(parsed)
    # What was stored is accepted again, unchanged.
    assert parse_tags(list(parsed), 10) == parsed


def test_an_empty_list_is_the_default() -> None:
    assert parse_tags([], 10) == DEFAULT_TAGS == ("global",)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    )
)
def test_anything_at_all_is_a_list_of_tags_or_refused(value: Any) -> None:
    try:
        tags = parse_tags(value, 10)
    except InvalidProfileTagsError:
        return
    assert isinstance(value, list)
    assert all(isinstance(tag, str) for tag in tags)
    assert 1 <= len(tags) <= 10


@pytest.mark.parametrize(
    "value",
    [None, "phone", {"phone": 1}, ("phone",), 1, ["phone", None], ["phone", 1], [["phone"]]],
    ids=repr,
)
def test_what_is_no_list_of_strings_is_refused(value: object) -> None:
    with pytest.raises(InvalidProfileTagsError, match="string"):
        parse_tags(value, 10)


@pytest.mark.parametrize("tag", ["a", "a" * 255, "ß" * 127, "\U0001f4f1" * 63, " ", "a/b", "\xad"])
def test_a_tag_of_1_to_255_bytes_is_accepted(tag: str) -> None:
    assert check_tag(tag) == tag


@pytest.mark.parametrize(
    ("tag", "problem"),
    [
        ("", "empty"),
        ("a" * 256, "at most 255 bytes of UTF-8, this one has 256"),
        ("ß" * 128, "256"),
        ("\ud800", "Unicode"),
        (1, "string"),
        (None, "string"),
        (True, "string"),
    ],
)
def test_another_tag_is_refused_by_the_limit_that_it_breaks(tag: object, problem: str) -> None:
    with pytest.raises(InvalidProfileTagsError, match=problem):
        check_tag(tag)


@given(st.characters(categories=["Cc"]), st.text(st.characters(categories=["L"]), max_size=5))
def test_a_control_character_anywhere_is_refused(character: str, text: str) -> None:
    assert unicodedata.category(character) == "Cc"
    for tag in (character + text, text + character, text + character + text):
        with pytest.raises(InvalidProfileTagsError, match="control character"):
            check_tag(tag)


def test_duplicates_do_not_count() -> None:
    tags = [str(number % 10) for number in range(100)]
    assert parse_tags(tags, 10) == tuple("0123456789")


@pytest.mark.parametrize("count", [11, 100, 101, 100_000])
def test_too_many_tags_are_refused(count: int) -> None:
    with pytest.raises(InvalidProfileTagsError, match=f"at most 10 .*{count}"):
        parse_tags([str(number) for number in range(count)], 10)


def test_more_than_100_are_refused_unread() -> None:
    with pytest.raises(InvalidProfileTagsError, match="at most 10"):
        parse_tags([None] * 101, 10)
    with pytest.raises(InvalidProfileTagsError, match="at most 10"):
        parse_tags(["phone"] * 101, 10)


def test_the_limit_is_the_one_of_the_config() -> None:
    assert parse_tags(["a", "b"], 2) == ("a", "b")
    with pytest.raises(InvalidProfileTagsError, match="at most 1 "):
        parse_tags(["a", "b"], 1)


# --- The walk -----------------------------------------------------------------------------------


MATCHES = st.builds(Match, ACTIONS, st.none() | st.just("room/!a:b"))


def naive_walk(tags: list[str], matches: dict[str, Match]) -> tuple[str, Match] | None:
    """The walk as MSC3837 words it."""
    remaining = list(tags)
    while remaining:
        tag = remaining.pop(0)
        for scope, match in matches.items():
            if scope == tag:
                return scope, match
    return None


@given(st.lists(NAMES, max_size=6), st.dictionaries(NAMES, MATCHES))
def test_the_first_tag_with_a_match_decides(tags: list[str], matches: dict[str, Match]) -> None:
    decision = walk(tags, matches.get)
    expected = naive_walk(tags, matches)
    if expected is None:
        assert decision is None
    else:
        assert decision is not None
        assert (decision.scope, decision.match) == expected
        assert decision.actions == expected[1].actions
        assert decision.pushes == ("notify" in decision.actions)


@given(st.lists(NAMES, max_size=6), st.dictionaries(NAMES, MATCHES))
def test_duplicate_tags_and_unlisted_scopes_change_nothing(
    tags: list[str], matches: dict[str, Match]
) -> None:
    decision = walk(tags, matches.get)
    assert walk([*tags, *tags], matches.get) == decision
    assert walk(list(dict.fromkeys(tags)), matches.get) == decision
    assert walk(tags, {tag: matches[tag] for tag in matches if tag in tags}.get) == decision


def test_a_silent_match_is_not_no_match() -> None:
    silent = walk(["phone", "global"], {"phone": Match([]), "global": Match(["notify"])}.get)
    assert silent is not None
    assert (silent.scope, silent.pushes) == ("phone", False)
    none = walk(["phone", "global"], {"global": Match(["notify"])}.get)
    assert none is not None
    assert (none.scope, none.pushes) == ("global", True)
