# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tests with inputs that a machine thinks up. FUZZ_SECONDS makes each of them run that long."""
