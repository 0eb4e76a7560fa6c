# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where users sign in, if that is the job of an OAuth server and not of Synapse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attr

from synapse_msc3881.seams.declaring import Seam

if TYPE_CHECKING:
    from synapse.server import HomeServer

SEAMS: tuple[Seam, ...] = (
    Seam("hs:config.mas", "the section `mas` of the config", since="1.136", optional=True),
    Seam(
        "synapse.config.mas:MasConfig",
        "the section `mas`: whether there is an OAuth server, and where",
        since="1.136",
        attributes=("enabled", "endpoint"),
        optional=True,
    ),
    Seam("hs:config.experimental.msc3861", "the experimental precursor of `mas`", optional=True),
    Seam(
        "synapse.config.experimental:MSC3861",
        "`msc3861` in the experimental section, before 1.157: instead of `mas`, or beside it",
        attributes=("enabled", "issuer", "issuer_metadata"),
        optional=True,
    ),
)


@attr.s(auto_attribs=True, frozen=True, slots=True)
class OAuthDiscovery:
    """How to find out about the OAuth server; both are None if there is none.

    Attributes:
        url: where to get its metadata.
        metadata: the metadata itself, if the config has it.
    """

    url: str | None = None
    metadata: Mapping[str, Any] | None = None


def oauth_discovery(hs: HomeServer) -> OAuthDiscovery:
    """What this homeserver's config says about an OAuth server that users sign in with."""
    config: Any = hs.config
    stable = getattr(config, "mas", None)
    if stable is not None and stable.enabled:
        return OAuthDiscovery(_well_known(str(stable.endpoint)))
    experimental = getattr(config.experimental, "msc3861", None)
    if experimental is not None and experimental.enabled:
        metadata = experimental.issuer_metadata
        return OAuthDiscovery(_well_known(experimental.issuer), metadata)
    return OAuthDiscovery()


def _well_known(server: str) -> str:
    return f"{server.rstrip('/')}/.well-known/openid-configuration"
