# SPDX-License-Identifier: AGPL-3.0-or-later
"""The module class, which wires everything up. Read it as a table of contents."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import attr
from synapse.module_api import ModuleApi

from synapse_msc3881 import seams
from synapse_msc3881.census import Census
from synapse_msc3881.config import Config, parse_config
from synapse_msc3881.delivery.own_devices import OwnDevices
from synapse_msc3881.delivery.positions import Positions
from synapse_msc3881.delivery.pushers import Pushers
from synapse_msc3881.delivery.running_pushers import RunningPushers
from synapse_msc3881.delivery.stored_pushers import StoredPushers
from synapse_msc3881.delivery.waking import Waking
from synapse_msc3881.evaluation.compile_debts import CompileDebts
from synapse_msc3881.evaluation.compiling import Compiler
from synapse_msc3881.evaluation.device_scopes import DeviceScopes
from synapse_msc3881.evaluation.evaluator import Evaluation, wrap_evaluator
from synapse_msc3881.evaluation.held_scopes import HeldScopes
from synapse_msc3881.evaluation.slices import Slices
from synapse_msc3881.evaluation.spending import Spending
from synapse_msc3881.failures import Failures
from synapse_msc3881.metrics import Metrics
from synapse_msc3881.page.resource import serve_page
from synapse_msc3881.push_rules import DevicePushRules, RemovedScopes
from synapse_msc3881.rest.account_data import AccountDataServlet
from synapse_msc3881.rest.explain import ExplainServlet
from synapse_msc3881.rest.notifications import NotificationsServlet
from synapse_msc3881.rest.push_rules import PushRulesServlet
from synapse_msc3881.rest.pushers import PushersServlet, PushersSetServlet
from synapse_msc3881.rest.versions import VersionsServlet
from synapse_msc3881.storage.device_rules import DeviceRuleStore
from synapse_msc3881.storage.migrations import StoredUsers, prepare_tables
from synapse_msc3881.storage.own_settings import OwnSettingsStore
from synapse_msc3881.storage.push_actions import PushActionStore
from synapse_msc3881.storage.pusher_positions import PusherPositionStore
from synapse_msc3881.storage.pusher_tags import PusherTagStore
from synapse_msc3881.storage.stored_counts import StoredCounts

if TYPE_CHECKING:
    from synapse.http.server import HttpServer
    from synapse.server import HomeServer

logger = logging.getLogger(__name__)

# One process may run several homeservers, with and without the module: each keeps its own.
_ATTRIBUTE = "_synapse_msc3881"


@attr.s(auto_attribs=True, frozen=True)
class _Base:
    """What many parts of the module stand on."""

    hs: HomeServer
    api: ModuleApi
    failures: Failures
    metrics: Metrics


class PusherControl:
    """The module: ``synapse_msc3881.PusherControl`` in ``homeserver.yaml``."""

    def __init__(self, config: Config | Mapping[str, Any] | None, api: ModuleApi) -> None:
        """Install the module into a homeserver, before it serves anything.

        Args:
            config: the parsed options, or what is under ``config:``.
            api: Synapse's module API.

        Raises:
            SeamError: this Synapse does not have the shape that the module relies on.
            ConfigError: an option is bad.
        """
        hs = seams.verify(api)
        self.api = api
        is_main = api.worker_app is None
        self.config = config if isinstance(config, Config) else parse_config(config)
        if hasattr(hs, _ATTRIBUTE):
            logger.warning("msc3881: the module is in the config twice; the first one counts")
            return

        users = prepare_tables(hs, is_main)
        metrics = Metrics(api.server_name)
        self.failures = Failures(metrics.fell_back, time.monotonic)
        base = _Base(hs, api, self.failures, metrics)
        held, own = HeldScopes(users.tagged | users.own), OwnDevices(users.own)
        tags, rules = self._make_stores(base, users, held, own)
        self._tags = tags
        compiler = seams.RuleCompiler(hs)
        scopes = _make_scopes(base, held, rules, tags, compiler)
        self.push_rules = _make_push_rules(base, rules, own)
        self._are_syncs_wrapped = False
        census = Census(StoredCounts(api), metrics, api.delayed_background_call, time.monotonic)

        _install_evaluation(hs, Evaluation(scopes, compiler, Spending(), self.failures, metrics))
        self.pushers = _install_delivery(base, scopes, StoredPushers(tags, own, census), own)
        _install_push_rules(hs, self.push_rules)
        self._serve(hs)
        api.register_third_party_rules_callbacks(
            on_user_deactivation_status_changed=self._on_deactivation
        )
        if is_main:  # One process counts, and hears of each change.
            held.on_change = census.changed
            census.changed()
            # A pusher that it made before it heard of the switch is unknown to the others.
            own.on_first = partial(_invalidate_later, api, tags)
        setattr(hs, _ATTRIBUTE, self)

    def _make_stores(
        self, base: _Base, users: StoredUsers, held: HeldScopes, own: OwnDevices
    ) -> tuple[PusherTagStore, DeviceRuleStore]:
        """Make the stores of tags and rules, which tell all processes of what they change."""
        scopes = seams.CrossProcessCache(base.hs, "synapse_msc3881.evaluation.device_scopes", held)
        switches = seams.CrossProcessCache(base.hs, "synapse_msc3881.delivery.own_devices", own)
        rules = DeviceRuleStore(
            base.hs,
            base.api,
            self.config.limits.device_scopes_per_user,
            scopes.invalidate_txn,
            base.failures,
            users.own,
            switches.invalidate_txn,
        )
        return PusherTagStore(base.api, scopes.invalidate_txn, base.failures), rules

    def _serve(self, hs: HomeServer) -> None:
        """Serve the endpoints, and the page if it is on."""
        seams.register_servlets(_register_servlets)
        if self.config.page.enabled:
            serve_page(hs, self.api)

    def wrap_syncs(self, hs: HomeServer) -> None:
        """Have syncs show a device its own settings; Synapse makes their handlers late."""
        if not self._are_syncs_wrapped:
            self._are_syncs_wrapped = True
            _install_syncs(hs, self.push_rules)

    @staticmethod
    def parse_config(config: object) -> Config:
        """Check the options; Synapse calls this when it reads its config."""
        return parse_config(config)

    async def _on_deactivation(self, user_id: str, deactivated: bool, _by_admin: bool) -> None:
        """Remove what a deactivated user leaves behind (specification 6)."""
        if deactivated:
            await self.push_rules.rules.delete_all(user_id)
            await self._tags.delete_all(user_id)


def _invalidate_later(api: ModuleApi, tags: PusherTagStore, user_id: str) -> None:
    api.delayed_background_call(0, tags.invalidate, user_id, desc="msc3881_first_own_settings")


def _make_scopes(
    base: _Base,
    held: HeldScopes,
    rules: DeviceRuleStore,
    tags: PusherTagStore,
    compiler: seams.RuleCompiler,
) -> DeviceScopes:
    """Make what reads and compiles users' device scopes when events need them."""
    api = base.api
    return DeviceScopes(
        held,
        rules,
        tags,
        Compiler(compiler.compile, compiler.compile_complete),
        compiler,
        Slices(api.delayed_background_call, api.sleep),
        CompileDebts(time.monotonic),
        base.failures,
        api.delayed_background_call,
    )


