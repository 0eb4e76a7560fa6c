# SPDX-License-Identifier: AGPL-3.0-or-later
"""The module under client libraries that others wrote."""
