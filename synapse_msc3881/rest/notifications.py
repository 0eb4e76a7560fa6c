# SPDX-License-Identifier: AGPL-3.0-or-later
"""``GET /notifications``, which device rules do not change (specification 4)."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from synapse.module_api.errors import SynapseError

from synapse_msc3881 import seams
from synapse_msc3881.cascade.outcomes import without_mark

if TYPE_CHECKING:
    from synapse.http.site import SynapseRequest


# A number with no more characters fits into the 64 bits of a stream ordering.
_MAX_TOKEN_LENGTH = 18


class NotificationsServlet(seams.NotificationsServlet):
    """``GET /notifications``."""

    async def on_GET(self, request: SynapseRequest) -> tuple[int, dict[str, Any]]:
        """Synapse's answer without our mark in the actions."""
        _check_from(request)
        code, body = await super().on_GET(request)
        for notification in body["notifications"]:
            notification["actions"] = without_mark(notification["actions"])
        return code, body


def _check_from(request: SynapseRequest) -> None:
    """Refuse a number that SQLite cannot compare; Synapse refuses what is not a number."""
    token = seams.parse_string(request, "from")
    if token is not None and len(token) > _MAX_TOKEN_LENGTH:
        raise SynapseError(
            HTTPStatus.BAD_REQUEST, 'Query parameter "from" contains unrecognised token'
        )
