# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every touch on Synapse's internals, in one place: what it is, what it relies on, since when.

Synapse has no module callbacks for pushers or push rules, so the module changes a few of Synapse's
own objects. The files here import every one of Synapse's internals that the module uses, and
declare each beside the code that uses it. `verify` checks them all at startup: whatever is missing
or has another shape stops Synapse with a message that names it. When Synapse moves something, these
are the files to change. `process_config` is only for the admin commands, and not imported here.

Elsewhere, the module imports only what Synapse documents for modules, `synapse.module_api`, and
for annotations alone whatever these need.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from synapse_msc3881.tested import TESTED_VERSIONS, does_not_fit

try:
    from synapse_msc3881.seams import (
        database,
        devices,
        endpoints,
        evaluation,
        homeserver,
        oauth,
        push_actions,
        push_rules,
        pushers,
    )
    from synapse_msc3881.seams.database import (
        CrossProcessCache,
        Joined,
        LockedError,
        connection_of_this_thread,
        engine_of,
        has_table,
        key_share_lock,
        lock_schemas,
        read_committed,
        update_lock,
    )
    from synapse_msc3881.seams.declaring import (
        STORE,
        Seam,
        SeamError,
        SeamStatus,
        inspect_each,
    )
    from synapse_msc3881.seams.devices import (
        deletes_devices,
        requesting_device,
        servlet_showing,
        servlet_writing_to,
        show_in_extension,
        show_in_sync,
    )
    from synapse_msc3881.seams.endpoints import (
        AccountDataServlet,
        NotFoundError,
        NotificationsServlet,
        PushersRestServlet,
        PushersSetRestServlet,
        PushRuleRestServlet,
        RestServlet,
        UnrecognizedRequestError,
        VersionsRestServlet,
        assert_params_in_dict,
        client_patterns,
        make_ratelimiter,
        may_see,
        parse_json_value_from_request,
        parse_string,
        register_servlets,
    )
    from synapse_msc3881.seams.evaluation import (
        DefaultOverride,
        RuleCompiler,
        Shared,
        default_overrides,
        default_rule_names,
        wrap_evaluators,
    )
    from synapse_msc3881.seams.homeserver import before_shutdown, main_store, make_linearizer
    from synapse_msc3881.seams.oauth import OAuthDiscovery, oauth_discovery
    from synapse_msc3881.seams.push_actions import (
        EmailPushAction,
        HttpPushAction,
        deserialize_actions,
        read_receipts_txn,
        write_as_text,
    )
    from synapse_msc3881.seams.push_rules import (
        PushRuleLimits,
        PushRulesStream,
        RuleSpec,
        complete_rules,
        format_rules,
        limits_of_global,
        normalise_rule,
        part_of_ruleset,
        priority_class,
        push_rule_limits,
        push_rules_of,
        push_rules_writers,
        rule_from_request,
        rule_spec,
        writes_push_rules,
    )
    from synapse_msc3881.seams.pushers import (
        EmailPusher,
        HttpPusher,
        Pusher,
        PusherConfig,
        PusherConfigException,
        PusherPool,
        StoreError,
        all_running_pushers,
        canonicalise_email,
        ensure_position,
        forget_badge,
        is_logged_in,
        pushers_of,
        running_pusher,
        running_pushers,
        tell_other_processes,
        wake,
        wrap_pusher_types,
    )
    from synapse_msc3881.seams.tables import TABLES, Table, inspect_tables, verify_tables
except ImportError as error:
    raise ImportError(does_not_fit([f"{error.name}: missing ({error})"])) from error

if TYPE_CHECKING:
    from synapse.module_api import ModuleApi
    from synapse.server import HomeServer

