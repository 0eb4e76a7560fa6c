# SPDX-License-Identifier: AGPL-3.0-or-later
"""MSC3881 and MSC3837 for Synapse: remote control of pushers, and cascading profile tags."""

from synapse_msc3881.module import PusherControl

__all__ = ["PusherControl", "__version__"]

__version__ = "0.1.0"
