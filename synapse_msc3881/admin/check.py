# SPDX-License-Identifier: AGPL-3.0-or-later
"""`check`: the admin's first aid. It looks at everything and changes nothing."""
