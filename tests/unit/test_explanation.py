# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is said of an event at each pusher, from what was recorded."""

import json
from typing import Any

import attr
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapse_msc3881.cascade.explanation import (
    DAY_MS,
    Delivery,
    Event,
    Facts,
    NotRecorded,
    Outcome,
    PusherState,
    Reason,
    Result,
    State,
    Walk,
    as_json,
    explain,
)
from synapse_msc3881.cascade.outcomes import FAILED, OwnMatch
from synapse_msc3881.cascade.profile_tags import Match
from synapse_msc3881.cascade.stored_outcomes import Outcomes

ME = "@me:example.org"
RECEIVED = 1_000_000_000_000
NOW = RECEIVED + 60_000
ORDERING = 50

EVENT = Event("$event", "!room:example.org", "@you:example.org", ORDERING, RECEIVED, False, False)
PUSHER = PusherState(
    profile_tags=("phone", "global"),
    enabled=True,
    app_id="org.example.app",
    pushkey="key",
    kind="http",
    app_display_name="An app",
    device_display_name="A phone",
    device_id="PHONE",
    set_ts=RECEIVED - 1000,
    position=ORDERING,
    last_success=RECEIVED + 100,
    failing_since=None,
    throttled_until=None,
)

LOUD = Match(["notify", {"set_tweak": "sound", "value": "siren"}], "content/pizza")
SILENT = Match([], "room/!room:example.org")
OF_GLOBAL = Match(["notify"])
PUSHES = Outcomes({"phone": LOUD})
SILENCES = Outcomes({"phone": SILENT, "global": OF_GLOBAL})
NOTHING = Outcomes({"tv": LOUD})


def facts(outcomes: Outcomes | None, *, read: bool = False, **pusher: Any) -> Facts:
    return Facts(ME, EVENT, outcomes, read, [attr.evolve(PUSHER, **pusher)])


def walk_of(found: Facts, now: int = NOW) -> Walk:
    (walk,) = explain(found, now).walks
    assert walk is not None
    return walk


def delivery(outcomes: Outcomes = PUSHES, *, now: int = NOW, **about: Any) -> Delivery:
    return walk_of(facts(outcomes, **about), now).delivery


# --- The walk -----------------------------------------------------------------------------------


def test_the_walk_ends_at_the_scope_that_decides() -> None:
    walk = walk_of(facts(SILENCES))
    assert [(step.profile_tag, step.result) for step in walk.steps] == [("phone", Result.SILENT)]
    assert walk.steps[0].match == SILENT
    assert walk.outcome is Outcome.SILENT


def test_a_scope_without_a_match_is_passed() -> None:
    walk = walk_of(facts(Outcomes({"tv": LOUD, "global": OF_GLOBAL})))
    assert [(step.profile_tag, step.result) for step in walk.steps] == [
        ("phone", Result.NO_MATCH),
        ("global", Result.NOTIFY),
    ]
    assert walk.outcome is Outcome.PUSH


def test_of_global_only_what_is_recorded_is_said() -> None:
    walk = walk_of(facts(NOTHING))
    assert [(step.profile_tag, step.result) for step in walk.steps] == [
        ("phone", Result.NO_MATCH),
        ("global", Result.NOT_NOTIFYING),
    ]
    assert walk.outcome is Outcome.NO_MATCH
    silent = walk_of(facts(Outcomes({"tv": LOUD, "global": Match([])})))
    assert silent.steps[1].result is Result.SILENT


OF_PHONE: dict[str, Any] = {"profile_tags": ("global",)}


@pytest.mark.parametrize("has_own", [True, False])
def test_what_a_device_s_own_settings_decided_they_have_decided(has_own: bool) -> None:
    """Even if the device has them no longer."""
    of_own = Outcomes({"PHONE": SILENT, "global": OF_GLOBAL}, own={"PHONE": OwnMatch(SILENT)})
    walk = walk_of(facts(of_own, **OF_PHONE, device_has_own=has_own))
    assert [(step.profile_tag, step.result) for step in walk.steps] == [("PHONE", Result.SILENT)]
    assert walk.outcome is Outcome.SILENT
    assert walk.delivery == Delivery(State.NOT_SENT, Reason.SILENT)
    # Where nothing of them is recorded, the device had none, or they said the same.
    walk = walk_of(facts(Outcomes({"global": OF_GLOBAL}), **OF_PHONE, device_has_own=has_own))
    assert [(step.result, step.as_global) for step in walk.steps] == [(Result.NOTIFY, has_own)]
    # A pusher with other tags did not go by them.
    walk = walk_of(facts(of_own, profile_tags=("tv",), device_has_own=has_own))
    assert [step.profile_tag for step in walk.steps] == ["tv"]


