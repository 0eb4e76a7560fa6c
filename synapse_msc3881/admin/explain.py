# SPDX-License-Identifier: AGPL-3.0-or-later
"""`explain`: why a user's devices rang for an event, or did not. Only reads the database.

Says the same as the user's own endpoint (`rest/explain.py`), and also explains events that the user
may not see.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NoReturn

from synapse_msc3881 import seams
from synapse_msc3881.admin.arguments import add_shared_arguments
from synapse_msc3881.admin.database import CannotReadError, read_only
from synapse_msc3881.admin.processes import Deployment
from synapse_msc3881.admin.redaction import Secrets
from synapse_msc3881.admin.table import Screen, ScreenGoneError
from synapse_msc3881.cascade.explanation import (
    Delivery,
    Explanation,
    Facts,
    NotRecorded,
    Outcome,
    PusherState,
    Reason,
    Result,
    State,
    Step,
    Walk,
    as_json,
    explain,
)
from synapse_msc3881.cascade.outcomes import Suppressed
from synapse_msc3881.cascade.profile_tags import GLOBAL
from synapse_msc3881.storage.explanations import read_facts
from synapse_msc3881.storage.migrations import TABLES

_EPILOG = """\
Put the event's id in single quotes: it begins with a $.

Exit status: 0 it was explained, 1 it could not be, 2 wrong usage."""

_NOT_RECORDED: Mapping[NotRecorded, str] = {
    NotRecorded.OWN_EVENT: "the user sent it, and nobody is notified of that",
    NotRecorded.HISTORY: "it came to the server as history, and nobody is notified of that",
    NotRecorded.REDACTED: "the record was deleted with the event's content",
    NotRecorded.READ: "the record was deleted since the user has read the event",
    NotRecorded.OLD: "the record was deleted since the event is more than a day old",
    NotRecorded.NOTHING_NOTIFIES: (
        "no rule asked to notify, neither in `global` nor in a device scope that a pusher listed "
        "then, or a server-default rule kept it quiet; or no rules were asked, since the user was "
        "not in the room or ignores the sender"
    ),
}

_RESULTS: Mapping[Result, str] = {
    Result.NOTIFY: "notifies",
    Result.SILENT: "silent",
    Result.NO_MATCH: "no match",
    Result.NOT_NOTIFYING: "no rule notifies (silent or no match; which is not recorded)",
}

_OUTCOMES: Mapping[Outcome, str] = {
    Outcome.PUSH: "push",
    Outcome.SILENT: "no push, silenced",
    Outcome.NO_MATCH: "no push, nothing matched",
}

_REASONS: Mapping[tuple[State, Reason], str] = {
    (State.NOT_SENT, Reason.DISABLED): "not sent: the pusher is off",
    (State.NOT_SENT, Reason.SILENT): "not sent",
    (State.NOT_SENT, Reason.NO_MATCH): "not sent",
    (State.NOT_SENT, Reason.READ): "not sent: it was read first",
    (State.NOT_SENT, Reason.SET_SINCE): (
        "not sent: the pusher was set anew before it had sent anything, and begins with what came "
        "after"
    ),
    (State.UNKNOWN, Reason.SET_SINCE): (
        "not known: the pusher was set after the event arrived, and may have had other tags; it "
        "has sent something since then"
    ),
    (State.UNKNOWN, Reason.READ): "not known: it was sent before it was read, or not at all",
    (State.UNKNOWN, Reason.MAY_HAVE_GIVEN_UP): (
        "not known: it was sent, or given up after a day of failing"
    ),
    (State.UNKNOWN, Reason.NO_SUCCESS_SINCE): (
        "not known: the pusher is past the event, with no success since it arrived"
    ),
}


class _CannotExplainError(Exception):
    """There is nothing to explain; the message says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `explain`."""
    parser.epilog = _EPILOG
    refuse = parser.error

    def error(message: str) -> NoReturn:
        # Without quotes, the shell leaves the end of the id, which argparse may take for an option.
        if message.startswith("argument --event: expected"):
            message = f"{message}: an event's id begins with a $, put it in single quotes"
        refuse(message)

    parser.error = error  # type: ignore[method-assign]
    add_shared_arguments(parser)
    parser.add_argument(
        "--event", required=True, metavar="ID", type=_event_id, help="the event's id, '$…'"
    )
    parser.add_argument(
        "--user", required=True, metavar="ID", type=_user_id, help="the user's id, '@…:…'"
    )


def _event_id(text: str) -> str:
    if not text.startswith("$"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no event's id, which begins with a $: put it in single quotes"
        )
    return text


def _user_id(text: str) -> str:
    if not text.startswith("@"):
        raise argparse.ArgumentTypeError(f"{text!r} is no user's id, which begins with an @")
    return text


def run(arguments: argparse.Namespace) -> int:
    """Explain one event.

    Returns:
        0 if it was explained, otherwise 1.
    """
    try:
        facts = _read(arguments.config, arguments.user, arguments.event)
    except CannotReadError as error:
        print(f"The database: {error}", file=sys.stderr)
        if error.remedy:
            print(f"  -> {error.remedy}", file=sys.stderr)
        return 1
    except _CannotExplainError as error:
        print(error, file=sys.stderr)
        return 1
    explanation = explain(facts, int(time.time() * 1000))
    with contextlib.suppress(ScreenGoneError):  # Nobody is left to be told, as after `| head`.
        if arguments.json:
            Screen().line(json.dumps(as_json(explanation), indent=2))
        else:
            _show(explanation, Screen())
    return 0


# --- Reading ------------------------------------------------------------------------------------


class _Cursor:
    """A driver's cursor that takes ``?`` for a parameter."""

    def __init__(self, cursor: Any, engine: Any) -> None:
        self._cursor = cursor
        self._engine = engine

    def execute(self, sql: str, parameters: Sequence[Any]) -> Any:
        self._cursor.execute(self._engine.convert_param_style(sql), tuple(parameters))

    def fetchone(self) -> Any:
        return self._cursor.fetchone()

    def fetchall(self) -> Iterable[Any]:
        found: Iterable[Any] = self._cursor.fetchall()
        return found


