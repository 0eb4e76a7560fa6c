# SPDX-License-Identifier: AGPL-3.0-or-later
"""Why did my phone (not) ring? What was recorded of one event, explained for each pusher.

Nothing is evaluated again. The outcome of each scope was recorded when the event arrived
(`outcomes`); the walk over a pusher's tags is the one that the pusher makes (specification 5); and
what became of it follows from how far the pusher has got and when it last succeeded, which Synapse
keeps for each pusher. Whatever these do not tell is reported as unknown.

Pure code: nothing here knows Synapse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any

import attr

from synapse_msc3881.cascade.outcomes import Suppressed
from synapse_msc3881.cascade.profile_tags import DEFAULT_TAGS, GLOBAL, Match
from synapse_msc3881.cascade.stored_outcomes import Outcomes

#: Synapse drops what it recorded after this time, and stops trying to push it.
DAY_MS = 24 * 60 * 60 * 1000


class Result(Enum):
    """What the walk found in one scope."""

    NOTIFY = "notify"
    SILENT = "silent"
    NO_MATCH = "no_match"
    #: Only for `global`: silent or no match, which is recorded only if it makes a difference.
    NOT_NOTIFYING = "not_notifying"
    #: A match that does not count: a server-default rule keeps the event quiet.
    SUPPRESSED = "suppressed"


class Outcome(Enum):
    """What the walk decided for a pusher."""

    PUSH = "push"
    SILENT = "silent"
    NO_MATCH = "no_match"


class State(Enum):
    """What became of an event at one pusher."""

    SENT = "sent"
    WAITING = "waiting"
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"


class Reason(Enum):
    """Why an event was not sent, or why that is unknown."""

    DISABLED = "disabled"
    SILENT = "silent"
    NO_MATCH = "no_match"
    READ = "read"
    SET_SINCE = "set_since"
    MAY_HAVE_GIVEN_UP = "may_have_given_up"
    NO_SUCCESS_SINCE = "no_success_since"


class NotRecorded(Enum):
    """Why there may be no record of an event."""

    OWN_EVENT = "own_event"
    HISTORY = "history"
    REDACTED = "redacted"
    READ = "read"
    OLD = "old"
    NOTHING_NOTIFIES = "nothing_notifies"


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Event:
    """What matters here about an event. Times are in milliseconds."""

    event_id: str
    room_id: str
    sender: str
    stream_ordering: int  # negative if it came as history
    received_ts: int
    redacted: bool = attr.ib(converter=bool)
    is_own_membership: bool = attr.ib(converter=bool)  # of the user who asks: an invite, say


@attr.s(auto_attribs=True, frozen=True, slots=True)
class PusherState:
    """A pusher, and how far it has got. Times are in milliseconds.

    Attributes:
        set_ts: when the pusher was last set, by any device.
        position: the stream ordering up to which all is done.
        last_success: when it last succeeded; `failing_since` says since when it has failed.
        throttled_until: until when mails about the event's room are held back.
        device_has_own: whether its device has settings of its own.
    """

    profile_tags: tuple[str, ...]
    enabled: bool = attr.ib(converter=bool)  # SQLite has no booleans.
    app_id: str
    pushkey: str
    kind: str
    app_display_name: str
    device_display_name: str
    device_id: str | None
    set_ts: int
    position: int
    last_success: int | None
    failing_since: int | None
    throttled_until: int | None
    device_has_own: bool = attr.ib(default=False, converter=bool)

    @property
    def own(self) -> str | None:
        """The device by whose own settings it goes (specification 9); None by its profile tags."""
        return self.device_id if self.device_has_own and self.profile_tags == DEFAULT_TAGS else None

    @property
    def shown_tags(self) -> tuple[str, ...]:
        """The profile tags that hold."""
        return self.profile_tags if self.own is None else (self.own,)


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Facts:
    """All that is known of one event for one user; `outcomes` is None if nothing is recorded."""

    user_id: str
    event: Event
    outcomes: Outcomes | None
    read: bool
    pushers: Sequence[PusherState]


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Step:
    """One scope of a walk.

    Attributes:
        as_global: whether it is a device's own settings, which said the same as `global`.
    """

    profile_tag: str
    result: Result
    match: Match | Suppressed | None
    as_global: bool = False


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Delivery:
    """What became of the event at one pusher.

    Attributes:
        state: whether it was sent.
        reason: why not, or why that is unknown.
        sent_ts: when it was sent; or with `sent_by_ts` at or before when.
    """

    state: State
    reason: Reason | None = None
    sent_ts: int | None = None
    sent_by_ts: int | None = None


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Walk:
    """What one pusher made of what was recorded; only the last step can be a match."""

    steps: Sequence[Step]
    outcome: Outcome
    delivery: Delivery


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Explanation:
    """The facts, and what follows for each pusher.

    Attributes:
        facts: what is known.
        not_recorded: why there may be no record; empty if there is one.
        walks: the walk of each pusher, or None if nothing is recorded.
    """

    facts: Facts
    not_recorded: Sequence[NotRecorded]
    walks: Sequence[Walk | None]


def explain(facts: Facts, now: int) -> Explanation:
    """Explain what became of an event.

    Args:
        facts: what is known of it.
        now: the time in milliseconds.
    """
    outcomes = facts.outcomes
    if outcomes is None:
        return Explanation(
            facts, list(_why_not_recorded(facts, now)), [None for _ in facts.pushers]
        )
    walks = [_walk(facts, outcomes, pusher, now) for pusher in facts.pushers]
    return Explanation(facts, [], walks)


def _why_not_recorded(facts: Facts, now: int) -> Iterator[NotRecorded]:
    event = facts.event
    if event.sender == facts.user_id:
        yield NotRecorded.OWN_EVENT
        return
    if event.stream_ordering < 0:
        yield NotRecorded.HISTORY
        return
    if event.redacted:
        yield NotRecorded.REDACTED
    if facts.read:
        yield NotRecorded.READ
    if now - event.received_ts >= DAY_MS:
        yield NotRecorded.OLD
    yield NotRecorded.NOTHING_NOTIFIES


def _walk(facts: Facts, outcomes: Outcomes, pusher: PusherState, now: int) -> Walk:
    own = _own_at_the_time(outcomes, pusher)
    decision = outcomes.decide(pusher.profile_tags, own)
    if decision is None:
        outcome = Outcome.NO_MATCH
    else:
        outcome = Outcome.PUSH if decision.pushes else Outcome.SILENT
    steps = []
    if own is not None:
        steps.append(_step_of_own(own, outcomes))
    for tag in () if steps else outcomes.walked(pusher.profile_tags):
        steps.append(_step(tag, outcomes))
        if decision is not None and tag == decision.scope:
            break
    return Walk(steps, outcome, _delivery(facts, pusher, outcome, now))


def _own_at_the_time(outcomes: Outcomes, pusher: PusherState) -> str | None:
    """The device by whose own settings a pusher went, which may have been switched off since."""
    if pusher.device_id is None or pusher.profile_tags != DEFAULT_TAGS:
        return None
    return pusher.own if outcomes.own_of(pusher.device_id) is None else pusher.device_id


def _step(tag: str, outcomes: Outcomes) -> Step:
    match = outcomes.match_in(tag)
    suppressed = outcomes.suppressed_in(tag)
    if match is None and suppressed is not None:
        return Step(tag, Result.SUPPRESSED, suppressed)
    if match is None:
        return Step(tag, Result.NOT_NOTIFYING if tag == GLOBAL else Result.NO_MATCH, None)
    return Step(tag, Result.NOTIFY if match.notifies else Result.SILENT, match)


def _step_of_own(device_id: str, outcomes: Outcomes) -> Step:
    own = outcomes.own_of(device_id)
    if own is None:
        return attr.evolve(_step(GLOBAL, outcomes), profile_tag=device_id, as_global=True)
    if own.match is None:
        return Step(device_id, Result.NO_MATCH, None)
    return Step(device_id, Result.NOTIFY if own.notifies else Result.SILENT, own.match)


def _delivery(facts: Facts, pusher: PusherState, outcome: Outcome, now: int) -> Delivery:
    event = facts.event
    past = pusher.position >= event.stream_ordering
    succeeded = pusher.last_success is not None and pusher.last_success >= event.received_ts
    if past and pusher.set_ts > event.received_ts:
        # Setting a pusher may change its tags and whether it is enabled, and moves its position
        # to the present: what it did before is known only if it did nothing.
        if succeeded:
            return Delivery(State.UNKNOWN, Reason.SET_SINCE)
        reason = Reason.SET_SINCE if pusher.enabled else Reason.DISABLED
        return Delivery(State.NOT_SENT, reason)
    if not pusher.enabled:
        return Delivery(State.NOT_SENT, Reason.DISABLED)
    if outcome is not Outcome.PUSH:
        reason = Reason.SILENT if outcome is Outcome.SILENT else Reason.NO_MATCH
        return Delivery(State.NOT_SENT, reason)
    if past:
        return _past(facts, pusher, succeeded, now)
    return Delivery(State.NOT_SENT, Reason.READ) if facts.read else Delivery(State.WAITING)


def _past(facts: Facts, pusher: PusherState, succeeded: bool, now: int) -> Delivery:
    """The delivery of an event to push, at a pusher that is past it."""
    event, mails = facts.event, pusher.kind == "email"
    if facts.read:  # Read before it could be sent, or afterwards.
        return Delivery(State.UNKNOWN, Reason.READ)
    if not succeeded:
        return Delivery(State.UNKNOWN, Reason.NO_SUCCESS_SINCE)
    if not mails and now - event.received_ts >= DAY_MS:
        return Delivery(State.UNKNOWN, Reason.MAY_HAVE_GIVEN_UP)
    # An e-mail pusher succeeds even if it has nothing to send.
    if not mails and pusher.position == event.stream_ordering:
        return Delivery(State.SENT, sent_ts=pusher.last_success)
    return Delivery(State.SENT, sent_by_ts=pusher.last_success)


# --- As JSON ------------------------------------------------------------------------------------


def as_json(explanation: Explanation) -> dict[str, Any]:
    """An explanation as the API gives it; what is not known is left out."""
    facts = explanation.facts
    recorded = facts.outcomes is not None
    return _without_none(
        {
            "room_id": facts.event.room_id,
            "event_id": facts.event.event_id,
            "received_ts": facts.event.received_ts,
            "read": facts.read,
            "recorded": recorded,
            "not_recorded": None if recorded else [why.value for why in explanation.not_recorded],
            "evaluation_failed": facts.outcomes.failed if facts.outcomes else None,
            "pushers": [
                {**_pusher_as_json(pusher), **_walk_as_json(walk)}
                for pusher, walk in zip(facts.pushers, explanation.walks, strict=True)
            ],
        }
    )


def _pusher_as_json(pusher: PusherState) -> dict[str, Any]:
    fields = attr.asdict(pusher, recurse=False)
    del fields["position"]  # A number that means nothing to clients.
    del fields["device_has_own"]
    own = True if pusher.own is not None else None
    return _without_none({**fields, "profile_tags": list(pusher.shown_tags), "own": own})


def _walk_as_json(walk: Walk | None) -> dict[str, Any]:
    if walk is None:
        return {}
    delivery = walk.delivery
    return {
        "walk": [_step_as_json(step) for step in walk.steps],
        "outcome": walk.outcome.value,
        "delivery": _without_none(
            {
                "state": delivery.state.value,
                "reason": delivery.reason.value if delivery.reason else None,
                "sent_ts": delivery.sent_ts,
                "sent_by_ts": delivery.sent_by_ts,
            }
        ),
    }


def _step_as_json(step: Step) -> dict[str, Any]:
    return _without_none(
        {
            "profile_tag": step.profile_tag,
            "result": step.result.value,
            "rule": step.match.rule if step.match else None,
            "actions": list(step.match.actions) if isinstance(step.match, Match) else None,
            "suppressed_by": step.match.by if isinstance(step.match, Suppressed) else None,
            "as_global": step.as_global or None,
        }
    )


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
