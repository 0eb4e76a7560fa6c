# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every touch on Synapse's internals, in one place: what it is, what it relies on, since when.

Synapse has no module callback for pushers or push rules, so the module changes a few of Synapse's
own objects. This file imports all of Synapse's internals that the module uses, declares each in
`SEAMS`, and `verify` checks them all at startup: what is missing or of another shape stops
Synapse with a message that names it. When Synapse moves something, this is the file to change.

What the module imports elsewhere is what Synapse documents for modules: `synapse.module_api`,
`synapse.api.errors`, `synapse.types`, `synapse.http`.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attr
from synapse.api.errors import AuthError, NotFoundError

from synapse_msc3881.tested import TESTED_VERSIONS, does_not_fit

try:
    import synapse.rest
    from synapse.api.ratelimiting import Ratelimiter
    from synapse.config.ratelimiting import RatelimitSettings
    from synapse.handlers.push_rules import InvalidRuleException, RuleSpec, check_actions
    from synapse.push import Pusher, PusherConfig, PusherConfigException, bulk_push_rule_evaluator
    from synapse.push.emailpusher import EmailPusher
    from synapse.push.httppusher import HttpPusher
    from synapse.rest.client import push_rule as push_rule_servlets
    from synapse.rest.client._base import client_patterns
    from synapse.rest.client.notifications import NotificationsServlet
    from synapse.rest.client.push_rule import PushRuleRestServlet
    from synapse.rest.client.pusher import PushersRestServlet, PushersSetRestServlet
    from synapse.rest.client.versions import VersionsRestServlet
    from synapse.storage.databases.main import event_push_actions as push_actions_storage
    from synapse.storage.databases.main import push_rule as push_rule_storage
    from synapse.storage.databases.main.event_push_actions import EmailPushAction, HttpPushAction
    from synapse.storage.engines import PostgresEngine
    from synapse.storage.push_rule import RuleNotFoundException
    from synapse.synapse_rust.push import PushRule
    from synapse.util.async_helpers import Linearizer
    from synapse.util.caches.descriptors import DeferredCacheListDescriptor
    from synapse.util.threepids import canonicalise_email
except ImportError as error:
    raise ImportError(does_not_fit([str(error)])) from error

if TYPE_CHECKING:
    from synapse.http.server import HttpServer
    from synapse.server import HomeServer
    from synapse.storage.database import LoggingTransaction
    from synapse.types import UserID

    from synapse_msc3881.evaluation.compiling import RawRule
    from synapse_msc3881.evaluation.matching import CompiledRules

__all__ = [
    "TESTED_VERSIONS",
    "EmailPushAction",
    "EmailPusher",
    "HttpPushAction",
    "HttpPusher",
    "InvalidRuleException",
    "NotificationsServlet",
    "PushRuleRestServlet",
    "Pusher",
    "PusherConfig",
    "PusherConfigException",
    "PushersRestServlet",
    "PushersSetRestServlet",
    "RuleNotFoundException",
    "RuleSpec",
    "VersionsRestServlet",
    "canonicalise_email",
    "check_actions",
    "client_patterns",
]

T = TypeVar("T")
AnyCallable = Callable[..., Any]


# --- What is touched ----------------------------------------------------------------------------


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Seam:
    """Something of Synapse's that the module relies on.

    Attributes:
        where: ``module:Class.attribute``; or ``hs:`` and the way to it from a `HomeServer`.
        relies_on: what the module does with it and needs of it.
        since: the oldest Synapse version in which it was seen to be so.
        parameters: names that the callable must take, where the module calls or replaces it.
        at_startup: whether the module needs it. False: only the commands for admins do, so that
            it does not keep Synapse from starting.
    """

    where: str
    relies_on: str
    since: str = "1.120"
    parameters: tuple[str, ...] = ()
    at_startup: bool = True


_STORE = "synapse.storage.databases.main:DataStore."