def _make_push_rules(base: _Base, rules: DeviceRuleStore, own: OwnDevices) -> DevicePushRules:
    """Make what shows and writes device rules, and devices' own settings."""
    removed = RemovedScopes()
    removal = seams.CrossProcessCache(base.hs, "synapse_msc3881.push_rules.removed", removed)
    own_settings = OwnSettingsStore(base.hs, base.api, rules, removal.invalidate_txn, base.failures)
    if seams.writes_push_rules(base.hs):
        removed.on_removed = partial(
            base.api.delayed_background_call,
            0,
            own_settings.tell_of_removed,
            desc="msc3881_scope_removed",
        )
    return DevicePushRules(base.hs, own_settings, own.followed, base.failures)


def _install_evaluation(hs: HomeServer, evaluation: Evaluation) -> None:
    seams.wrap(hs, seams.evaluation.BULK_GET_PUSH_RULES, evaluation.bulk_get_push_rules)
    seams.wrap(hs, seams.evaluation.ADD_PUSH_ACTIONS_TO_STAGING, evaluation.add_to_staging)
    seams.wrap_evaluators(wrap_evaluator)


def _install_delivery(
    base: _Base, scopes: DeviceScopes, stored: StoredPushers, own: OwnDevices
) -> Pushers:
    """Install what happens to pushers; returns what sets and removes them."""
    hs, api, is_main = base.hs, base.api, base.api.worker_app is None
    push_actions = PushActionStore(hs, api)
    positions = Positions(hs, api, PusherPositionStore(api, seams.read_committed(hs)))
    pushers = Pushers(hs, stored, base.metrics)
    running = RunningPushers(
        hs,
        is_main,
        stored,
        push_actions,
        positions,
        own,
        base.failures,
        base.metrics,
        api.delayed_background_call,
    )
    _install_pushers(hs, pushers, stored, running, is_main)
    _install_waking(hs, Waking(hs, scopes, push_actions, positions, base.failures))
    return pushers


