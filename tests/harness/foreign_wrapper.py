# SPDX-License-Identifier: AGPL-3.0-or-later
"""A Synapse module for tests: another module that wraps what ours wraps, before ours does.

Functions of its own stand where ours finds the store's methods, so that ours cannot reach into
their transactions.
"""

from typing import Any

from synapse.module_api import ModuleApi

MODULE = {"module": "tests.harness.foreign_wrapper.ForeignWrapper", "config": {}}

METHODS = (
    "add_pusher",
    "get_pushers_by",
    "get_enabled_pushers",
    "delete_pusher_by_app_id_pushkey_user_id",
    "delete_all_pushers_for_user",
)


class ForeignWrapper:
    """Puts a function in the place of each of `METHODS`."""

    def __init__(self, config: Any, api: ModuleApi) -> None:
        del config
        store: Any = api._hs.get_datastores().main
        for name in METHODS:
            setattr(store, name, _wrapped(getattr(store, name)))


def _wrapped(native: Any) -> Any:
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await native(*args, **kwargs)

    return call