def _read(paths: Sequence[str], user_id: str, event_id: str) -> Facts:
    secrets = Secrets()

    def read(cursor: Any, engine: Any) -> Facts | str:
        if not all(seams.has_table(cursor, engine, table) for table in TABLES):
            return "The module has not made its tables there: Synapse was not started with it yet."
        placed = _Cursor(cursor, engine)
        placed.execute("SELECT 1 FROM users WHERE name = ?", (user_id,))
        if placed.fetchone() is None:
            return f"There is no user {user_id} on this server."
        # The explanation says what cannot be read.
        facts = read_facts(placed, user_id, event_id, lambda _: None, seams.default_rule_names())
        return facts or f"There is no event {event_id} in the database."

    found = read_only(_database(paths, secrets), secrets, read)
    if isinstance(found, str):
        raise _CannotExplainError(found)
    return found


def _database(paths: Sequence[str], secrets: Secrets) -> Mapping[str, Any]:
    deployment = Deployment(secrets)
    deployment.add(paths)
    for process in deployment.processes:
        if process.config is not None and process.config.database is not None:
            return process.config.database
    said = [f"{finding.where}: {finding.what} {finding.remedy}" for finding in deployment.findings]
    raise _CannotExplainError("\n".join(said) or f"{' '.join(paths)} names no database.")


# --- Showing ------------------------------------------------------------------------------------