def _install_pushers(
    hs: HomeServer,
    pushers: Pushers,
    stored: StoredPushers,
    running: RunningPushers,
    is_main: bool,
) -> None:
    seams.wrap(hs, seams.pushers.GET_PUSHERS_BY, stored.get_pushers_by)
    seams.wrap(hs, seams.pushers.GET_ENABLED_PUSHERS, running.get_enabled_pushers)
    seams.wrap(hs, seams.pushers.PROCESS_PUSHER_CHANGE_BY_ID, running.process_pusher_change)
    seams.wrap(hs, seams.pushers.MAYBE_STOP_PUSHER, running.maybe_stop_pusher)
    if is_main:  # Pushers are written on the main process.
        seams.wrap(hs, seams.pushers.ADD_OR_UPDATE_PUSHER, pushers.add_or_update_pusher)
        seams.wrap(hs, seams.pushers.REMOVE_PUSHER, pushers.remove_pusher)
        seams.wrap(hs, seams.pushers.ADD_PUSHER, stored.add_pusher)
        seams.wrap(hs, seams.pushers.DELETE_PUSHER_BY_APP_ID_PUSHKEY_USER_ID, stored.delete_pusher)
        seams.wrap(hs, seams.pushers.DELETE_ALL_PUSHERS_FOR_USER, stored.delete_all_pushers)
    seams.wrap_pusher_types(hs, running.equip)


def _install_waking(hs: HomeServer, waking: Waking) -> None:
    seams.wrap(hs, seams.push_actions.GET_PUSH_ACTION_USERS_IN_RANGE, waking.users_to_wake)
    seams.wrap(hs, seams.push_actions.GET_IF_MAYBE_PUSH_IN_RANGE_FOR_USER, waking.may_have_push)


def _install_push_rules(hs: HomeServer, push_rules: DevicePushRules) -> None:
    seams.wrap(hs, seams.push_rules.PUSH_RULES_FOR_USER, push_rules.push_rules_for_user)
    seams.wrap(
        hs,
        seams.push_rules.COPY_PUSH_RULES_FROM_ROOM_TO_ROOM_FOR_USER,
        push_rules.copy_at_room_upgrade,
    )

    if seams.deletes_devices(hs):
        seams.wrap(hs, seams.devices.DELETE_DEVICES, push_rules.delete_devices)


def _install_syncs(hs: HomeServer, push_rules: DevicePushRules) -> None:
    seams.wrap(hs, seams.devices.GENERATE_SYNC_ENTRY_FOR_ACCOUNT_DATA, push_rules.sync_account_data)
    seams.wrap(
        hs,
        seams.devices.GET_ACCOUNT_DATA_EXTENSION_RESPONSE,
        push_rules.sliding_sync_account_data,
    )


def _register_servlets(hs: HomeServer, http_server: HttpServer) -> None:
    module: PusherControl | None = getattr(hs, _ATTRIBUTE, None)
    if module is None:
        return
    module.wrap_syncs(hs)
    VersionsServlet(hs).register(http_server)
    NotificationsServlet(hs).register(http_server)
    AccountDataServlet(hs).register(http_server)
    PushRulesServlet(hs, module.api, module.push_rules).register(http_server)
    ExplainServlet(hs, module.api, module.failures).register(http_server)
    if module.api.worker_app is None:  # Like Synapse's own: only on the main process.
        PushersServlet(hs, module.api).register(http_server)
        PushersSetServlet(hs, module.api, module.pushers, module.config).register(http_server)
