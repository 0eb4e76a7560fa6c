# SPDX-License-Identifier: AGPL-3.0-or-later
"""An OAuth server that is not ours: oidc-provider, in a process of Node. Loopback only."""

import secrets
from pathlib import Path

import attr
from typing_extensions import Self

from demo.client import JsonDict
from demo.process import Child, free_port
from tests.harness.browser import JS
from tests.harness.node import node

#: How long an access token lives: longer than all tests.
TOKEN_SECONDS = 600
#: How long one of a user whose name begins so lives: a little more than the page needs to renew it.
BRIEF, BRIEF_SECONDS = "brief", 16
_START_SECONDS = 120.0


def is_installed() -> bool:
    return node() is not None and (JS / "node_modules" / "oidc-provider").is_dir()


@attr.s(auto_attribs=True, kw_only=True)
class OAuthServer:
    """Use it as a context manager.

    Attributes:
        directory: for its log.
        secret: Synapse's at this server.
    """

    directory: Path
    secret: str = attr.ib(factory=lambda: secrets.token_hex(16))
    port: int = attr.ib(factory=free_port)
    _child: Child = attr.ib(init=False)

    def __enter__(self) -> Self:
        program = node()
        assert program is not None, "there is no Node"
        self._child = Child(
            name="oidc-provider",
            command=[
                program,
                str(JS / "oauth_server.mjs"),
                str(self.port),
                self.secret,
                str(TOKEN_SECONDS),
                str(BRIEF_SECONDS),
            ],
            output=self.directory / "oauth_server.log",
        )
        self._child.spawn()
        self._child.wait_until(lambda: "ready" in self._child.written(), _START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._child.stop()

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def written(self) -> str:
        """What it said."""
        return self._child.written()

    def delegation(self) -> JsonDict:
        """Options of a Synapse that has its users sign in here."""
        return {
            "matrix_authentication_service": {
                "enabled": True,
                "endpoint": self.issuer,
                "secret": self.secret,
            },
            "password_config": {"enabled": False},
        }

    def identity_provider(self, name: str) -> JsonDict:
        """One of a Synapse's `oidc_providers`."""
        return {
            "idp_id": name.lower().replace(" ", "-"),
            "idp_name": name,
            "issuer": self.issuer,
            "client_id": "synapse",
            "client_secret": self.secret,
            "scopes": ["openid", "profile"],
            "user_mapping_provider": {
                "config": {"localpart_template": "{{ user.sub }}", "confirm_localpart": False}
            },
        }
