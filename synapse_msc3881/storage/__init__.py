# SPDX-License-Identifier: AGPL-3.0-or-later
"""The module's own tables, and what it reads of Synapse's."""
