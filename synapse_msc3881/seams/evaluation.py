# SPDX-License-Identifier: AGPL-3.0-or-later
"""What happens to each event before it is persisted: rules are read and run, actions stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from synapse.logging.context import PreserveLoggingContext
from synapse.module_api import make_deferred_yieldable
from synapse.push import bulk_push_rule_evaluator
from synapse.storage.databases.main import push_rule as push_rule_storage
from synapse.synapse_rust.push import PushRule, get_base_rule_ids
from synapse.util.async_helpers import ObservableDeferred
from twisted.internet.defer import Deferred

from synapse_msc3881.seams.declaring import STORE, Seam

if TYPE_CHECKING:
    from synapse.server import HomeServer

T = TypeVar("T")

BULK_GET_PUSH_RULES = Seam(
    STORE + "bulk_get_push_rules",
    "only the evaluator calls it, once for each event, just before it creates its "
    "PushRuleEvaluator; we wrap the rules of users whose pushers list device scopes",
)
ADD_PUSH_ACTIONS_TO_STAGING = Seam(
    STORE + "add_push_actions_to_staging",
    "only the evaluator calls it; a user's actions may be any list, and those without "
    "`notify` become a row with notif = 0, which no count looks at",
    parameters=("event_id", "user_id_actions", "count_as_unread", "thread_id"),
)

SEAMS: tuple[Seam, ...] = (
    BULK_GET_PUSH_RULES,
    ADD_PUSH_ACTIONS_TO_STAGING,
    Seam(
        "synapse.push.bulk_push_rule_evaluator:PushRuleEvaluator",
        "the name by which the evaluator creates one object for each event; we replace it with a "
        "function that returns the native object unless one of our users is in the room",
        parameters=("flattened_keys",),
    ),
    Seam(
        "synapse.synapse_rust.push:PushRuleEvaluator.run",
        "returns the actions of the first matching rule, or an empty list",
        parameters=("push_rules", "user_id", "display_name"),
    ),
    Seam(
        "synapse.storage.databases.main.push_rule:_load_rules",
        "compiles rules, highest priority first; hides how the Rust constructors differ between "
        "versions. A row with a default rule's id replaces that rule's actions and nothing else. "
        "Other rows of class 5 are run before all default rules that are on. `rules()` of the "
        "result gives (rule, enabled) in the order of evaluation; a rule's `default` stays when "
        "its actions are changed",
        parameters=("rawrules", "enabled_map", "experimental_config"),
    ),
    Seam("hs:config.experimental", "the flags that compiling asks for"),
    Seam(
        "synapse.synapse_rust.push:FilteredPushRules.rules",
        "a user's rules, including the server-default ones, each with whether it is enabled",
    ),
    Seam(
        "synapse.synapse_rust.push:get_base_rule_ids",
        "the full ids of all server-default rules",
    ),
    Seam(
        "synapse.synapse_rust.push:PushRule",
        "a compiled rule",
        attributes=("rule_id", "priority_class", "conditions", "actions", "default"),
    ),
    Seam(
        "synapse.util.async_helpers:ObservableDeferred",
        "`observe()` gives another deferred with the same result, which can be cancelled alone",
        parameters=("deferred", "consumeErrors"),
    ),
    Seam(
        "synapse.logging.context:PreserveLoggingContext",
        "inside it there is no logging context; afterwards the previous one is back",
    ),
)

#: A rule for the compiler: its id, the priority class, the conditions and the actions, both JSON.
RawRule = tuple[str, int, str, str]

#: What Synapse's evaluator runs. Opaque here.
CompiledRules = Any

EvaluatorWrapper = Callable[[Any, Mapping[str, Any]], Any]


def wrap_evaluators(wrapper: EvaluatorWrapper) -> None:
    """Have `wrapper` see each native evaluator, with the event's flattened keys, as it is made.

    The name that this replaces is the process's, not a homeserver's: `wrapper` must hand back
    the native object for events of homeservers without the module. Doing it again does nothing.
    """
    module: Any = bulk_push_rule_evaluator
    evaluator = module.PushRuleEvaluator
    if hasattr(evaluator, "native"):
        return

    def make_evaluator(flattened_keys: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        return wrapper(evaluator(flattened_keys, *args, **kwargs), flattened_keys)

    make_evaluator.native = evaluator  # type: ignore[attr-defined]
    module.PushRuleEvaluator = make_evaluator


class DefaultOverride(NamedTuple):
    """A server-default `override` rule, as one user has it.

    Attributes:
        rule_id: its full id, such as ``global/override/.m.rule.reaction``.
        notifies: whether its actions, which the user may have changed, hold `notify`.
        personal: whether it may match for one user and not for another.
    """

    rule_id: str
    notifies: bool
    personal: bool


def default_overrides(rules: CompiledRules) -> tuple[tuple[DefaultOverride, ...], int]:
    """The server-default `override` rules that a user has on, in the order of evaluation.

    Args:
        rules: the user's `global` rules.

    Returns:
        Them, and how many rules the user has in all.
    """
    every = rules.rules()
    return tuple(
        DefaultOverride(
            rule.rule_id,
            "notify" in rule.actions,
            _is_about_user(rule),
        )
        for rule, enabled in every
        if enabled and rule.default and rule.priority_class == _OVERRIDE
    ), len(every)


_OVERRIDE = 5
_OF_EVENT_OR_ROOM = ("room_member_count", "sender_notification_permission")


def _is_about_user(rule: PushRule) -> bool:
    """Whether a rule may match for one user and not for another; for nobody it never does."""
    return any(map(_is_personal, rule.conditions))


def _is_personal(condition: Mapping[str, Any]) -> bool:
    """Whether a condition may ask who the user is. What is not known may."""
    kind = condition.get("kind")
    if kind == "event_match":
        return "pattern" not in condition
    if kind in ("event_property_is", "event_property_contains"):
        return "value" not in condition
    return kind not in _OF_EVENT_OR_ROOM


class DefaultRule(NamedTuple):
    """A server-default rule of a complete set of rules.

    Attributes:
        name: its kind and its id, such as ``override/.m.rule.reaction``.
        actions: what it does where it matches.
        rank: how many of the kinds of rules come before it, and so win over it: 0 for the master
            rule, 1 for the others among the overrides, 5 for the underrides.
        about_user: its conditions, where it may match for one user and not for another.
        alone: where it looks for a pattern in a text, which takes time, the rule by itself.
    """

    name: str
    actions: Sequence[Any]
    rank: int
    about_user: Sequence[Mapping[str, Any]] | None = None
    alone: CompiledRules | None = None


def default_rule_names() -> Sequence[str]:
    """The names of all server-default rules, such as ``override/.m.rule.reaction``."""
    return [rule_id[len(_GLOBAL) :] for rule_id in get_base_rule_ids()]


#: The kinds of rules with their priority classes, in the order of evaluation.
_KINDS = (("override", 5), ("content", 4), ("room", 3), ("sender", 2), ("underride", 1))

_GLOBAL = "global/"


class RuleCompiler:
    """Compiles push rules with Synapse's own compiler and this homeserver's experimental flags."""

    def __init__(self, hs: HomeServer) -> None:
        self._experimental = hs.config.experimental
        # Server-default rules with patterns, each by itself.
        self._alone: dict[str, CompiledRules] = {}

    def compile(self, rules: Sequence[RawRule]) -> CompiledRules:
        """Compile rules, highest priority first, as those of a user who has no others."""
        return push_rule_storage._load_rules(list(rules), {}, self._experimental)

    def compile_defaults(self, marks: Mapping[str, str]) -> CompiledRules:
        """Compile some server-default rules and no others.

        Args:
            marks: for the full id of each its actions (JSON).
        """
        every = [
            rule for rule, _ in push_rule_storage._load_rules([], {}, self._experimental).rules()
        ]
        return push_rule_storage._load_rules(
            [
                (rule.rule_id, rule.priority_class, "[]", marks[rule.rule_id])
                for rule in every
                if rule.rule_id in marks
            ],
            {rule.rule_id: rule.rule_id in marks for rule in every},
            self._experimental,
        )

    def compile_complete(
        self, changes: Mapping[str, tuple[str | None, bool | None]], mark: Callable[[int], str]
    ) -> tuple[CompiledRules, CompiledRules, Sequence[DefaultRule]]:
        """Compile all server-default rules, as they are changed in one scope, with marks.

        Args:
            changes: for the names of those that are changed their actions (JSON) and whether they
                are enabled; None is as the default. What is no rule of this Synapse counts as none.
            mark: the actions of the rule of that number, in JSON.

        Returns:
            Those that are on, for the evaluator; those of them that only compare; and the rules
            that are on, each at the number of its mark.

        Raises:
            Exception: a change does not parse.
        """
        probes = [(f"{_GLOBAL}{kind}/probe", number, "[]", "[]") for kind, number in _KINDS]
        known = {rule.rule_id for rule, _ in self._load([], {})}
        by_id = {_GLOBAL + name: change for name, change in changes.items()}
        changed = {rule_id: by_id[rule_id] for rule_id in known.intersection(by_id)}
        rows = [
            (rule_id, -1, "[]", actions) for rule_id, (actions, _) in changed.items() if actions
        ]
        enabled = {rule_id: on for rule_id, (_, on) in changed.items() if on is not None}
        rank = 0
        marked: list[RawRule] = []
        switched_on: dict[str, bool] = {}
        comparing: dict[str, bool] = {}
        defaults: list[DefaultRule] = []
        for rule, is_on in self._load([*probes, *rows], enabled):
            if not rule.default:
                rank += 1
                continue
            alone = self._by_itself(rule.rule_id, mark(0)) if is_on and _has_pattern(rule) else None
            switched_on[rule.rule_id] = is_on
            comparing[rule.rule_id] = is_on and alone is None
            if is_on:
                marked.append((rule.rule_id, -1, "[]", mark(len(defaults))))
                name = rule.rule_id[len(_GLOBAL) :]
                about = list(rule.conditions) if _is_about_user(rule) else None
                defaults.append(DefaultRule(name, list(rule.actions), rank, about, alone))
        load = push_rule_storage._load_rules
        whole = load(marked, switched_on, self._experimental)
        return whole, load(marked, comparing, self._experimental), defaults

    def _by_itself(self, rule_id: str, mark: str) -> CompiledRules:
        if rule_id not in self._alone:
            self._alone[rule_id] = self.compile_defaults({rule_id: mark})
        return self._alone[rule_id]

    def _load(
        self, rows: Sequence[RawRule], enabled: Mapping[str, bool]
    ) -> Sequence[tuple[PushRule, bool]]:
        loaded = push_rule_storage._load_rules(list(rows), dict(enabled), self._experimental)
        return list(loaded.rules())

    def silent_rules(self, rules: CompiledRules, mark: str) -> tuple[CompiledRules, Iterator[str]]:
        """What in a user's `global` rules is on and does not notify where it matches.

        Args:
            rules: them, as Synapse compiled them.
            mark: actions in JSON.

        Returns:
            The server-default rules, those of them with `mark` as their actions and the others
            switched off; and the conditions, in JSON, of each of the user's own.
        """
        listed = [(rule, on and _is_silent(rule)) for rule, on in rules.rules()]
        defaults = [(rule, silent) for rule, silent in listed if rule.default]
        marked = [
            (rule.rule_id, rule.priority_class, json.dumps(list(rule.conditions)), mark)
            for rule, silent in defaults
            if silent
        ]
        switched_on = {rule.rule_id: silent for rule, silent in defaults}
        compiled = push_rule_storage._load_rules(marked, switched_on, self._experimental)
        own = (rule for rule, silent in listed if silent and not rule.default)
        return compiled, (json.dumps(list(rule.conditions)) for rule in own)


def _has_pattern(rule: PushRule) -> bool:
    """Whether a server-default rule looks for something in a text: most compare whole values."""
    return any(
        condition.get("kind") == "contains_display_name" or condition.get("key") == "content.body"
        for condition in rule.conditions
    )


def _is_silent(rule: PushRule) -> bool:
    # Synapse takes out what says as much in other words, such as "dont_notify".
    return "notify" not in rule.actions


class Shared(Generic[T]):
    """A result that several coroutines wait for, each in a logging context of its own."""

    def __init__(self) -> None:
        self._result: ObservableDeferred[T] = ObservableDeferred(Deferred(), consumeErrors=True)

    async def wait(self) -> T:
        """The result. Cancelling who waits does nothing to the others."""
        return await make_deferred_yieldable(self._result.observe())

    def set(self, result: T) -> None:
        """Give the result; whoever waits goes on at once, before this returns."""
        with PreserveLoggingContext():
            self._result.callback(result)
