# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the tests stand on: real Synapse processes on real databases."""
