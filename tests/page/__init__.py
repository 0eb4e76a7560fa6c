# SPDX-License-Identifier: AGPL-3.0-or-later
"""The page in a real browser, against a real Synapse: `make test-page`."""
