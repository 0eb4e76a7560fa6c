# SPDX-License-Identifier: AGPL-3.0-or-later
"""Event time: what runs when an event arrives, before Synapse persists it."""
