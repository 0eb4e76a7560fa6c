# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fire time: what runs when a pusher has something to push."""
