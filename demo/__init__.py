# SPDX-License-Identifier: AGPL-3.0-or-later
"""A throwaway Synapse, a push gateway and a Matrix client, all on this machine.

The demo tells its story with them, and the tests stand on them.
"""
