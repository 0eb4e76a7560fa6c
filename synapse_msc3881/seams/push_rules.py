# SPDX-License-Identifier: AGPL-3.0-or-later
"""Push rules: parsed, checked, shown, limited, and their stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attr
from synapse.handlers.push_rules import RuleSpec
from synapse.module_api.errors import InvalidRuleException
from synapse.push.clientformat import format_push_rules_for_user
from synapse.rest.client import push_rule as push_rule_servlets
from synapse.storage.databases.main.push_rule import _load_rules
from synapse.synapse_rust.push import PushRule

from synapse_msc3881.seams.declaring import STORE, Seam
from synapse_msc3881.seams.homeserver import main_store

if TYPE_CHECKING:
    from synapse.module_api import LoggingTransaction, ModuleApi, UserID
    from synapse.server import HomeServer

__all__ = [
    "COPY_PUSH_RULES_FROM_ROOM_TO_ROOM_FOR_USER",
    "PUSH_RULES_FOR_USER",
    "SEAMS",
    "PushRuleLimits",
    "PushRulesStream",
    "RuleSpec",
    "complete_rules",
    "format_rules",
    "limits_of_global",
    "normalise_rule",
    "part_of_ruleset",
    "priority_class",
    "push_rule_limits",
    "push_rules_of",
    "push_rules_writers",
    "rule_from_request",
    "rule_spec",
    "writes_push_rules",
]

T = TypeVar("T")

HANDLER = "synapse.handlers.push_rules:PushRulesHandler."

PUSH_RULES_FOR_USER = Seam(
    HANDLER + "push_rules_for_user",
    "what /sync, sliding sync, account data and GET /pushrules/ show; we add `device`",
    parameters=("user",),
)
COPY_PUSH_RULES_FROM_ROOM_TO_ROOM_FOR_USER = Seam(
    STORE + "copy_push_rules_from_room_to_room_for_user",
    "called for each user at a room upgrade; we copy the device rules too",
    parameters=("old_room_id", "new_room_id", "user_id"),
)

SEAMS: tuple[Seam, ...] = (
    Seam(
        "synapse.synapse_rust.push:PushRule.from_db",
        "parses a rule, or raises",
        parameters=("rule_id", "priority_class", "conditions", "actions"),
    ),
    PUSH_RULES_FOR_USER,
    Seam(
        "synapse.push.clientformat:format_push_rules_for_user",
        "a user's rules as clients read them, under `global`",
        parameters=("user", "ruleslist"),
    ),
    Seam(
        HANDLER + "notify_user",
        "wakes up the user's waiting syncs after a change",
        parameters=("user_id",),
    ),
    Seam(
        STORE + "_insert_push_rules_update_txn",
        "advances the user's push rules stream, on the process that writes it",
        parameters=("txn", "stream_id", "event_stream_ordering", "user_id", "rule_id", "op"),
    ),
    Seam(STORE + "get_push_rules_stream_id_gen", "gives the stream's positions"),
    Seam(
        "synapse.storage.util.id_generators:MultiWriterIdGenerator.get_next",
        "an async context manager that gives the next position",
    ),
    Seam(STORE + "get_room_max_stream_ordering", "the newest event's position"),
    Seam("synapse.server:HomeServer.get_push_rules_handler", "one handler for each homeserver"),
    Seam("hs:config.worker.writers.push_rules", "the names of the processes that write push rules"),
    Seam(
        "synapse.config.push_rules:PushRulesConfig",
        "the section `push_rules`; without it `global` has no such limits",
        since="1.157.2",
        attributes=("limits",),
        optional=True,
    ),
    Seam(
        "synapse.config.push_rules:PushRulesLimitsConfig",
        "its limits",
        since="1.157.2",
        attributes=("rule_count", "rule_id_length", "rule_size"),
        optional=True,
    ),
    Seam(
        "synapse.handlers.push_rules:RuleSpec",
        "a path to a rule, in its parts",
        attributes=("template", "rule_id", "attr"),
    ),
    COPY_PUSH_RULES_FROM_ROOM_TO_ROOM_FOR_USER,
    Seam(
        "synapse.rest.client.push_rule:_rule_spec_from_path",
        "parses the path of a rule, or raises: hence the same errors as for `global`",
        parameters=("path",),
    ),
    Seam(
        "synapse.rest.client.push_rule:_priority_class_from_spec",
        "the priority class of a kind, or InvalidRuleException",
        parameters=("spec",),
    ),
    Seam(
        "synapse.rest.client.push_rule:_rule_tuple_from_request_object",
        "conditions and actions of a rule from a request, or InvalidRuleException",
        parameters=("rule_template", "rule_id", "req_obj"),
    ),
    Seam(
        "synapse.rest.client.push_rule:_filter_ruleset_with_path",
        "the part of a ruleset that a path names, or the right error",
        parameters=("ruleset", "path"),
    ),
)


def normalise_rule(
    rule_id: str, priority_class: int, conditions: str, actions: str
) -> tuple[Sequence[Any], Sequence[Any]]:
    """Parse a rule as Synapse does, and return it as Synapse shows it to clients.

    Args:
        rule_id: any ID.
        priority_class: Synapse's number for the rule's kind.
        conditions: JSON.
        actions: JSON.

    Returns:
        The conditions and the actions.

    Raises:
        InvalidRuleException: Synapse cannot parse the rule.
    """
    try:
        rule = PushRule.from_db(rule_id, priority_class, conditions, actions)
        return list(rule.conditions), list(rule.actions)
    except Exception as error:
        # The error's text contains a Rust stack trace; the first line says it all.
        summary = str(error).splitlines()[0]
        raise InvalidRuleException(f"The rule cannot be parsed: {summary}") from error


async def push_rules_of(hs: HomeServer, user: UserID) -> Any:
    """A user's push rules as clients read them, with what wrappers make of them."""
    return await hs.get_push_rules_handler().push_rules_for_user(user)