SEAMS: tuple[Seam, ...] = (
    # Evaluation: what happens for each event before it is persisted.
    Seam(
        _STORE + "bulk_get_push_rules",
        "only the evaluator calls it, once for each event, just before it makes its "
        "PushRuleEvaluator; we wrap the rules of users whose pushers list device scopes",
    ),
    Seam(
        _STORE + "add_push_actions_to_staging",
        "only the evaluator calls it; a user's actions may be any list, and those without "
        "`notify` make a row with notif = 0, which no count looks at",
        parameters=("event_id", "user_id_actions", "count_as_unread", "thread_id"),
    ),
    Seam(
        "synapse.push.bulk_push_rule_evaluator:PushRuleEvaluator",
        "the name by which the evaluator makes one object for each event; we put a function in "
        "its place, which hands out the native object unless a user of ours is in the room",
        parameters=("flattened_keys",),
    ),
    Seam(
        "synapse.synapse_rust.push:PushRuleEvaluator.run",
        "returns the actions of the first matching rule, or an empty list",
        parameters=("push_rules", "user_id", "display_name"),
    ),
    Seam(
        "synapse.synapse_rust.push:PushRule.from_db",
        "parses a rule, or raises",
        parameters=("rule_id", "priority_class", "conditions", "actions"),
    ),
    Seam(
        "synapse.storage.databases.main.push_rule:_load_rules",
        "compiles rules, highest priority first; hides how the Rust constructors differ between "
        "versions. A row with a default rule's id replaces that rule's actions. The others of "
        "class 5 are run before all default rules that are on",
        parameters=("rawrules", "enabled_map", "experimental_config"),
    ),
    # Pushers: starting, stopping, and what they push.
    Seam("synapse.server:HomeServer.get_pusherpool", "one pool for each homeserver"),
    Seam(
        "hs:get_pusherpool().pushers",
        "the running pushers by user, then by '<app_id>:<pushkey>'; a pusher that is stopped for "
        "good is taken out before its on_stop, one that is replaced is not",
    ),
    Seam(
        "hs:get_pusherpool().pusher_factory.pusher_types",
        "for each kind of pusher a callable (hs, PusherConfig) that makes it; we wrap them",
    ),
    Seam(
        "synapse.push.pusherpool:PusherPool.add_or_update_pusher",
        "checks everything, keeps an existing pusher's device, then calls store.add_pusher",
        parameters=(
            "user_id",
            "kind",
            "app_id",
            "app_display_name",
            "device_display_name",
            "pushkey",
            "lang",
            "data",
            "profile_tag",
            "enabled",
            "device_id",
        ),
    ),
    Seam(
        "synapse.push.pusherpool:PusherPool.remove_pusher",
        "stops and deletes a pusher",
        parameters=("app_id", "pushkey", "user_id"),
    ),
    Seam(
        "synapse.push.pusherpool:PusherPool.remove_pushers_by_app_id_and_pushkey_not_user",
        "deletes the pushers that other users have for the same pushkey",
        parameters=("app_id", "pushkey", "not_user_id"),
    ),
    Seam(
        "synapse.push:PusherConfig.as_dict",
        "a pusher for clients, with `enabled` and `device_id`; PusherConfig is an attrs class",
    ),
    Seam(
        "synapse.push:Pusher.on_stop",
        "called when a pusher stops; the pusher reads and writes through its `store` attribute, "
        "which it looks up each time",
    ),
    Seam(
        "synapse.push.httppusher:HttpPusher._unsafe_process",
        "reads what to push from store.get_unread_push_actions_for_user_in_range_for_http, posts "
        "with http_client.post_json_get_json, and ends when "
        "store.update_pusher_last_stream_ordering_and_success returns False",
    ),
    Seam(
        "synapse.push.emailpusher:EmailPusher.send_notification",
        "sends the mail, at the end of an email pusher's work",
    ),
    Seam(
        _STORE + "get_unread_push_actions_for_user_in_range_for_http",
        "the oldest rows that a pusher has to push; we answer for pushers with profile tags",
        parameters=("user_id", "min_stream_ordering", "max_stream_ordering", "limit"),
    ),
    Seam(
        _STORE + "get_unread_push_actions_for_user_in_range_for_email",
        "the newest rows that an email pusher has to push; as above",
        parameters=("user_id", "min_stream_ordering", "max_stream_ordering", "limit"),
    ),
    Seam(
        _STORE + "_get_receipts_for_room_and_threads_txn",
        "the user's receipts by room, each with is_unread(thread_id, stream_ordering)",
        parameters=("user_id", "room_ids", "thread_ids"),
    ),
    Seam(
        "synapse.storage.databases.main.event_push_actions:_deserialize_action",
        "the actions in a row of event_push_actions, which shortens common ones",
        parameters=("actions", "is_highlight"),
    ),
    Seam(
        _STORE + "get_push_action_users_in_range",
        "which users' pushers to wake up; sees only rows with notif = 1, so we look too",
        parameters=("min_stream_ordering", "max_stream_ordering"),
    ),
    Seam(
        _STORE + "get_if_maybe_push_in_range_for_user",
        "whether a starting pusher may have something to push; as above",
        parameters=("user_id", "min_stream_ordering"),
    ),
    Seam(
        _STORE + "update_pusher_last_stream_ordering",
        "writes a pusher's position",
        parameters=("app_id", "pushkey", "user_id", "last_stream_ordering"),
    ),
    Seam(
        _STORE + "update_pusher_last_stream_ordering_and_success",
        "writes a pusher's position, and tells whether it still exists",
        parameters=("app_id", "pushkey", "user_id", "last_stream_ordering", "last_success"),
    ),
    Seam(
        _STORE + "update_pusher_failing_since",
        "writes since when a pusher fails",
        parameters=("app_id", "pushkey", "user_id", "failing_since"),
    ),
    Seam(
        _STORE + "set_throttle_params",
        "writes the throttle of an email pusher",
        parameters=("pusher_id", "room_id", "params"),
    ),
    # Pushers: stored.
    Seam(
        _STORE + "add_pusher",
        "only the pool calls it, when all checks have passed; we store the profile tags with it",
        parameters=("user_id", "app_id", "pushkey"),
    ),
    Seam(
        _STORE + "get_pushers_by",
        "all reads of pushers but the one at startup go through it; keys are columns of pushers",
        parameters=("keyvalues",),
    ),
    Seam(_STORE + "get_enabled_pushers", "the read of all pushers at startup"),
    Seam(
        _STORE + "delete_pusher_by_app_id_pushkey_user_id",
        "deletes one pusher; we delete its profile tags",
        parameters=("app_id", "pushkey", "user_id"),
    ),
    Seam(
        _STORE + "delete_all_pushers_for_user",
        "deletes a user's pushers; as above",
        parameters=("user_id",),
    ),
    # Push rules.
    Seam(
        "synapse.handlers.push_rules:PushRulesHandler.push_rules_for_user",
        "what /sync, sliding sync, account data and GET /pushrules/ show; we add `device`",
        parameters=("user",),
    ),
    Seam(
        "synapse.handlers.push_rules:PushRulesHandler.notify_user",
        "wakes up the user's waiting syncs after a change",
        parameters=("user_id",),
    ),
    Seam(
        "synapse.handlers.push_rules:check_actions",
        "checks a rule's actions; raises InvalidRuleException",
        parameters=("actions",),
    ),
    Seam(
        _STORE + "_insert_push_rules_update_txn",
        "moves the user's push rules stream, on the process that writes it",
        parameters=("txn", "stream_id", "event_stream_ordering", "user_id", "rule_id", "op"),
    ),
    Seam(_STORE + "get_push_rules_stream_id_gen", "get_next() gives the stream's next position"),
    Seam(
        _STORE + "_invalidate_cache_and_stream",
        "in a transaction: invalidates a cache here and, when it commits, on all other processes",
        parameters=("txn", "cache_func", "keys"),
    ),
    Seam(
        _STORE + "register_external_cached_function",
        "lets other processes invalidate a cache of ours by its name",
        parameters=("cache_name", "func"),
    ),
    Seam(
        _STORE + "copy_push_rules_from_room_to_room_for_user",
        "called for each user at a room upgrade; we copy the device rules too",
        parameters=("old_room_id", "new_room_id", "user_id"),
    ),
    # The client API.
    Seam(
        "synapse.rest:SERVLET_GROUPS",
        'for "client" a tuple of functions (hs, http_server); what registers last wins',
    ),
    Seam(
        "synapse.rest.client.push_rule:_rule_spec_from_path",
        "parses the path of a rule, or raises; so errors are those of `global`",
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
    Seam(
        "synapse.rest.client.push_rule:PushRuleRestServlet.on_PUT",
        "answers for `global`; has the attributes `auth` and `_is_push_worker`",
        parameters=("request", "path"),
    ),
    Seam(
        "synapse.rest.client.push_rule:PushRuleRestServlet.handle_put",
        "what on_PUT calls once it knows the user; reads the body",
        parameters=("request", "path", "user_id"),
    ),
    Seam(
        "synapse.rest.client.push_rule:PushRuleRestServlet.on_DELETE",
        "as above",
        parameters=("request", "path"),
    ),
    Seam(
        "synapse.rest.client.push_rule:PushRuleRestServlet.on_GET",
        "as above",
        parameters=("request", "path"),
    ),
    Seam(
        "synapse.rest.client.pusher:PushersRestServlet.on_GET",
        "GET /pushers; we answer instead",
        parameters=("request",),
    ),
    Seam(
        "synapse.rest.client.pusher:PushersSetRestServlet.on_POST",
        "POST /pushers/set; we answer instead",
        parameters=("request",),
    ),
    Seam(
        "synapse.rest.client.versions:VersionsRestServlet.on_GET",
        "GET /versions; we add to its unstable_features",
        parameters=("request",),
    ),
    Seam(
        "synapse.rest.client.notifications:NotificationsServlet.on_GET",
        "GET /notifications; we take our mark out of the actions",
        parameters=("request",),
    ),
    Seam(
        "synapse.rest.client._base:client_patterns",
        "the patterns of a path below the prefixes of the client API",
        parameters=("path_regex", "releases", "unstable"),
    ),
    Seam(
        "synapse.handlers.events:EventHandler.get_event",
        "an event that the user may see, None where there is none, AuthError where the user may "
        "not see it",
        parameters=("user", "room_id", "event_id"),
    ),
    Seam(
        "synapse.api.ratelimiting:Ratelimiter",
        "made with the store, the clock and RatelimitSettings",
        parameters=("store", "clock", "cfg"),
    ),
    Seam(
        "synapse.api.ratelimiting:Ratelimiter.ratelimit",
        "counts a request of a user, or raises LimitExceededError",
        parameters=("requester",),
    ),
    Seam(
        "synapse.config.ratelimiting:RatelimitSettings",
        "a limit: so many in a second, and so many at once",
        parameters=("key", "per_second", "burst_count"),
    ),
    Seam(
        "synapse.util.async_helpers:Linearizer",
        "`queue(key)` is an async context manager, one at a time for each key; since 1.140 it "
        "wants the clock, which older ones take too",
        parameters=("name", "clock"),
    ),
    Seam(
        "synapse.util.threepids:canonicalise_email",
        "raises ValueError for what is no e-mail address",
        parameters=("address",),
    ),
    # Synapse's config, for the commands of `synapse_msc3881.admin`.
    Seam(
        "synapse.config._base:find_config_files",
        "the files that `-c` names: a file, or the *.yaml in a directory",
        parameters=("search_paths",),
        at_startup=False,
    ),
    Seam(
        "synapse.config._base:read_config_files",
        "reads YAML files and merges them: a top-level option in a later file counts",
        parameters=("config_files",),
        at_startup=False,
    ),
    Seam(
        "synapse.config._base:format_config_error",
        "a ConfigError for humans, in pieces",
        parameters=("e",),
        at_startup=False,
    ),
    Seam(
        "synapse.config._base:RootConfig.parse_config_dict",
        "parses the sections in `config_classes`; those that we name read nothing but the options",
        parameters=("config_dict", "config_dir_path", "data_dir_path"),
        at_startup=False,
    ),
    Seam(
        "synapse.config.server:ServerConfig",
        "the main process's `listeners`, each with http_options.resources",
        at_startup=False,
    ),
    Seam(
        "synapse.config.workers:WorkerConfig",
        "worker_app, instance_name, worker_listeners, writers, pusher_shard_config and "
        "start_pushers",
        at_startup=False,
    ),
    Seam(
        "synapse.config.database:DatabaseConfig",
        "`databases`, each with the names of its data stores and its options",
        at_startup=False,
    ),
    Seam(
        "synapse.util.module_loader:load_module",
        "imports a module and parses its `config`, or raises ConfigError with the option's path",
        parameters=("provider", "config_path"),
        at_startup=False,
    ),
    Seam(
        "synapse.storage.engines:create_engine",
        "the engine for a database's options; connects to nothing",
        parameters=("database_config",),
        at_startup=False,
    ),
)


class SeamError(Exception):
    """Synapse is not of the shape that the module relies on."""


@attr.s(auto_attribs=True, frozen=True, slots=True)
class SeamStatus:
    """What `inspect_seams` found of one seam; `problem` is None where all is well."""

    seam: Seam
    problem: str | None


def inspect_seams(hs: HomeServer | None = None) -> list[SeamStatus]:
    """Compare Synapse with what `SEAMS` declares. Changes nothing.

    Args:
        hs: the homeserver, for the seams that only exist in a running one; without it, these
            are left out.
    """
    return [
        SeamStatus(seam, _problem(seam, hs))
        for seam in SEAMS
        if hs is not None or not seam.where.startswith("hs:")
    ]


def verify(hs: HomeServer) -> None:
    """Check every seam that the module needs.

    Raises:
        SeamError: something is missing or of another shape. The message names each seam that
            is, Synapse's version and the versions that this release was tested on.
    """
    broken = [status for status in inspect_seams(hs) if status.problem and status.seam.at_startup]
    if broken:
        raise SeamError(
            does_not_fit([f"{status.seam.where}: {status.problem}" for status in broken])
        )


def _problem(seam: Seam, hs: HomeServer | None) -> str | None:
    root, _, path = seam.where.partition(":")
    try:
        found: Any = hs if root == "hs" else importlib.import_module(root)
        for name in path.split("."):
            found = _attribute(found, name.removesuffix("()"))
            if name.endswith("()"):
                found = found()
    except (ImportError, AttributeError) as error:
        return f"missing ({error})"
    if not seam.parameters:
        return None
    takes = inspect.signature(getattr(found, "native", found)).parameters
    missing = [name for name in seam.parameters if name not in takes]
    if missing:
        return f"does not take {', '.join(missing)}; it takes {', '.join(takes)}"
    return None


def _attribute(found: Any, name: str) -> Any:
    # On a class, Synapse's descriptors for cached methods only work when not asked for a value.
    return inspect.getattr_static(found, name) if _is_cached(found, name) else getattr(found, name)


def _is_cached(found: Any, name: str) -> bool:
    return inspect.isclass(found) and isinstance(
        inspect.getattr_static(found, name, None), DeferredCacheListDescriptor
    )


# --- Putting a wrapper in place -----------------------------------------------------------------


def wrap(target: object, name: str, make: Callable[[AnyCallable], AnyCallable]) -> None:
    """Put a wrapper in the place of a method of one object.

    Args:
        target: the object, of one homeserver: other homeservers of the process keep theirs.
        name: the method's name.
        make: gets the bound method and returns what to call instead of it.
    """
    setattr(target, name, make(getattr(target, name)))


EvaluatorWrapper = Callable[[Any, Mapping[str, Any]], Any]


def wrap_evaluators(wrapper: EvaluatorWrapper) -> None:
    """Have `wrapper` see each native evaluator, with the event's flattened keys, as it is made.

    The name that this replaces is the process's, not a homeserver's: `wrapper` must hand back
    the native object for events of homeservers without the module. Doing it again does nothing.
    """
    module: Any = bulk_push_rule_evaluator
    native = module.PushRuleEvaluator
    if hasattr(native, "native"):
        return

    def make_evaluator(flattened_keys: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        return wrapper(native(flattened_keys, *args, **kwargs), flattened_keys)

    make_evaluator.native = native  # type: ignore[attr-defined]
    module.PushRuleEvaluator = make_evaluator


RegisterServlets = Callable[["HomeServer", "HttpServer"], None]


def register_servlets(register: RegisterServlets) -> None:
    """Have `register` called after Synapse's own for each client resource of the process.

    It is called for homeservers without the module too. Doing it again does nothing.
    """
    registered = tuple(synapse.rest.SERVLET_GROUPS["client"])
    if register not in registered:
        synapse.rest.SERVLET_GROUPS["client"] = (*registered, register)


def wrap_pusher_types(hs: HomeServer, wrapper: Callable[[Pusher, PusherConfig], Pusher]) -> None:
    """Have `wrapper` see each pusher, with its config, as it is made."""
    types = hs.get_pusherpool().pusher_factory.pusher_types

    def wrap_type(make: Callable[[HomeServer, PusherConfig], Pusher]) -> Any:
        return lambda hs, config: wrapper(make(hs, config), config)

    for kind, make in list(types.items()):
        types[kind] = wrap_type(make)


def running_pusher(hs: HomeServer, user_id: str, app_id: str, pushkey: str) -> Pusher | None:
    """The running pusher of that name, or None where none runs in this process."""
    return hs.get_pusherpool().pushers.get(user_id, {}).get(f"{app_id}:{pushkey}")


# --- Push rules ---------------------------------------------------------------------------------


class RuleCompiler:
    """Compiles push rules with Synapse's own compiler and this homeserver's experimental flags."""

    def __init__(self, hs: HomeServer) -> None:
        self._experimental = hs.config.experimental

    def compile(self, rules: Sequence[RawRule]) -> CompiledRules:
        """Compile rules, highest priority first, as those of a user who has no others."""
        return push_rule_storage._load_rules(list(rules), {}, self._experimental)

    def compile_marked(self, rules: CompiledRules, mark: str) -> CompiledRules:
        """Compile a user's `global` rules again with `mark` (JSON) as every rule's actions."""
        listed = list(rules.rules())
        return push_rule_storage._load_rules(
            [
                (rule.rule_id, rule.priority_class, json.dumps(list(rule.conditions)), mark)
                for rule, _ in listed
            ],
            {rule.rule_id: enabled for rule, enabled in listed},
            self._experimental,
        )


def normalise_rule(
    rule_id: str, priority_class: int, conditions: str, actions: str
) -> tuple[Sequence[Any], Sequence[Any]]:
    """Parse a rule as Synapse does, and give it back as Synapse shows it to clients.

    Args:
        rule_id: any id.
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
        # The error's text holds a stack trace of the Rust code; the first line says it all.
        summary = str(error).splitlines()[0]
        raise InvalidRuleException(f"The rule cannot be parsed: {summary}") from error


def rule_spec(path: Sequence[str]) -> RuleSpec:
    """Parse ``[kind, rule_id, attr?]``; raises the errors of the same path in `global`."""
    return push_rule_servlets._rule_spec_from_path(["pushrules", "global", *path])


def priority_class(spec: RuleSpec) -> int:
    """The priority class of a rule's kind; raises InvalidRuleException for an unknown one."""
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


def push_rule_limits(hs: HomeServer) -> PushRuleLimits:
    """The limits in this homeserver's config; the defaults where Synapse has no such section."""
    section = getattr(hs.config, "push_rules", None)
    limits = getattr(section, "limits", None)
    if limits is None:
        return PushRuleLimits()
    return PushRuleLimits(limits.rule_count, limits.rule_id_length, limits.rule_size)


class PushRulesStream:
    """The stream by which all processes, and waiting syncs, learn of a change of push rules."""

    def __init__(self, hs: HomeServer) -> None:
        self._store = hs.get_datastores().main
        self._handler = hs.get_push_rules_handler()

    async def change(
        self, user_id: str, rule_id: str, op: str, write: Callable[[LoggingTransaction], T]
    ) -> T:
        """Change a user's rules and move the stream, in one transaction; then wake up syncs.

        Args:
            user_id: whose rules.
            rule_id: the full name of the rule, for the stream's row.
            op: "ADD", "DELETE", "ENABLE", "DISABLE" or "ACTIONS".
            write: makes the change. What it raises undoes the transaction and is passed on.

        Returns:
            What `write` returns.
        """
        store: Any = self._store

        def change_txn(txn: LoggingTransaction, stream_id: int) -> T:
            result = write(txn)
            store._insert_push_rules_update_txn(
                txn, stream_id, store.get_room_max_stream_ordering(), user_id, rule_id, op
            )
            return result

        async with store.get_push_rules_stream_id_gen().get_next() as stream_id:
            result: T = await store.db_pool.runInteraction(
                "msc3881_change_push_rules", change_txn, stream_id
            )
        self._handler.notify_user(user_id)
        return result


# --- Storage ------------------------------------------------------------------------------------


class CrossProcessCache:
    """Invalidates a cache of ours on all processes, in the transaction that makes it stale."""

    def __init__(self, hs: HomeServer, name: str, cache: Any) -> None:
        """
        Args:
            hs: the homeserver.
            name: the cache's name, the same on all processes.
            cache: has ``invalidate(keys)`` and ``invalidate_all()``.
        """
        self._store: Any = hs.get_datastores().main
        self._cache = cache
        # The stream carries the function's `__name__`, and finds it by its registered name.
        cache.__name__ = name
        self._store.register_external_cached_function(name, cache)

    def invalidate_txn(self, txn: LoggingTransaction, key: str) -> None:
        """Invalidate one key everywhere, when the transaction commits."""
        self._store._invalidate_cache_and_stream(txn, self._cache, (key,))


def read_receipts_txn(
    txn: LoggingTransaction,
    hs: HomeServer,
    user_id: str,
    room_ids: Collection[str],
    thread_ids: Collection[str],
) -> Mapping[str, Any]:
    """The user's receipts by room; each has ``is_unread(thread_id, stream_ordering)``."""
    store: Any = hs.get_datastores().main
    receipts: Mapping[str, Any] = store._get_receipts_for_room_and_threads_txn(
        txn, user_id=user_id, room_ids=room_ids, thread_ids=thread_ids
    )
    return receipts


def deserialize_actions(actions: str, highlight: bool) -> list[Any]:
    """The actions in a row of event_push_actions."""
    return list(push_actions_storage._deserialize_action(actions, highlight))


async def may_see(hs: HomeServer, user: UserID, room_id: str, event_id: str) -> bool:
    """Whether there is such an event in the room, and the user may see it."""
    try:
        return bool(await hs.get_event_handler().get_event(user, room_id, event_id))
    except (AuthError, NotFoundError):
        return False


def make_ratelimiter(hs: HomeServer, key: str, per_second: float, burst: int) -> Ratelimiter:
    """A limit on the requests of each user to one process: `await limiter.ratelimit(requester)`.

    Admins may exempt a user from it as from Synapse's own limits.
    """
    settings = RatelimitSettings(key=key, per_second=per_second, burst_count=burst)
    return Ratelimiter(hs.get_datastores().main, hs.get_clock(), settings)


def make_linearizer(hs: HomeServer, name: str) -> Linearizer:
    """A queue for each key: `async with linearizer.queue(key)`."""
    return Linearizer(name=name, clock=hs.get_clock())


def has_table(cursor: Any, engine: Any, name: str) -> bool:
    """Whether the database has a table of that name."""
    catalogue = (
        "SELECT 1 FROM information_schema.tables"
        " WHERE table_schema = current_schema() AND table_name = ?"
        if isinstance(engine, PostgresEngine)
        else "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    )
    cursor.execute(engine.convert_param_style(catalogue), (name,))
    return cursor.fetchone() is not None


def connection_of_this_thread(hs: HomeServer) -> tuple[Any, Callable[[], None]]:
    """A database connection to use at once, before the reactor serves anything.

    Returns:
        The connection, and a function that gives it back. A connection to an in-memory SQLite
        *is* the database, so that one stays open: Synapse's test homeserver runs on it.
    """
    database = hs.get_datastores().main.db_pool
    pool: Any = database._db_pool
    had_one = pool.threadID() in pool.connections
    connection = pool.connect()
    in_memory = getattr(database.engine, "_is_in_memory", False)

    def give_back() -> None:
        if not had_one and not in_memory:
            pool.disconnect(connection)

    return connection, give_back


# --- Synapse's config, without a homeserver -----------------------------------------------------
#
# For the commands of `synapse_msc3881.admin`. What they alone need is imported when they need it,
# so that it does not keep a Synapse from starting.


@attr.s(auto_attribs=True, frozen=True, slots=True)
class ProcessConfig:
    """What one process of Synapse is configured to be.

    Attributes:
        name: its instance name; "master" is the main process.
        worker_app: None for the main process.
        resources: what its listeners serve over HTTP, such as "client" and "replication".
        push_rules_writers: the instances that write the push rules stream.
        event_persisters: the instances that persist events.
        pusher_instances: the instances that run pushers; empty where others do that.
        starts_pushers: whether it runs pushers.
        instances: the instances in `instance_map`.
        database: the section of the database that the module's tables are in; with secrets.
    """

    name: str
    worker_app: str | None
    resources: tuple[str, ...]
    push_rules_writers: tuple[str, ...]
    event_persisters: tuple[str, ...]
    pusher_instances: tuple[str, ...]
    starts_pushers: bool
    instances: tuple[str, ...]
    database: Mapping[str, Any] | None = attr.ib(repr=False)


def find_config_files(paths: Sequence[str]) -> list[str]:
    """The files that Synapse reads for these arguments of ``-c``. May print what it ignores."""
    from synapse.config._base import find_config_files  # noqa: PLC0415

    return find_config_files(list(paths))


def read_process_config(files: Sequence[str]) -> ProcessConfig:
    """Read the files as the process does that is started with them. Touches no other file.

    Args:
        files: each is there and is YAML. May print what it ignores.

    Raises:
        ConfigError: Synapse would not start with them.
    """
    from synapse.config._base import RootConfig, read_config_files  # noqa: PLC0415
    from synapse.config.database import DatabaseConfig  # noqa: PLC0415
    from synapse.config.server import ServerConfig  # noqa: PLC0415
    from synapse.config.workers import WorkerConfig  # noqa: PLC0415

    class Sections(RootConfig):
        # Not all of them: others make directories, and read keys that are not there before the
        # first start.
        config_classes = [ServerConfig, WorkerConfig, DatabaseConfig]  # noqa: RUF012

    config: Any = Sections(list(files))
    config.parse_config_dict(
        read_config_files(files),
        config_dir_path=str(Path(files[-1]).absolute().parent),
        data_dir_path=str(Path.cwd()),
    )
    worker = config.worker
    listeners = worker.worker_listeners if worker.worker_app else config.server.listeners
    databases = [one.config for one in config.database.databases if "main" in one.databases]
    return ProcessConfig(
        name=worker.instance_name,
        worker_app=worker.worker_app,
        resources=tuple(
            name
            for listener in listeners
            if listener.http_options is not None
            for resource in listener.http_options.resources
            for name in resource.names
        ),
        push_rules_writers=tuple(worker.writers.push_rules),
        event_persisters=tuple(worker.writers.events),
        pusher_instances=tuple(worker.pusher_shard_config.instances),
        starts_pushers=worker.start_pushers,
        instances=tuple(worker.instance_map),
        database=databases[0] if databases else None,
    )


def load_configured_module(entry: Any, index: int) -> tuple[type, Any]:
    """Import a module of `modules` and parse its options, as Synapse does at startup.

    Returns:
        The module's class, and its parsed options.

    Raises:
        ConfigError: the options are bad; its path begins at ``modules``.
        Exception: what importing it raises.
    """
    from synapse.util.module_loader import load_module  # noqa: PLC0415

    return load_module(entry, ("modules", f"<item {index}>"))


def explain_config_error(error: Exception) -> str:
    """A ConfigError as Synapse shows it at startup."""
    from synapse.config._base import format_config_error  # noqa: PLC0415

    return "".join(format_config_error(error))  # type: ignore[arg-type]


def database_engine(database: Mapping[str, Any]) -> Any:
    """Synapse's engine for a database: its driver, SQL and table names. Connects to nothing.

    Raises:
        RuntimeError: the database's driver is not installed.
    """
    from synapse.storage.engines import create_engine  # noqa: PLC0415

    return create_engine(database)
