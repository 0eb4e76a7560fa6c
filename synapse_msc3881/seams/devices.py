# SPDX-License-Identifier: AGPL-3.0-or-later
"""Devices: which one reads push rules by sync or by a request, and when they are deleted."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import attr

from synapse_msc3881.seams.declaring import STORE, Seam
from synapse_msc3881.seams.homeserver import main_store

if TYPE_CHECKING:
    from synapse.http.site import SynapseRequest
    from synapse.module_api import UserID
    from synapse.server import HomeServer

    from synapse_msc3881.seams.endpoints import PushRuleRestServlet

SYNC = "synapse.handlers.sync:SyncHandler."
EXTENSIONS = "synapse.handlers.sliding_sync.extensions:SlidingSyncExtensionHandler."

GENERATE_SYNC_ENTRY_FOR_ACCOUNT_DATA = Seam(
    SYNC + "_generate_sync_entry_for_account_data",
    "sets the builder's `account_data` to a list of events, for the device of its `sync_config`, "
    "which is part of the response cache's key",
    parameters=("sync_result_builder",),
)
GET_ACCOUNT_DATA_EXTENSION_RESPONSE = Seam(
    EXTENSIONS + "get_account_data_extension_response",
    "the account data of a sliding sync, for the device of `sync_config`; called with named "
    "arguments",
    parameters=("sync_config",),
)
DELETE_DEVICES = Seam(
    STORE + "delete_devices",
    "every way of deleting a device ends here, on the process that does it; deletes up to 100 in "
    "one transaction, where we delete the scopes of those with settings of their own",
    parameters=("user_id", "device_ids"),
    calls=("db_pool", "runInteraction"),
)

SEAMS: tuple[Seam, ...] = (
    GENERATE_SYNC_ENTRY_FOR_ACCOUNT_DATA,
    GET_ACCOUNT_DATA_EXTENSION_RESPONSE,
    DELETE_DEVICES,
    Seam("synapse.server:HomeServer.get_sync_handler", "one handler for each homeserver"),
    Seam("synapse.server:HomeServer.get_sliding_sync_handler", "one handler for each homeserver"),
    Seam(
        "synapse.handlers.sliding_sync:SlidingSyncHandler",
        "`extensions` creates the parts of a response other than the rooms",
        attributes=("extensions",),
    ),
    Seam(
        "synapse.handlers.sync:SyncResultBuilder",
        "a response of /sync while it is being built",
        attributes=("sync_config", "account_data"),
    ),
    Seam("synapse.handlers.sync:SyncConfig", "who asks for what", attributes=("device_id",)),
    Seam(
        "synapse.types.handlers.sliding_sync:SlidingSyncConfig",
        "who asks for what",
        attributes=("requester",),
    ),
    Seam(
        "synapse.types.handlers.sliding_sync:SlidingSyncResult.Extensions.AccountDataExtension",
        "`global_account_data_map` has the content of each type",
        attributes=("global_account_data_map",),
    ),
    Seam(
        "synapse.http.site:SynapseRequest",
        "`requester` is who asks, once the token has been checked",
        attributes=("requester",),
    ),
    Seam(
        "synapse.rest.client.push_rule:PushRuleRestServlet",
        "reads through the handler, and writes through it and through the store",
        attributes=("store", "_push_rules_handler", "_push_rule_linearizer"),
    ),
    Seam(
        "synapse.handlers.push_rules:PushRulesHandler",
        "writes through the store",
        attributes=("_main_store",),
    ),
)

_PUSH_RULES = "m.push_rules"

#: Gives the push rules that a device of this id reads, of those that Synapse gives for its user.
Show = Callable[[Any, "str | None"], Any]


def requesting_device(request: SynapseRequest) -> str | None:
    """The device of a request whose token is known; None where it has none."""
    device_id: str | None = getattr(request.requester, "device_id", None)
    return device_id


def show_in_sync(sync_result_builder: Any, show: Show) -> None:
    """Have a response of /sync show push rules as its device reads them."""
    for event in sync_result_builder.account_data:
        if event["type"] == _PUSH_RULES:
            event["content"] = show(event["content"], sync_result_builder.sync_config.device_id)


def show_in_extension(extension: Any, sync_config: Any, show: Show) -> Any:
    """The account data of a sliding sync, with the push rules as its device reads them."""
    if extension is None or _PUSH_RULES not in extension.global_account_data_map:
        return extension
    account_data = extension.global_account_data_map
    rules = show(account_data[_PUSH_RULES], sync_config.requester.device_id)
    return attr.evolve(extension, global_account_data_map={**account_data, _PUSH_RULES: rules})


def deletes_devices(hs: HomeServer) -> bool:
    """Whether this process may delete devices."""
    return hasattr(main_store(hs), "delete_devices")


class _ShownRules:
    """In the place of Synapse's handler, for one request that reads."""

    def __init__(self, read: Callable[[UserID], Awaitable[Any]]) -> None:
        self.push_rules_for_user = read


def servlet_showing(
    servlet: PushRuleRestServlet, read: Callable[[UserID], Awaitable[Any]]
) -> PushRuleRestServlet:
    """A copy of Synapse's servlet, to answer one GET.

    Args:
        servlet: the servlet.
        read: gives the user's rules that are answered with.
    """
    showing = copy.copy(servlet)
    showing._push_rules_handler = _ShownRules(read)  # type: ignore[assignment]
    return showing


def servlet_writing_to(servlet: PushRuleRestServlet, store: Any) -> PushRuleRestServlet:
    """A copy of Synapse's servlet, to handle one PUT or DELETE.

    Args:
        servlet: the servlet.
        store: takes what Synapse would write to its own, and wakes up those who wait for it.
    """
    handler = copy.copy(servlet._push_rules_handler)
    handler._main_store = store
    handler.notify_user = lambda _user_id: None  # type: ignore[method-assign,assignment]
    writing = copy.copy(servlet)
    writing.store = store
    writing._push_rules_handler = handler
    return writing