def complete_rules(
    hs: HomeServer, rows: Sequence[tuple[str, int, str, str]], enabled: Mapping[str, bool]
) -> Any:
    """The complete ruleset of a user or a device, with the server-default rules.

    Args:
        hs: the homeserver.
        rows: for each rule its full name in `global`, priority class, conditions and actions in
            JSON, in the order in which they are evaluated.
        enabled: which rules are on, by their full names.

    Returns:
        What Synapse's store gives for `global`: ``rules()`` has each rule, and whether it is on.

    Raises:
        Exception: a row is no rule.
    """
    return _load_rules(list(rows), dict(enabled), hs.config.experimental)


def format_rules(user: UserID, rules: Any) -> dict[str, Any]:
    """Rules of `complete_rules` as clients read those of `global`."""
    formatted: dict[str, Any] = format_push_rules_for_user(user, rules)["global"]
    return formatted


def rule_spec(path: Sequence[str]) -> RuleSpec:
    """Parse ``[kind, rule_id, attr?]``; raises the errors of the same path in `global`."""
    return push_rule_servlets._rule_spec_from_path(["pushrules", "global", *path])


def priority_class(spec: RuleSpec) -> int:
    """The priority class of a kind of rule; raises InvalidRuleException if it is unknown."""
    return push_rule_servlets._priority_class_from_spec(spec)


def rule_from_request(kind: str, rule_id: str, body: Any) -> tuple[Any, Any]:
    """The conditions and actions in a request's body; raises InvalidRuleException."""
    return push_rule_servlets._rule_tuple_from_request_object(kind, rule_id, body)


def part_of_ruleset(ruleset: Mapping[str, Any], path: Sequence[str]) -> Any:
    """The part of a ruleset that a path names; raises the errors of the same path in `global`."""
    return push_rule_servlets._filter_ruleset_with_path(dict(ruleset), list(path))


@attr.s(auto_attribs=True, frozen=True, slots=True)
class PushRuleLimits:
    """Synapse's ``push_rules.limits``; these are the defaults of Synapse 1.163."""

    rule_count: int = 10_000
    rule_id_length: int = 300
    rule_size: int = 1024


def limits_of_global(hs: HomeServer) -> PushRuleLimits | None:
    """The limits in this homeserver's config; None if Synapse has no such section."""
    section = getattr(hs.config, "push_rules", None)
    limits = getattr(section, "limits", None)
    if limits is None:
        return None
    return PushRuleLimits(limits.rule_count, limits.rule_id_length, limits.rule_size)


def push_rule_limits(hs: HomeServer) -> PushRuleLimits:
    """The limits of device rules: those of `global`, or their defaults if Synapse has none."""
    return limits_of_global(hs) or PushRuleLimits()


def push_rules_writers(hs: HomeServer) -> Sequence[str]:
    """The names of the processes that write push rules."""
    return tuple(hs.config.worker.writers.push_rules)


def writes_push_rules(hs: HomeServer) -> bool:
    """Whether this process writes push rules."""
    return hs.get_instance_name() in hs.config.worker.writers.push_rules


class PushRulesStream:
    """The stream that tells all processes, and waiting syncs, of a change to push rules."""

    def __init__(self, hs: HomeServer, api: ModuleApi) -> None:
        self._api = api
        self._store = main_store(hs)
        self._handler = hs.get_push_rules_handler()

    async def change(
        self, user_id: str, rule_id: str, op: str, write: Callable[[LoggingTransaction], T]
    ) -> T:
        """Change a user's rules and advance the stream, in one transaction; then wake syncs.

        Args:
            user_id: whose rules.
            rule_id: the full name of the rule, for the stream's row.
            op: "ADD", "DELETE", "ENABLE", "DISABLE" or "ACTIONS".
            write: makes the change. If it raises, the transaction is undone, and the error is
                passed on.

        Returns:
            What `write` returns.
        """
        store = self._store

        def change_txn(txn: LoggingTransaction, stream_id: int) -> T:
            result = write(txn)
            store._insert_push_rules_update_txn(
                txn, stream_id, store.get_room_max_stream_ordering(), user_id, rule_id, op
            )
            return result

        async with store.get_push_rules_stream_id_gen().get_next() as stream_id:
            result: T = await self._api.run_db_interaction(
                "msc3881_change_push_rules", change_txn, stream_id
            )
        self._handler.notify_user(user_id)
        return result
