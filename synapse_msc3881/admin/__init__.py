# SPDX-License-Identifier: AGPL-3.0-or-later
"""The commands for admins: `python -m synapse_msc3881 …`."""
