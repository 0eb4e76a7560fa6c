# SPDX-License-Identifier: AGPL-3.0-or-later
"""``GET /notifications``, which device rules do not change (SEMANTICS 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from synapse_msc3881 import seams
from synapse_msc3881.outcomes import without_mark

if TYPE_CHECKING:
    from synapse.http.site import SynapseRequest


class NotificationsServlet(seams.NotificationsServlet):
    """``GET /notifications``."""

    async def on_GET(self, request: SynapseRequest) -> tuple[int, dict[str, Any]]:
        """Synapse's answer without our mark in the actions."""
        code, body = await super().on_GET(request)
        for notification in body["notifications"]:
            notification["actions"] = without_mark(notification["actions"])
        return code, body