def _show(explanation: Explanation, screen: Screen) -> None:
    facts = explanation.facts
    event = facts.event
    screen.line(_plain(event.event_id), "bold")
    screen.line(f"  in {_plain(event.room_id)}, by {_plain(event.sender)}")
    read = "read" if facts.read else "not read"
    screen.line(f"  received {_time(event.received_ts)}, {read} by {_plain(facts.user_id)}")
    if facts.outcomes is None:
        screen.line()
        screen.line("Nothing is recorded of it for this user. Why that may be:", "yellow")
        for why in explanation.not_recorded:
            screen.paragraph(f"- {_NOT_RECORDED[why]}")
    elif facts.outcomes.failed:
        screen.line()
        screen.line("The device rules failed at this event: it went by `global`.", "yellow")
    if not facts.pushers:
        screen.line()
        screen.line("The user has no pushers.", "yellow")
    for pusher, walk in zip(facts.pushers, explanation.walks, strict=True):
        screen.line()
        _show_pusher(pusher, walk, screen)


def _show_pusher(pusher: PusherState, walk: Walk | None, screen: Screen) -> None:
    device = f", device {_plain(pusher.device_id)}" if pusher.device_id else ""
    screen.line(f"{_plain(pusher.device_display_name)}{device}", "bold")
    state = "on" if pusher.enabled else "off"
    screen.line(
        f"  {_plain(pusher.kind)} pusher {_plain(pusher.app_id)} {_short(pusher.pushkey)}, {state}"
    )
    tags = json.dumps(pusher.shown_tags, ensure_ascii=False)
    own = "" if pusher.own is None else ", the device's own settings"
    screen.line(f"  tags     {_plain(tags)}{own}")
    screen.line(f"  set      {_time(pusher.set_ts)}")
    if pusher.last_success is not None:
        screen.line(f"  success  {_time(pusher.last_success)}, the last one")
    if pusher.failing_since is not None:
        screen.line(f"  failing  since {_time(pusher.failing_since)}", "red")
    if pusher.throttled_until is not None:
        screen.line(
            f"  mails    about this room are held back until {_time(pusher.throttled_until)}"
        )
    if walk is None:
        return
    for step in walk.steps:
        screen.line(f"  walk     {_plain(step.profile_tag)}: {', '.join(_step(step))}")
    screen.line(f"  decided  {_OUTCOMES[walk.outcome]}")
    sent = walk.delivery.state is State.SENT
    screen.line(f"  result   {_delivery(walk.delivery)}", "green" if sent else "yellow")


def _step(step: Step) -> Iterator[str]:
    if step.as_global:
        yield "as in `global`"
    if step.match is None:
        yield _RESULTS[step.result]
        return
    of_global = step.profile_tag == GLOBAL or step.as_global
    gone = "which is not recorded" if of_global else "which is gone since"
    yield _plain(step.match.rule) if step.match.rule else f"a rule ({gone})"
    if isinstance(step.match, Suppressed):
        yield f"does not count: {_plain(step.match.by)} keeps such events quiet"
        return
    yield _RESULTS[step.result]
    for action in step.match.actions:
        if isinstance(action, Mapping) and "set_tweak" in action:
            value = action.get("value", True)
            if value is not False:
                shown = "" if value is True else f" {value}"
                yield _plain(f"{action['set_tweak']}{shown}")


def _delivery(delivery: Delivery) -> str:
    if delivery.reason is not None:
        return _REASONS[delivery.state, delivery.reason]
    if delivery.sent_ts is not None:
        return f"sent {_time(delivery.sent_ts)}"
    if delivery.sent_by_ts is not None:
        return f"sent, {_time(delivery.sent_by_ts)} at the latest"
    return "waiting to be sent"


def _time(milliseconds: int) -> str:
    try:
        moment = datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms"
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _short(pushkey: str) -> str:
    """Enough of a pushkey to recognise it: with all of it, one could push to the device."""
    shown = _plain(pushkey)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


_SHOWN = 12


def _plain(text: str) -> str:
    """A text chosen by users, without anything that a terminal would take for a command."""
    return "".join(
        repr(character)[1:-1] if unicodedata.category(character).startswith("C") else character
        for character in text
    )
