# SPDX-License-Identifier: AGPL-3.0-or-later
"""Commands for admins: `python -m synapse_msc3881 …`. Each changes nothing."""
