# SPDX-License-Identifier: AGPL-3.0-or-later
"""The endpoints that the module serves in place of Synapse's."""
