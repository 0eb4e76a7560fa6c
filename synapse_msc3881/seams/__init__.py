# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every touch on Synapse's internals, in one place: what it is, what it relies on, since when.

Synapse has no module callback for pushers or push rules, so the module changes a few of Synapse's
own objects. The files here import all of Synapse's internals that the module uses and declare
each, beside the code that uses it. `verify` checks them all at startup: what is missing or of
another shape stops Synapse with a message that names it. When Synapse moves something, these are
the files to change. `process_config` is for the commands of admins only and not imported here.

What the module imports elsewhere is what Synapse documents for modules: `synapse.module_api`,
`synapse.api.errors`, `synapse.types`, `synapse.http`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from synapse_msc3881.tested import TESTED_VERSIONS, does_not_fit

try:
    from synapse_msc3881.seams import (
        database,
        endpoints,
        evaluation,
        push_actions,
        push_rules,
        pushers,
    )
    from synapse_msc3881.seams.database import (
        CrossProcessCache,
        connection_of_this_thread,
        has_table,
    )
    from synapse_msc3881.seams.declaring import (
        Seam,
        SeamError,
        SeamStatus,
        inspect_each,
    )
    from synapse_msc3881.seams.endpoints import (
        NotificationsServlet,
        PushersRestServlet,
        PushersSetRestServlet,
        PushRuleRestServlet,
        VersionsRestServlet,
        client_patterns,
        make_linearizer,
        make_ratelimiter,
        may_see,
        register_servlets,
    )
    from synapse_msc3881.seams.evaluation import RuleCompiler, wrap_evaluators
    from synapse_msc3881.seams.push_actions import (
        EmailPushAction,
        HttpPushAction,
        deserialize_actions,
        read_receipts_txn,
    )
    from synapse_msc3881.seams.push_rules import (
        InvalidRuleException,
        PushRuleLimits,
        PushRulesStream,
        RuleNotFoundException,
        RuleSpec,
        check_actions,
        normalise_rule,
        part_of_ruleset,
        priority_class,
        push_rule_limits,
        rule_from_request,
        rule_spec,
    )
    from synapse_msc3881.seams.pushers import (
        EmailPusher,
        HttpPusher,
        Pusher,
        PusherConfig,
        PusherConfigException,
        canonicalise_email,
        running_pusher,
        wrap_pusher_types,
    )
except ImportError as error:
    raise ImportError(does_not_fit([str(error)])) from error

if TYPE_CHECKING:
    from synapse.server import HomeServer

__all__ = [
    "SEAMS",
    "TESTED_VERSIONS",
    "CrossProcessCache",
    "EmailPushAction",
    "EmailPusher",
    "HttpPushAction",
    "HttpPusher",
    "InvalidRuleException",
    "NotificationsServlet",
    "PushRuleLimits",
    "PushRuleRestServlet",
    "PushRulesStream",
    "Pusher",
    "PusherConfig",
    "PusherConfigException",
    "PushersRestServlet",
    "PushersSetRestServlet",
    "RuleCompiler",
    "RuleNotFoundException",
    "RuleSpec",
    "Seam",
    "SeamError",
    "SeamStatus",
    "VersionsRestServlet",
    "canonicalise_email",
    "check_actions",
    "client_patterns",
    "connection_of_this_thread",
    "database",
    "deserialize_actions",
    "endpoints",
    "evaluation",
    "has_table",
    "inspect_seams",
    "make_linearizer",
    "make_ratelimiter",
    "may_see",
    "normalise_rule",
    "part_of_ruleset",
    "priority_class",
    "push_actions",
    "push_rule_limits",
    "push_rules",
    "pushers",
    "read_receipts_txn",
    "register_servlets",
    "rule_from_request",
    "rule_spec",
    "running_pusher",
    "verify",
    "wrap",
    "wrap_evaluators",
    "wrap_pusher_types",
]

#: All that the module needs of Synapse.
SEAMS: tuple[Seam, ...] = (
    *evaluation.SEAMS,
    *pushers.SEAMS,
    *push_actions.SEAMS,
    *push_rules.SEAMS,
    *endpoints.SEAMS,
    *database.SEAMS,
)


def inspect_seams(hs: HomeServer | None = None) -> list[SeamStatus]:
    """Compare Synapse with what `SEAMS` declares. Changes nothing.

    Args:
        hs: the homeserver, for the seams that only exist in a running one; without it, these
            are left out.
    """
    return inspect_each(SEAMS, hs)


def verify(hs: HomeServer) -> None:
    """Check every seam.

    Raises:
        SeamError: something is missing or of another shape. The message names each seam that
            is, Synapse's version and the versions that this release was tested on.
    """
    broken = [status for status in inspect_seams(hs) if status.problem]
    if broken:
        raise SeamError(
            does_not_fit([f"{status.seam.where}: {status.problem}" for status in broken])
        )


def wrap(target: object, seam: Seam, wrapper: Callable[..., Any]) -> None:
    """Put a wrapper in the place of a method of one object.

    Args:
        target: the object, of one homeserver: other homeservers of the process keep theirs.
        seam: the method, one of `SEAMS`, so that what is wrapped was checked.
        wrapper: called instead of it, with the bound method it replaces first and then the
            method's own arguments: ``async def get_pushers_by(self, native, keyvalues)``.

    Raises:
        SeamError: the seam is not declared.
    """
    if seam not in SEAMS:
        raise SeamError(f"{seam.where} is wrapped and not declared")
    native = getattr(target, seam.name)
    setattr(target, seam.name, functools.partial(wrapper, native))
