# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the module counts, in Synapse's own ``/metrics``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge

from synapse_msc3881 import __version__
from synapse_msc3881.cascade.profile_tags import GLOBAL
from synapse_msc3881.failures import Fallback

if TYPE_CHECKING:
    from synapse_msc3881.cascade.profile_tags import Decision

# One process may run several homeservers, so each metric has the label that Synapse's have.
_SERVER_NAME = "server_name"

_fallbacks = Counter(
    "synapse_msc3881_fallbacks",
    "Times the module failed at something and did what Synapse does instead, by what failed",
    labelnames=["reason", _SERVER_NAME],
)
_scopes_evaluated = Counter(
    "synapse_msc3881_scopes_evaluated",
    "Device scopes that were evaluated for an event and a user",
    labelnames=[_SERVER_NAME],
)
_decisions = Counter(
    "synapse_msc3881_push_decisions",
    "What pushers with profile tags, or of devices with settings of their own, decided about events"
    " that were recorded for their user",
    labelnames=["outcome", _SERVER_NAME],
)
_undone = Counter(
    "synapse_msc3881_undone_by_omission",
    "Updates of pushers that omitted a field and so undid what was stored, by field",
    labelnames=["field", _SERVER_NAME],
)
_users = Gauge(
    "synapse_msc3881_users_with_device_rules",
    "Users who have a push rule in a device scope",
    labelnames=[_SERVER_NAME],
)
_pushers = Gauge(
    "synapse_msc3881_pushers",
    "Pushers that are stored, by whether they are enabled and have other tags than the default",
    labelnames=["enabled", "profile_tags", _SERVER_NAME],
)
_own = Gauge(
    "synapse_msc3881_devices_with_own_settings",
    "Devices that have notification settings of their own",
    labelnames=[_SERVER_NAME],
)
_info = Gauge(
    "synapse_msc3881_info",
    "Always 1, on each process that has the module; its version",
    labelnames=["version", _SERVER_NAME],
)

#: The fields of a pusher whose omission means a default (specification 1).
OMITTABLE = ("enabled", "profile_tags")

_BY_DEVICE_SCOPE = ("silenced_by_device_scope", "pushed_by_device_scope")
_BY_GLOBAL = ("silenced_by_global", "pushed_by_global")
_NO_MATCH = "no_match"


class Metrics:
    """What this process counts for one homeserver.

    All series except those of `show_stored` exist from the start, at 0: Prometheus does not see
    the first step of one that appears later.
    """

    def __init__(self, server_name: str) -> None:
        """
        Args:
            server_name: the homeserver's name, the label of its metrics.
        """
        self._server_name = server_name
        self._decisions = {
            outcome: _decisions.labels(outcome, server_name)
            for outcome in (*_BY_DEVICE_SCOPE, *_BY_GLOBAL, _NO_MATCH)
        }
        self._scopes_evaluated = _scopes_evaluated.labels(server_name)
        for fallback in Fallback:
            _fallbacks.labels(fallback.reason, server_name)
        for field in OMITTABLE:
            _undone.labels(field, server_name)
        _info.labels(__version__, server_name).set(1)

    def fell_back(self, fallback: Fallback) -> None:
        """Count a failure of the module's own."""
        _fallbacks.labels(fallback.reason, self._server_name).inc()

    def evaluated(self, scopes: int) -> None:
        """Count the device scopes that were evaluated for all of an event's users."""
        self._scopes_evaluated.inc(scopes)

    def decided(self, decision: Decision | None) -> None:
        """Count what a pusher with profile tags decided about an event."""
        outcome = _NO_MATCH
        if decision is not None:
            by = _BY_GLOBAL if decision.scope == GLOBAL else _BY_DEVICE_SCOPE
            outcome = by[decision.pushes]
        self._decisions[outcome].inc()

    def undone_by_omission(self, field: str) -> None:
        """Count an update of a pusher that omitted a field, and so set it to its default."""
        _undone.labels(field, self._server_name).inc()

    def show_stored(
        self, users: int, pushers: Mapping[tuple[bool, bool], int], own: int = 0
    ) -> None:
        """Show what is stored. Only one process may do so, so that nothing is counted twice.

        Args:
            users: the users with device rules.
            pushers: how many there are, by whether they are enabled and have profile tags.
            own: the devices with settings of their own.
        """
        _own.labels(self._server_name).set(own)
        _users.labels(self._server_name).set(users)
        for enabled in (True, False):
            for tagged in (True, False):
                labels = str(enabled).lower(), str(tagged).lower(), self._server_name
                _pushers.labels(*labels).set(pushers.get((enabled, tagged), 0))