__all__ = [
    "SEAMS",
    "TABLES",
    "TESTED_VERSIONS",
    "AccountDataServlet",
    "CrossProcessCache",
    "DefaultOverride",
    "EmailPushAction",
    "EmailPusher",
    "HttpPushAction",
    "HttpPusher",
    "Joined",
    "LockedError",
    "NotFoundError",
    "NotificationsServlet",
    "OAuthDiscovery",
    "PushRuleLimits",
    "PushRuleRestServlet",
    "PushRulesStream",
    "Pusher",
    "PusherConfig",
    "PusherConfigException",
    "PusherPool",
    "PushersRestServlet",
    "PushersSetRestServlet",
    "RestServlet",
    "RuleCompiler",
    "RuleSpec",
    "Seam",
    "SeamError",
    "SeamStatus",
    "Shared",
    "StoreError",
    "Table",
    "UnrecognizedRequestError",
    "VersionsRestServlet",
    "all_running_pushers",
    "assert_params_in_dict",
    "before_shutdown",
    "canonicalise_email",
    "client_patterns",
    "complete_rules",
    "connection_of_this_thread",
    "database",
    "default_overrides",
    "default_rule_names",
    "deletes_devices",
    "deserialize_actions",
    "devices",
    "endpoints",
    "engine_of",
    "ensure_position",
    "evaluation",
    "forget_badge",
    "format_rules",
    "has_table",
    "homeserver",
    "inspect_seams",
    "inspect_tables",
    "is_logged_in",
    "key_share_lock",
    "limits_of_global",
    "lock_schemas",
    "main_store",
    "make_linearizer",
    "make_ratelimiter",
    "may_see",
    "normalise_rule",
    "oauth_discovery",
    "parse_json_value_from_request",
    "parse_string",
    "part_of_ruleset",
    "priority_class",
    "push_actions",
    "push_rule_limits",
    "push_rules",
    "push_rules_of",
    "push_rules_writers",
    "pushers",
    "pushers_of",
    "read_committed",
    "read_receipts_txn",
    "register_servlets",
    "requesting_device",
    "rule_from_request",
    "rule_spec",
    "running_pusher",
    "running_pushers",
    "servlet_showing",
    "servlet_writing_to",
    "show_in_extension",
    "show_in_sync",
    "tell_other_processes",
    "update_lock",
    "verify",
    "verify_tables",
    "wake",
    "wrap",
    "wrap_evaluators",
    "wrap_pusher_types",
    "write_as_text",
    "writes_push_rules",
]

#: All that the module needs of Synapse.
SEAMS: tuple[Seam, ...] = (
    *homeserver.SEAMS,
    *evaluation.SEAMS,
    *pushers.SEAMS,
    *push_actions.SEAMS,
    *push_rules.SEAMS,
    *endpoints.SEAMS,
    *devices.SEAMS,
    *oauth.SEAMS,
    *database.SEAMS,
)


def inspect_seams(hs: HomeServer | None = None) -> list[SeamStatus]:
    """Compare Synapse with what `SEAMS` declares. Changes nothing.

    Args:
        hs: the homeserver, for the seams that exist only in a running one; without it, these
            are left out.
    """
    return inspect_each(SEAMS, hs)


def verify(api: ModuleApi) -> HomeServer:
    """Check every seam.

    Args:
        api: the module API.

    Returns:
        The homeserver behind it, which is safe to change.

    Raises:
        SeamError: something is missing or has another shape. The message names each such seam,
            Synapse's version and the versions that this release was tested on.
    """
    hs: HomeServer | None = getattr(api, "_hs", None)
    broken = [status for status in inspect_seams(hs) if status.problem]
    if broken or hs is None:
        raise SeamError(does_not_fit([str(status) for status in broken]))
    return hs


def wrap(hs: HomeServer, seam: Seam, wrapper: Callable[..., Any]) -> None:
    """Replace a method of one homeserver's object with a wrapper.

    Other homeservers in the process keep theirs.

    Args:
        hs: the homeserver.
        seam: the method, one of `SEAMS`, so that whatever is wrapped has been checked.
        wrapper: called instead, with the bound method that it replaces followed by the method's
            own arguments: ``async def get_pushers_by(self, native, keyvalues)``.

    Raises:
        SeamError: the seam is not declared, or not a method of an object that can be wrapped.
    """
    owner, _, name = seam.where.rpartition(".")
    if seam not in SEAMS or owner not in _OWNERS:
        raise SeamError(f"{seam.where} is wrapped and not declared for that")
    target = _OWNERS[owner](hs)
    setattr(target, name, functools.partial(wrapper, getattr(target, name)))


# The objects of a homeserver that have methods to wrap, by their classes.
_OWNERS: dict[str, Callable[[HomeServer], object]] = {
    STORE.removesuffix("."): main_store,
    push_rules.HANDLER.removesuffix("."): lambda hs: hs.get_push_rules_handler(),
    devices.SYNC.removesuffix("."): lambda hs: hs.get_sync_handler(),
    devices.EXTENSIONS.removesuffix("."): lambda hs: hs.get_sliding_sync_handler().extensions,
    pushers.POOL.removesuffix("."): lambda hs: hs.get_pusherpool(),
    pushers.REPLICATION_HANDLER.removesuffix("."): lambda hs: hs.get_replication_data_handler(),
}