def test_after_a_failure_only_global_is_walked() -> None:
    explanation = explain(facts(Outcomes.read([FAILED, "notify"], True)), NOW)
    (walk,) = explanation.walks
    assert walk is not None
    assert [(step.profile_tag, step.result) for step in walk.steps] == [("global", Result.NOTIFY)]
    assert as_json(explanation)["evaluation_failed"] is True


# --- What became of it --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (delivery(), Delivery(State.SENT, sent_ts=RECEIVED + 100)),
        (delivery(position=60), Delivery(State.SENT, sent_by_ts=RECEIVED + 100)),
        (delivery(kind="email"), Delivery(State.SENT, sent_by_ts=RECEIVED + 100)),
        (delivery(position=49), Delivery(State.WAITING)),
        (delivery(position=49, read=True), Delivery(State.NOT_SENT, Reason.READ)),
        (delivery(read=True), Delivery(State.UNKNOWN, Reason.READ)),
        (delivery(SILENCES), Delivery(State.NOT_SENT, Reason.SILENT)),
        (delivery(SILENCES, position=49), Delivery(State.NOT_SENT, Reason.SILENT)),
        (delivery(NOTHING), Delivery(State.NOT_SENT, Reason.NO_MATCH)),
        # Off when the event came.
        (delivery(enabled=False), Delivery(State.NOT_SENT, Reason.DISABLED)),
        (delivery(enabled=False, position=49), Delivery(State.NOT_SENT, Reason.DISABLED)),
        # Set after the event came.
        (delivery(set_ts=RECEIVED + 1), Delivery(State.UNKNOWN, Reason.SET_SINCE)),
        (
            delivery(set_ts=RECEIVED + 1, last_success=RECEIVED - 1),
            Delivery(State.NOT_SENT, Reason.SET_SINCE),
        ),
        (
            delivery(set_ts=RECEIVED + 1, last_success=None),
            Delivery(State.NOT_SENT, Reason.SET_SINCE),
        ),
        (
            delivery(set_ts=RECEIVED + 1, last_success=None, enabled=False),
            Delivery(State.NOT_SENT, Reason.DISABLED),
        ),
        (
            delivery(set_ts=RECEIVED + 1, enabled=False),
            Delivery(State.UNKNOWN, Reason.SET_SINCE),
        ),
        # While the event was being stored, so that it is still to come.
        (delivery(set_ts=RECEIVED + 1, position=49), Delivery(State.WAITING)),
        (delivery(last_success=None), Delivery(State.UNKNOWN, Reason.NO_SUCCESS_SINCE)),
        (
            delivery(last_success=RECEIVED - 1),
            Delivery(State.UNKNOWN, Reason.NO_SUCCESS_SINCE),
        ),
        (
            delivery(now=RECEIVED + DAY_MS),
            Delivery(State.UNKNOWN, Reason.MAY_HAVE_GIVEN_UP),
        ),
        # There is no giving up of mails.
        (
            delivery(now=RECEIVED + DAY_MS, kind="email"),
            Delivery(State.SENT, sent_by_ts=RECEIVED + 100),
        ),
    ],
)
def test_what_became_of_it(found: Delivery, expected: Delivery) -> None:
    assert found == expected


OUTCOMES = st.builds(
    Outcomes,
    st.dictionaries(
        st.sampled_from(["phone", "tv", "global"]), st.sampled_from([LOUD, SILENT, OF_GLOBAL])
    ),
    st.booleans(),
)
TIMES = st.integers(RECEIVED - 5, RECEIVED + 5)
PUSHERS = st.builds(
    attr.evolve,
    st.just(PUSHER),
    profile_tags=st.lists(st.sampled_from(["phone", "tv", "global", "none"]), min_size=1).map(
        tuple
    ),
    enabled=st.booleans(),
    kind=st.sampled_from(["http", "email"]),
    set_ts=TIMES,
    position=st.integers(ORDERING - 2, ORDERING + 2),
    last_success=st.none() | TIMES,
    failing_since=st.none() | TIMES,
)
FACTS = st.builds(
    Facts, st.just(ME), st.just(EVENT), OUTCOMES, st.booleans(), st.lists(PUSHERS, max_size=3)
)


