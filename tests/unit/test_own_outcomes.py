# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a device's own settings say of an event, on its way from the evaluation to its pushers."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from synapse_msc3881.cascade.outcomes import FAILED, OwnMatch, Recorded, fingerprint, with_outcomes
from synapse_msc3881.cascade.profile_tags import DEFAULT_TAGS, GLOBAL, Match, walk
from synapse_msc3881.cascade.stored_outcomes import Outcomes
from synapse_msc3881.evaluation.evaluator import take_own
from tests.harness.rows import row_of

SOUND = {"set_tweak": "sound", "value": "siren"}
ACTIONS: st.SearchStrategy[list[Any]] = st.sampled_from([[], ["notify"], ["notify", SOUND]])
MATCHES = st.none() | st.builds(
    Match, ACTIONS, st.sampled_from(["room/!a:b", "override/.m.rule.x"])
)
TAGS = st.lists(st.sampled_from([GLOBAL, "PHONE", "desk"]), min_size=1, max_size=3, unique=True)


def recorded(
    in_global: Match | None, scopes: dict[str, Match], is_listed: bool
) -> tuple[list[Any], bool] | None:
    """The row of an event, as the evaluation makes it, and its `notif`; None for no row."""
    actions = [] if in_global is None else list(in_global.actions)
    pushes = "notify" in actions
    matches = dict(scopes)
    own = take_own({"PHONE": is_listed}, matches, actions)
    outcomes: dict[str, Recorded] = {**matches, **own}
    if not outcomes:
        return (actions, True) if pushes else None
    if not pushes:
        if not any(one.notifies for one in outcomes.values()):
            return None
        if in_global is not None:
            outcomes[GLOBAL] = Match([])
    return row_of(with_outcomes(actions, outcomes)), pushes


def pushed(row: tuple[list[Any], bool] | None, tags: tuple[str, ...], own: str | None) -> Any:
    """The actions by which a pusher pushes; None where it does not."""
    if row is None:
        return None
    decision = Outcomes.read(*row).decide(tags, own)
    return decision.actions if decision is not None and decision.pushes else None


@given(MATCHES, MATCHES, MATCHES, st.booleans())
def test_each_pusher_goes_by_its_own(
    in_global: Match | None, in_phone: Match | None, in_desk: Match | None, is_listed: bool
) -> None:
    """Of three: the device's, one of another device, and one that lists another scope."""
    scopes = {tag: m for tag, m in (("PHONE", in_phone), ("desk", in_desk)) if m is not None}
    row = recorded(in_global, scopes, is_listed)

    for tags, own, decides in (
        (DEFAULT_TAGS, "PHONE", in_phone),
        (DEFAULT_TAGS, None, in_global),
        (("desk",), None, in_desk),
    ):
        expected = decides.actions if decides is not None and decides.notifies else None
        assert pushed(row, tags, own) == expected


@given(MATCHES, MATCHES, MATCHES, TAGS)
def test_a_pusher_that_lists_the_scope_walks_over_it_as_over_any(
    in_global: Match | None, in_phone: Match | None, in_desk: Match | None, tags: list[str]
) -> None:
    found = {GLOBAL: in_global, "PHONE": in_phone, "desk": in_desk}
    scopes = {tag: match for tag, match in found.items() if match is not None and tag != GLOBAL}
    row = recorded(in_global, scopes, is_listed="PHONE" in tags)
    decision = walk(tags, found.get)
    expected = decision.actions if decision is not None and decision.pushes else None
    assert pushed(row, tuple(tags), None) == expected


@given(ACTIONS)
def test_what_says_the_same_as_global_takes_no_room(actions: list[Any]) -> None:
    row = recorded(Match(actions), {"PHONE": Match(actions, "room/!a:b")}, is_listed=False)
    assert row == ((actions, True) if "notify" in actions else None)


def test_rows_from_before_and_failures_go_by_global() -> None:
    """Before the device got settings of its own, or where evaluating them failed."""
    assert pushed((["notify"], True), DEFAULT_TAGS, "PHONE") == ["notify"]
    assert pushed(([FAILED, "notify"], True), DEFAULT_TAGS, "PHONE") == ["notify"]
    assert pushed(([FAILED, "notify"], True), ("PHONE",), None) == ["notify"]


def test_a_scope_that_only_has_the_name_of_the_device_is_not_its_own_settings() -> None:
    """Rows from before the device got them, where another pusher lists the scope."""
    row = row_of(with_outcomes(["notify"], {"PHONE": Match([], "room/!a:b")}))
    outcomes = Outcomes.read(row, notif=True)
    assert outcomes.decide(("PHONE",), None) is not None
    assert pushed((row, True), DEFAULT_TAGS, "PHONE") == ["notify"]
    assert pushed((row, True), ("PHONE",), None) is None


def test_rules_get_their_names_back() -> None:
    found = {"PHONE": OwnMatch(Match(["notify"], "override/.m.rule.x")), "DESK": OwnMatch(None)}
    row = row_of(with_outcomes([], found))
    key = (fingerprint("PHONE"), fingerprint("override/.m.rule.x"))
    named = Outcomes.read(row, notif=False).named(lambda: {key: "override/.m.rule.x"})
    assert named.own_of("PHONE") == found["PHONE"]
    assert named.own_of("DESK") == found["DESK"]
    assert named.own_of("TABLET") is None
