# SPDX-License-Identifier: AGPL-3.0-or-later
"""What decides a push, and nothing of Synapse: tags, outcomes, rules, explanations."""
