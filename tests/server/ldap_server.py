# SPDX-License-Identifier: AGPL-3.0-or-later
"""An LDAP server with one person in it, as a process: ``python -m tests.server.ldap_server``.

A process of its own, because it runs on Twisted's reactor. It serves a free port of loopback until
it is ended, and first writes which one.
"""

from typing import Any

from ldaptor.inmemory import ReadOnlyInMemoryLDAPEntry  # type: ignore[import-untyped]
from ldaptor.protocols.ldap.ldapserver import LDAPServer  # type: ignore[import-untyped]
from twisted.internet import reactor as twisted_reactor
from twisted.internet.protocol import ServerFactory

from tests.server.directory import PERSON, PERSON_NAME, PERSON_PASSWORD, PORT_IS

reactor: Any = twisted_reactor


class Directory(ServerFactory):
    """Serves one tree of entries."""

    def __init__(self) -> None:
        self.root = ReadOnlyInMemoryLDAPEntry("", {"objectClass": ["top"]})
        entry = self.root
        for rdn, attributes in (
            ("dc=org", {"objectClass": ["dcObject"]}),
            ("dc=example", {"objectClass": ["dcObject"]}),
            ("ou=people", {"objectClass": ["organizationalUnit"]}),
            (
                f"uid={PERSON}",
                {
                    "objectClass": ["inetOrgPerson"],
                    "cn": [PERSON_NAME],
                    "mail": [f"{PERSON}@example.org"],
                    "userPassword": [PERSON_PASSWORD],
                },
            ),
        ):
            name, _, value = rdn.partition("=")
            entry = entry.addChild(rdn, {**attributes, name: [value]})

    def buildProtocol(self, _addr: object) -> Any:
        server = LDAPServer()
        # Where it looks for what it serves.
        server.factory = self.root
        return server


def main() -> None:
    port = reactor.listenTCP(0, Directory(), interface="127.0.0.1")
    print(PORT_IS, port.getHost().port, flush=True)
    reactor.run()


if __name__ == "__main__":
    main()
