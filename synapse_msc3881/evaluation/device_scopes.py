# SPDX-License-Identifier: AGPL-3.0-or-later
"""What one process knows of its users' device scopes, so that an event costs no SQL.

Each process holds the set of users whose pushers have profile tags, read once at startup, and a
bounded cache of their compiled scopes. A change of tags or rules, on whichever process, comes
here as an invalidation: the user may have scopes now, and what is compiled is stale.

A disabled pusher's tags count here like any other's. Its scopes are evaluated for nothing, but
switching a pusher changes nothing that a process holds, and so can leave nothing stale.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import attr

from synapse_msc3881.evaluation.compiling import compile_user
from synapse_msc3881.evaluation.matching import UserScopes
from synapse_msc3881.evaluation.spending import Spending
from synapse_msc3881.metrics import Failures
from synapse_msc3881.storage.device_rules import DeviceRuleStore
from synapse_msc3881.storage.pusher_tags import PusherTagStore

if TYPE_CHECKING:
    from synapse_msc3881.cascade.rulesets import DeviceRule
    from synapse_msc3881.evaluation.compiling import Compile

#: How many users' compiled scopes a process keeps, and what they may take of its memory. The oldest
#: go first.
MAX_COMPILED = 20_000
MAX_COMPILED_BYTES = 250_000_000


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Failed:
    """Stands for the scopes of a user that could not be read or compiled, or are too costly."""


_INSTEAD = "this event goes by `global`"

#: A user's scopes; None where none could match an event.
Scopes = UserScopes | Failed | None


class HeldScopes:
    """The users with profile tags, and the compiled scopes of some of them."""

    def __init__(
        self,
        users: set[str],
        max_compiled: int = MAX_COMPILED,
        max_bytes: int = MAX_COMPILED_BYTES,
    ) -> None:
        self.users = users
        self.compiled: dict[str, Scopes] = {}
        # Tells whoever reads the database that what it read may be stale by now.
        self.invalidations = 0
        #: Called when something changed of a user, on whichever process.
        self.on_change: Callable[[], None] = lambda: None
        self._max_compiled = max_compiled
        self._max_bytes = max_bytes
        self._bytes = 0

    def invalidate(self, key: tuple[str, ...]) -> None:
        """Forget what is known of a user, who may have scopes now. Called by Synapse."""
        user_id = key[0]
        self.invalidations += 1
        self.users.add(user_id)
        self._drop(user_id)
        self.on_change()

    def invalidate_all(self) -> None:
        """Forget all compiled scopes. Called by Synapse."""
        self.invalidations += 1
        self.compiled.clear()
        self._bytes = 0

    def keep(self, user_id: str, scopes: Scopes) -> None:
        """Keep a user's compiled scopes, however large."""
        self._drop(user_id)
        size = _size(scopes)
        while self.compiled and (
            len(self.compiled) >= self._max_compiled or self._bytes + size > self._max_bytes
        ):
            self._drop(next(iter(self.compiled)))
        self.compiled[user_id] = scopes
        self._bytes += size

    def _drop(self, user_id: str) -> None:
        self._bytes -= _size(self.compiled.pop(user_id, None))


def _size(scopes: Scopes) -> int:
    return scopes.size if isinstance(scopes, UserScopes) else 0


class DeviceScopes:
    """Finds users' compiled scopes: held, or read and compiled."""

    def __init__(
        self,
        held: HeldScopes,
        rules: DeviceRuleStore,
        tags: PusherTagStore,
        compile_rules: Compile,
        spending: Spending,
        failures: Failures,
    ) -> None:
        self._held = held
        self._rules = rules
        self._tags = tags
        self._compile = compile_rules
        self._spending = spending
        self._failures = failures

    @property
    def users(self) -> Collection[str]:
        """The users whose pushers have profile tags, and perhaps some more."""
        return self._held.users

    def users_among(self, user_ids: Collection[str]) -> set[str]:
        """Those of the users whose pushers have profile tags, and perhaps some more."""
        users = self._held.users
        return users.intersection(user_ids) if users else users

    async def for_users(self, user_ids: Collection[str]) -> Mapping[str, UserScopes | Failed]:
        """The compiled scopes of those users, of all whom an event concerns, who have any.

        Never raises.
        """
        compiled = self._held.compiled
        missing = [each for each in user_ids if each not in compiled]
        found = {each: scopes for each in user_ids if (scopes := compiled.get(each)) is not None}
        if missing:
            found.update(await self._load(missing))
        return found

    async def _load(self, user_ids: Collection[str]) -> Mapping[str, UserScopes | Failed]:
        invalidations = self._held.invalidations
        try:
            tag_lists = await self._tags.lists_for_users(user_ids)
            tagged = [user_id for user_id, lists in tag_lists.items() if lists]
            rules = await self._rules.for_users(tagged)
        except Exception as error:  # noqa: BLE001 - nothing of ours may fail an event
            for user_id in user_ids:
                self._failures.report("load", user_id, error, _INSTEAD)
            return dict.fromkeys(user_ids, Failed())

        compiled = {
            user_id: self._compile_user(user_id, rules[user_id], tag_lists[user_id])
            for user_id in tagged
        }
        # What was read before an invalidation came is good enough for this event, not to keep.
        if invalidations == self._held.invalidations:
            self._held.users.difference_update(set(user_ids).difference(tagged))
            for user_id, scopes in compiled.items():
                self._held.keep(user_id, scopes)
        return {user_id: scopes for user_id, scopes in compiled.items() if scopes is not None}

    def _compile_user(
        self, user_id: str, rules: list[DeviceRule], tag_lists: list[tuple[str, ...]]
    ) -> Scopes:
        started = self._spending.clock()
        try:
            return compile_user(rules, tag_lists, self._compile)
        except Exception as error:  # noqa: BLE001 - nothing of ours may fail an event
            self._failures.report("compile", user_id, error, "events go by `global`")
            return Failed()
        finally:
            self._spending.charge(user_id, self._spending.clock() - started)
