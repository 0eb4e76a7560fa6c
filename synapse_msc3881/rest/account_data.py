# SPDX-License-Identifier: AGPL-3.0-or-later
"""``GET …/account_data/m.push_rules``, for a device with settings of its own (specification 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from synapse_msc3881 import seams
from synapse_msc3881.push_rules import for_device

if TYPE_CHECKING:
    from synapse.http.site import SynapseRequest


class AccountDataServlet(seams.AccountDataServlet):
    """Account data that is read or written by itself."""

    async def on_GET(
        self, request: SynapseRequest, user_id: str, account_data_type: str
    ) -> tuple[int, Any]:
        """Synapse's answer, with push rules as the device reads them."""
        code, content = await super().on_GET(request, user_id, account_data_type)
        return code, for_device(content, seams.requesting_device(request))
