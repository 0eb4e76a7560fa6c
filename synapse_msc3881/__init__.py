# SPDX-License-Identifier: AGPL-3.0-or-later
"""MSC3881 and MSC3837 for Synapse: remote control of pushers, and cascading profile tags."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from synapse_msc3881.module import PusherControl

__all__ = ["PusherControl", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # Imported only when Synapse asks for it, so that the package can be imported without Synapse,
    # or to find out why a Synapse does not fit.
    if name == "PusherControl":
        from synapse_msc3881.module import PusherControl  # noqa: PLC0415

        return PusherControl
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
