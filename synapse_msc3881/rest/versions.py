# SPDX-License-Identifier: AGPL-3.0-or-later
"""``GET /_matrix/client/versions``, which announces the proposals (specification 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from synapse_msc3881 import seams

if TYPE_CHECKING:
    from synapse.http.site import SynapseRequest

UNSTABLE_FEATURES = ("org.matrix.msc3881", "org.matrix.msc3881.stable", "org.matrix.msc3837")


class VersionsServlet(seams.VersionsRestServlet):
    """``GET /_matrix/client/versions``."""

    async def on_GET(self, request: SynapseRequest) -> tuple[int, dict[str, Any]]:
        """Synapse's answer with our flags in its `unstable_features`."""
        code, body = await super().on_GET(request)
        features = {**body.get("unstable_features", {}), **dict.fromkeys(UNSTABLE_FEATURES, True)}
        return code, {**body, "unstable_features": features}
