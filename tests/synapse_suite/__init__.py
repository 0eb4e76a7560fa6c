# SPDX-License-Identifier: AGPL-3.0-or-later
"""Synapse's own tests, run with the module loaded in every homeserver that they make.

    python -m tests.synapse_suite

Synapse's source distribution holds its tests, so those of the installed version are fetched with
pip. What is listed in modules.txt runs with the module, and what does not pass runs again without
it: a test that passes only without is a failure. Everything happens in `.cache/`, git-ignored.
"""
