# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is in the directory of `ldap_server`, for the server and for the tests."""

BASE = "ou=people,dc=example,dc=org"
PERSON = "carol"
PERSON_NAME = "Carol of the Directory"
PERSON_PASSWORD = "kept in the directory only"

#: What the server writes before its port.
PORT_IS = "listening on port"