@given(FACTS, st.sampled_from([NOW, RECEIVED + DAY_MS, RECEIVED - 1]))
def test_nothing_is_claimed_that_does_not_follow(found: Facts, now: int) -> None:
    explanation = explain(found, now)
    assert found.outcomes is not None
    for pusher, walk in zip(found.pushers, explanation.walks, strict=True):
        assert walk is not None
        decision = found.outcomes.decide(pusher.profile_tags)
        assert (walk.outcome is Outcome.PUSH) == (decision is not None and decision.pushes)
        assert all(step.match is None for step in walk.steps[:-1])
        if decision is not None:
            assert walk.steps[-1].profile_tag == decision.scope
            assert walk.steps[-1].match == decision.match
        became = walk.delivery
        if became.state is State.SENT:
            assert walk.outcome is Outcome.PUSH
            assert pusher.enabled
            assert not found.read
            assert pusher.position >= ORDERING
            assert pusher.last_success is not None
            assert pusher.last_success >= RECEIVED >= pusher.set_ts
            assert pusher.last_success in (became.sent_ts, became.sent_by_ts)
        elif became.state is State.WAITING:
            assert walk.outcome is Outcome.PUSH
            assert pusher.enabled
            assert pusher.position < ORDERING
        else:
            assert became.reason is not None
            assert became.sent_ts is became.sent_by_ts is None


# --- Nothing recorded ---------------------------------------------------------------------------


def why(now: int = NOW, *, read: bool = False, **event: Any) -> list[NotRecorded]:
    found = Facts(ME, attr.evolve(EVENT, **event), None, read, [PUSHER])
    explanation = explain(found, now)
    assert explanation.walks == [None]
    return list(explanation.not_recorded)


def test_what_is_certain_is_all_that_is_said() -> None:
    assert why(sender=ME, redacted=True) == [NotRecorded.OWN_EVENT]
    assert why(stream_ordering=-5, read=True) == [NotRecorded.HISTORY]


def test_all_that_may_be_is_said() -> None:
    assert why() == [NotRecorded.NOTHING_NOTIFIES]
    assert why(RECEIVED + DAY_MS, read=True, redacted=True) == [
        NotRecorded.REDACTED,
        NotRecorded.READ,
        NotRecorded.OLD,
        NotRecorded.NOTHING_NOTIFIES,
    ]


# --- As JSON ------------------------------------------------------------------------------------


def test_the_json_holds_what_is_known_and_nothing_else() -> None:
    assert as_json(explain(facts(PUSHES), NOW)) == {
        "room_id": "!room:example.org",
        "event_id": "$event",
        "received_ts": RECEIVED,
        "read": False,
        "recorded": True,
        "evaluation_failed": False,
        "pushers": [
            {
                "app_id": "org.example.app",
                "pushkey": "key",
                "kind": "http",
                "app_display_name": "An app",
                "device_display_name": "A phone",
                "device_id": "PHONE",
                "enabled": True,
                "profile_tags": ["phone", "global"],
                "set_ts": RECEIVED - 1000,
                "last_success": RECEIVED + 100,
                "walk": [
                    {
                        "profile_tag": "phone",
                        "result": "notify",
                        "rule": "content/pizza",
                        "actions": ["notify", {"set_tweak": "sound", "value": "siren"}],
                    }
                ],
                "outcome": "push",
                "delivery": {"state": "sent", "sent_ts": RECEIVED + 100},
            }
        ],
    }
    nothing = as_json(explain(facts(None, device_id=None, enabled=0), NOW))
    assert nothing["recorded"] is False
    assert nothing["not_recorded"] == ["nothing_notifies"]
    assert "evaluation_failed" not in nothing
    (pusher,) = nothing["pushers"]
    assert pusher["enabled"] is False
    assert pusher.keys().isdisjoint({"device_id", "walk", "outcome", "delivery"})


@given(FACTS)
def test_the_json_is_json(found: Facts) -> None:
    shown = as_json(explain(found, NOW))
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
