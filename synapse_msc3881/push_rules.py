# SPDX-License-Identifier: AGPL-3.0-or-later
"""A user's push rules where Synapse shows them (specification 3 and 9).

With the device scopes, and for a device with settings of its own with these as `global`. Where
Synapse asks for the rules it names the user alone. So a user with such devices gets rules that know
what each of them reads, and whoever answers a device, by sync or otherwise, has it read its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from synapse_msc3881 import seams
from synapse_msc3881.cascade.own_settings import (
    OwnSettings,
    complete_rows,
    in_place_of_stand_ins,
    is_shown_otherwise,
    stand_ins,
)
from synapse_msc3881.cascade.rulesets import Ruleset, format_for_client
from synapse_msc3881.failures import Failures, Fallback

if TYPE_CHECKING:
    from synapse.module_api import UserID
    from synapse.server import HomeServer

    from synapse_msc3881.cascade.rulesets import DeviceRule
    from synapse_msc3881.storage.device_rules import StoredRules
    from synapse_msc3881.storage.own_settings import DeleteDevices, OwnSettingsStore


class RulesByDevice(dict[str, Any]):
    """The push rules of a user who has devices with settings of their own.

    The dictionary itself is what the user's other devices read.
    """

    def __init__(
        self, rules: Mapping[str, Any], own: Mapping[str, Callable[[], Ruleset | None]]
    ) -> None:
        """
        Args:
            rules: what the devices without settings of their own read.
            own: gives what each of the others reads as `global`; None where that failed.
        """
        super().__init__(rules)
        self._own = own

    def for_device(self, device_id: str | None) -> dict[str, Any]:
        """What a device reads: one set or the other, never parts of both."""
        make = self._own.get(device_id) if device_id is not None else None
        complete = make() if make is not None else None
        return self if complete is None else {**self, "global": complete}


def for_device(rules: Any, device_id: str | None) -> Any:
    """What a device reads of what Synapse gives for its user; may be no push rules at all."""
    return rules.for_device(device_id) if isinstance(rules, RulesByDevice) else rules


def shown_as_global(
    hs: HomeServer,
    user: UserID,
    rules: Iterable[DeviceRule],
    own: OwnSettings,
    users: Ruleset,
) -> Ruleset:
    """What a device with settings of its own reads as `global`.

    Args:
        hs: the homeserver, which adds the server-default rules.
        user: whose device it is.
        rules: the user's device rules, in any scope.
        own: the device's own settings.
        users: the rules of the device's scope as they are shown there. Nearly all of them have the
            same form in `global`.

    Raises:
        Exception: a row is no rule.
    """
    otherwise = [
        rule for rule in rules if rule.profile_tag == own.device_id and is_shown_otherwise(rule)
    ]
    if otherwise:
        users = _as_synapse_shows(hs, user, otherwise, users)
    return in_place_of_stand_ins(_format(hs, user, stand_ins(own.device_id), own), users)


def _as_synapse_shows(
    hs: HomeServer, user: UserID, rules: Sequence[DeviceRule], users: Ruleset
) -> Ruleset:
    """A ruleset in which some of the rules are as Synapse shows them, or left out as it does."""
    shown = _format(hs, user, rules, OwnSettings(rules[0].profile_tag, {}))
    asked = {(rule.kind, rule.rule_id) for rule in rules}
    given = {(kind, rule["rule_id"]): rule for kind in shown for rule in shown[kind]}
    return {
        kind: [
            given.get((kind, rule["rule_id"]), rule)
            for rule in of_kind
            if (kind, rule["rule_id"]) in given or (kind, rule["rule_id"]) not in asked
        ]
        for kind, of_kind in users.items()
    }


def _format(hs: HomeServer, user: UserID, rules: Iterable[DeviceRule], own: OwnSettings) -> Ruleset:
    rows, enabled = complete_rows(rules, own)
    return seams.format_rules(user, seams.complete_rules(hs, rows, enabled))


class RemovedScopes:
    """Stands for a cache: hears, on all processes, that a user has lost a scope by a logout."""

    def __init__(self) -> None:
        #: Called with the user.
        self.on_removed: Callable[[str], object] = lambda _user_id: None

    def invalidate(self, key: tuple[str, ...]) -> None:
        """A user has lost a scope. Called by Synapse."""
        self.on_removed(key[0])

    def invalidate_all(self) -> None:
        """Nothing is known of anybody. Called by Synapse."""


class DevicePushRules:
    """The module's part in the push rules of one homeserver."""

    def __init__(
        self,
        hs: HomeServer,
        own: OwnSettingsStore,
        followed: Callable[[str], Awaitable[None]],
        failures: Failures,
    ) -> None:
        """
        Args:
            hs: the homeserver.
            own: devices' own settings, and with them the device rules.
            followed: returns once this process's pushers of a user follow what was switched.
            failures: where rules that cannot be shown or copied are reported.
        """
        self.own = own
        self.followed = followed
        self.rules = own.rules
        #: One request of a user at a time writes, whichever port it came to: what `global` means
        #: must not change on the way.
        self.writing = seams.make_linearizer(hs, "msc3881_push_rules")
        self._hs = hs
        self._failures = failures

    async def shown(self, user_id: str) -> dict[str, Ruleset]:
        """A user's device scopes as clients see them.

        They are read from the database, not from a cache: a sync that the push rules stream wakes
        must see what woke it, even for a user's very first device rule.
        """
        return self._scopes(user_id, await self.rules.for_user(user_id))

    def _scopes(self, user_id: str, rules: list[DeviceRule]) -> dict[str, Ruleset]:
        def report_bad(rule: DeviceRule, error: Exception) -> None:
            self._failures.report(Fallback.READ_RULES, user_id, error, rule.where)

        return format_for_client(rules, report_bad)

    async def push_rules_for_user(
        self, native: Callable[[UserID], Awaitable[dict[str, Any]]], user: UserID
    ) -> dict[str, Any]:
        """Wrap what /sync, sliding sync, account data and ``GET /pushrules/`` show."""
        rules = await native(user)
        user_id = user.to_string()
        stored = (await self.rules.read([user_id]))[user_id]
        scopes = self._scopes(user_id, stored.rules)
        if scopes:
            rules = {**rules, "device": scopes}
        if not stored.own:
            return rules
        complete = {
            device_id: partial(self._complete, user, stored, own, scopes)
            for device_id, own in stored.own.items()
        }
        return RulesByDevice(rules, complete)

    async def for_request(self, user: UserID, device_id: str | None) -> Any:
        """What a device reads that asks by a request of its own.

        One with its own settings is not shown the account's rules: these are not even read.
        """
        user_id = user.to_string()
        if device_id is not None and await self._may_have_own(user_id, device_id):
            stored = (await self.rules.read([user_id]))[user_id]
            scopes = self._scopes(user_id, stored.rules)
            own = stored.own.get(device_id)
            complete = own and self._complete(user, stored, own, scopes)
            if complete is not None:
                return {"global": complete, **({"device": scopes} if scopes else {})}
        return for_device(await seams.push_rules_of(self._hs, user), device_id)

    async def _may_have_own(self, user_id: str, device_id: str) -> bool:
        if user_id not in self.rules.own_users:
            return False
        return device_id in (await self.rules.own_devices([user_id])).get(user_id, ())

    def _complete(
        self,
        user: UserID,
        stored: StoredRules,
        own: OwnSettings,
        scopes: Mapping[str, Ruleset],
    ) -> Ruleset | None:
        """What a device with settings of its own reads as `global`; None where that fails."""
        try:
            users = scopes.get(own.device_id, {})
            return shown_as_global(self._hs, user, stored.rules, own, users)
        except Exception as error:  # noqa: BLE001 - a client that cannot sync is worse off
            self._failures.report(Fallback.SHOW_OWN, user.to_string(), error)
            return None

    async def sync_account_data(
        self, native: Callable[..., Awaitable[None]], sync_result_builder: Any
    ) -> None:
        """Wrap the account data of a response of /sync."""
        await native(sync_result_builder)
        seams.show_in_sync(sync_result_builder, for_device)

    async def sliding_sync_account_data(
        self, native: Callable[..., Awaitable[Any]], sync_config: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Wrap the account data of a response of sliding sync."""
        extension = await native(sync_config, *args, **kwargs)
        return seams.show_in_extension(extension, sync_config, for_device)

    async def delete_devices(
        self, native: DeleteDevices, user_id: str, device_ids: Collection[str]
    ) -> None:
        """Wrap the deletion of devices, with whose own settings their scopes go.

        Nothing of ours may fail a logout.
        """
        if user_id in self.rules.own_users:
            try:
                await self.own.delete_devices(native, user_id, device_ids)
            except Exception as error:  # noqa: BLE001 - as above
                self._failures.report(Fallback.FORGET, user_id, error)
                await native(user_id, device_ids)
            return
        await native(user_id, device_ids)
        try:  # They may have been given settings meanwhile, or this process has not heard of them.
            await self.own.forget_devices(user_id, device_ids)
        except Exception as error:  # noqa: BLE001 - as above
            self._failures.report(Fallback.FORGET, user_id, error)

    async def copy_at_room_upgrade(
        self,
        native: Callable[[str, str, str], Awaitable[None]],
        old_room_id: str,
        new_room_id: str,
        user_id: str,
    ) -> None:
        """Wrap the copying of a user's rules about a room to its successor (specification 6)."""
        await native(old_room_id, new_room_id, user_id)
        try:
            await self.rules.copy_room_rules(user_id, old_room_id, new_room_id)
        except Exception as error:  # noqa: BLE001 - nothing of ours may fail an upgrade
            self._failures.report(Fallback.COPY, user_id, error)
