# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is in the directory of `ldap_server`, for the server and the tests; and how to run it."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.client import JsonDict
from demo.process import Child
from tests.harness.deployment import CHECKOUT

BASE = "ou=people,dc=example,dc=org"
PERSON = "carol"
PERSON_NAME = "Carol of the Directory"
PERSON_PASSWORD = "kept in the directory only"

#: What the server writes before its port.
PORT_IS = "listening on port"

_PORT = re.compile(rf"^{PORT_IS} (\d+)\n", re.MULTILINE)


@contextmanager
def serve_ldap(directory: Path) -> Iterator[int]:
    """Serve LDAP on a port, with a log in that directory."""
    child = Child(
        name="the LDAP server",
        command=[sys.executable, "-m", "tests.server.ldap_server"],
        output=directory / "ldap.log",
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")]),
        },
    )
    child.spawn()
    try:
        child.wait_until(lambda: _PORT.search(child.written()) is not None, 120.0)
        found = _PORT.search(child.written())
        assert found is not None
        yield int(found[1])
    finally:
        child.stop()


def ldap_module(port: int) -> JsonDict:
    return {
        "module": "ldap_auth_provider.LdapAuthProviderModule",
        "config": {
            "enabled": True,
            "uri": f"ldap://127.0.0.1:{port}",
            "start_tls": False,
            "base": BASE,
            "attributes": {"uid": "uid", "name": "cn", "mail": "mail"},
        },
    }
