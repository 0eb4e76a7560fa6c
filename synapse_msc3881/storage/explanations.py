# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads what is known about one event for one user, in a fixed number of statements.

Runs in one of Synapse's transactions, or on its own cursor for the admin command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from synapse_msc3881.cascade.explanation import Event, Facts, PusherState
from synapse_msc3881.cascade.outcomes import fingerprint
from synapse_msc3881.cascade.profile_tags import DEFAULT_TAGS
from synapse_msc3881.cascade.stored_outcomes import Outcomes
from synapse_msc3881.storage.push_actions import PushActionRow
from synapse_msc3881.storage.pusher_tags import parse_stored_tags

# A redaction of the event removes the record, whoever sent it.
_EVENT = """
    SELECT e.event_id, e.room_id, e.sender, e.stream_ordering,
        COALESCE(e.received_ts, e.origin_server_ts, 0),
        EXISTS (SELECT 1 FROM redactions AS r WHERE r.redacts = e.event_id),
        e.type = 'm.room.member' AND COALESCE(e.state_key, '') = ?
    FROM events AS e WHERE e.event_id = ?
"""

# There is an index on these three columns, but none on the event alone.
_ROW = """
    SELECT event_id, room_id, thread_id, stream_ordering, actions, highlight, notif, NULL
    FROM event_push_actions WHERE room_id = ? AND event_id = ? AND user_id = ?
"""

_READ_UP_TO = """
    SELECT MAX(e.stream_ordering)
    FROM receipts_linearized AS r INNER JOIN events AS e ON e.event_id = r.event_id
    WHERE r.room_id = ? AND r.user_id = ? AND r.receipt_type IN ('m.read', 'm.read.private')
"""
_OF_THREAD = " AND (r.thread_id IS NULL OR r.thread_id = ?)"

_PUSHERS = """
    SELECT t.profile_tags, COALESCE(p.enabled, TRUE), p.app_id, p.pushkey, p.kind,
        p.app_display_name, p.device_display_name, p.device_id, p.ts,
        COALESCE(p.last_stream_ordering, 0), p.last_success, p.failing_since,
        h.last_sent_ts + h.throttle_ms, o.user_id IS NOT NULL
    FROM pushers AS p
    LEFT JOIN synapse_msc3881_pusher_tags AS t
        ON t.user_id = p.user_name AND t.app_id = p.app_id AND t.pushkey = p.pushkey
    LEFT JOIN synapse_msc3881_own_settings AS o
        ON o.user_id = p.user_name AND o.device_id = p.device_id
    LEFT JOIN pusher_throttle AS h ON h.pusher = p.id AND h.room_id = ?
    WHERE p.user_name = ? ORDER BY p.app_id, p.pushkey
"""

_RULES = "SELECT profile_tag, kind, rule_id FROM synapse_msc3881_device_rules WHERE user_id = ?"


class Cursor(Protocol):
    """A cursor that takes ``?`` for a parameter."""

    def execute(self, sql: str, parameters: Sequence[Any]) -> Any:
        """Run a statement."""

    def fetchone(self) -> Any:
        """The next row, or None."""

    def fetchall(self) -> Iterable[Any]:
        """The other rows."""


ReportBad = Callable[[Exception], None]


def read_facts(
    cursor: Cursor,
    user_id: str,
    event_id: str,
    report_bad: ReportBad,
    default_rules: Iterable[str] = (),
) -> Facts | None:
    """Read what is known about an event for a user.

    Does not check whether the user may see the event.

    Args:
        cursor: where to read.
        user_id: a local user.
        event_id: the event.
        report_bad: called for a row that cannot be read, which is treated as everywhere else: an
            outcome uses the `global` rules, a pusher has the tags ``["global"]``.
        default_rules: the names of the server-default rules, such as ``override/.m.rule.master``.

    Returns:
        The facts, or None if there is no such event.
    """
    cursor.execute(_EVENT, (user_id, event_id))
    found = cursor.fetchone()
    if found is None:
        return None
    event = Event(*found)
    cursor.execute(_ROW, (event.room_id, event_id, user_id))
    stored = cursor.fetchone()
    row = PushActionRow(*stored) if stored else None
    return Facts(
        user_id=user_id,
        event=event,
        outcomes=_outcomes(cursor, user_id, row, report_bad, default_rules) if row else None,
        read=_is_read(cursor, user_id, event, row),
        pushers=_pushers(cursor, user_id, event.room_id, report_bad),
    )


def _outcomes(
    cursor: Cursor,
    user_id: str,
    row: PushActionRow,
    report_bad: ReportBad,
    default_rules: Iterable[str],
) -> Outcomes:
    """What was recorded, with the names of those rules that still exist."""
    outcomes = row.outcomes(report_bad)
    scopes = outcomes.matches.keys() | outcomes.suppressed.keys()
    defaults = {fingerprint(name): name for name in default_rules} if outcomes.own else {}

    def names() -> Mapping[tuple[str, str], str]:
        cursor.execute(_RULES, (user_id,))
        rules = [rule for rule in cursor.fetchall() if all(isinstance(part, str) for part in rule)]
        keys = {tag: fingerprint(tag) for tag in {tag for tag, _, _ in rules}}
        # There may be thousands, which would evict what the evaluation remembers.
        fingerprint_of = fingerprint.__wrapped__
        of_user = {
            (keys[tag], fingerprint_of(f"{kind}/{rule_id}")): f"{kind}/{rule_id}"
            for tag, kind, rule_id in rules
            if keys[tag] in scopes
        }
        of_server = {(tag, key): defaults[key] for tag in outcomes.own for key in defaults}
        return {**of_server, **of_user}

    return outcomes.named(names)


def _is_read(cursor: Cursor, user_id: str, event: Event, row: PushActionRow | None) -> bool:
    """Whether the user has read the event; if it has no row, in any thread."""
    where = (event.room_id, user_id)
    if row is None:
        cursor.execute(_READ_UP_TO, where)
    else:
        cursor.execute(_READ_UP_TO + _OF_THREAD, (*where, row.thread_id))
    (read_up_to,) = cursor.fetchone()
    return read_up_to is not None and read_up_to >= event.stream_ordering


def _pushers(
    cursor: Cursor, user_id: str, room_id: str, report_bad: ReportBad
) -> list[PusherState]:
    cursor.execute(_PUSHERS, (room_id, user_id))
    pushers = []
    for tags, *fields in cursor.fetchall():
        try:
            profile_tags = DEFAULT_TAGS if tags is None else parse_stored_tags(tags)
        except (ValueError, TypeError) as error:
            report_bad(error)
            profile_tags = DEFAULT_TAGS
        pushers.append(PusherState(profile_tags, *fields))
    return pushers
