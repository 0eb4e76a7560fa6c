# SPDX-License-Identifier: AGPL-3.0-or-later
"""The web page for users (specification 8): its files, and how they are served."""
