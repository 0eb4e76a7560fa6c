# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a Matrix Authentication Service is to Synapse, in this process. Loopback only.

The OAuth 2.0 server is Authlib's (`oauth_provider`). Here is what Matrix adds: Synapse is told of
users and devices. Users sign in with Authlib's client.
"""

import contextlib
import enum
import importlib.util
import secrets
from typing import Any

import attr
from authlib.integrations.requests_client import OAuth2Session
from typing_extensions import Self

from demo.client import JsonDict, Session
from tests.harness.deployment import Deployment
from tests.harness.oauth_provider import (
    DEVICE,
    SYNAPSE,
    Client,
    Code,
    Provider,
    ProviderServer,
    Token,
)

#: How long an access token lives by default: longer than a test.
TOKEN_SECONDS = 600

_API = "urn:matrix:org.matrix.msc2967.client:api:*"


class Delegation(enum.Enum):
    """Which of Synapse's options has it delegate; a release has one of them, or both."""

    STABLE = "matrix_authentication_service"
    EXPERIMENTAL = "msc3861"

    @property
    def is_known(self) -> bool:
        """Whether the Synapse that is installed has the option."""
        if self is Delegation.STABLE:
            return importlib.util.find_spec("synapse.config.mas") is not None
        return importlib.util.find_spec("synapse.api.auth.msc3861_delegated") is not None


@attr.s(auto_attribs=True)
class SignedIn:
    """An app that a user has signed in to.

    Attributes:
        session: the device, at Synapse.
    """

    session: Session
    _client: Any = attr.ib(repr=False)
    _issuer: str = attr.ib(repr=False)

    def refresh(self) -> None:
        """Get another access token for the same device; the old one lives on until it expires."""
        token = self._client.refresh_token(f"{self._issuer}token")
        self.session.access_token = token["access_token"]

    def sign_out(self) -> None:
        """As a person does in the app: the service revokes the tokens and tells Synapse."""
        token = self._client.token["refresh_token"]
        answer = self._client.revoke_token(
            f"{self._issuer}revoke", token=token, token_type_hint="refresh_token"
        )
        assert answer.status_code == 200, answer.text


class AuthenticationService:
    """Serves from `with` on; `deployment` must be set before somebody signs in.

    Attributes:
        delegation: how the Synapse is told of it, and how it tells Synapse of things.
        deployment: the Synapse that delegates to it.
        token_seconds: how long an access token lives that is issued from now on.
    """

    def __init__(self, delegation: Delegation) -> None:
        self.delegation = delegation
        self.deployment: Deployment | None = None
        self.token_seconds = TOKEN_SECONDS
        self.secret = secrets.token_hex(16)
        self.tokens: list[Token] = []
        self.clients = {SYNAPSE: Client(client_id=SYNAPSE, secret=self.secret)}
        self.codes: dict[str, Code] = {}
        self._open = contextlib.ExitStack()
        self._http = ProviderServer(Provider(self))

    def __enter__(self) -> Self:
        self._http.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._http.stop()

    @property
    def issuer(self) -> str:
        return f"{self._http.url}/"

    def options(self) -> JsonDict:
        """Options of a Synapse that has its users sign in here."""
        password = {"password_config": {"enabled": False}}
        if self.delegation is Delegation.STABLE:
            service = {"enabled": True, "endpoint": self.issuer, "secret": self.secret}
            return {"matrix_authentication_service": service, **password}
        msc3861 = {
            "enabled": True,
            "issuer": self.issuer,
            "client_id": SYNAPSE,
            "client_auth_method": "client_secret_basic",
            "client_secret": self.secret,
            "admin_token": self.secret,
        }
        return {"experimental_features": {"msc3861": msc3861}, **password}

    # What people do

    def sign_in(self, localpart: str, device_id: str | None) -> SignedIn:
        """A user signs in to an app, with another client for each.

        Args:
            device_id: the device that the app asks for; None for a token of no device.
        """
        assert self.deployment is not None
        redirect_uri = "http://127.0.0.1:1/app"
        client_id = secrets.token_hex(8)
        self.clients[client_id] = Client(client_id=client_id, redirect_uri=redirect_uri)
        scope = f"{_API} {DEVICE}{device_id}" if device_id else _API
        client = OAuth2Session(
            client_id,
            redirect_uri=redirect_uri,
            scope=scope,
            code_challenge_method="S256",
            token_endpoint_auth_method="none",
        )
        self._open.callback(client.close)
        # Nothing of the environment's, such as a proxy.
        client.trust_env = False
        verifier = secrets.token_urlsafe(48)
        # Somebody types the name there, and consents.
        url, _ = client.create_authorization_url(
            f"{self.issuer}authorize", code_verifier=verifier, login_hint=localpart
        )
        answer = client.get(url, allow_redirects=False, withhold_token=True)
        token = client.fetch_token(
            f"{self.issuer}token",
            authorization_response=answer.headers["Location"],
            code_verifier=verifier,
        )
        homeserver = self.deployment.homeserver
        session = Session(route=homeserver.route, access_token=token["access_token"])
        self._open.callback(session.close)
        who = session.whoami()
        session.user_id, session.device_id = who["user_id"], who.get("device_id", "")
        return SignedIn(session, client, self.issuer)

    def end_session(self, session: Session) -> None:
        """As an admin does there, or the user on the account's page: the device is logged out."""
        self.revoke(_localpart(session), session.device_id)

    def deactivate(self, session: Session) -> None:
        """As an admin does there: the account is closed for good."""
        localpart = _localpart(session)
        if self.delegation is Delegation.STABLE:
            self._tell("delete_user", {"localpart": localpart, "erase": False})
        else:
            self._admin("POST", f"v1/deactivate/{session.user_id}", {"erase": False})

    # What it tells Synapse

    def tell_of_user(self, localpart: str) -> None:
        if self.delegation is Delegation.STABLE:
            self._tell("provision_user", {"localpart": localpart})
        else:
            self._admin("PUT", f"v2/users/{self._user_id(localpart)}", {})

    def tell_of_device(self, localpart: str, device_id: str) -> None:
        if self.delegation is Delegation.STABLE:
            self._tell("upsert_device", {"localpart": localpart, "device_id": device_id})
        else:
            devices = f"v2/users/{self._user_id(localpart)}/devices"
            self._admin("POST", devices, {"device_id": device_id})

    def tell_of_end(self, localpart: str, device_id: str) -> None:
        if self.delegation is Delegation.STABLE:
            self._tell("delete_device", {"localpart": localpart, "device_id": device_id})
        else:
            self._admin("DELETE", f"v2/users/{self._user_id(localpart)}/devices/{device_id}", None)

    def _user_id(self, localpart: str) -> str:
        assert self.deployment is not None
        return f"@{localpart}:{self.deployment.server_name}"

    def _tell(self, what: str, body: JsonDict) -> None:
        self._call("POST", f"/_synapse/mas/{what}", body)

    def _admin(self, method: str, what: str, body: JsonDict | None) -> None:
        self._call(method, f"/_synapse/admin/{what}", body)

    def _call(self, method: str, path: str, body: JsonDict | None) -> None:
        assert self.deployment is not None
        route = self.deployment.homeserver.route
        with contextlib.closing(Session(route=route, access_token=self.secret)) as session:
            session.call(method, path, body)

    # What it knows

    def issue(self, token: Token) -> None:
        """Remember a token, after telling Synapse whom it is for."""
        self.tell_of_user(token.localpart)
        if token.device_id is not None:
            self.tell_of_device(token.localpart, token.device_id)
        self.tokens.append(token)

    def revoke(self, localpart: str, device_id: str | None) -> None:
        """End a session: no token of it holds any more, and its device is gone."""
        for token in self.tokens:
            if (token.localpart, token.device_id) == (localpart, device_id):
                token.revoked = True
        if device_id is not None:
            self.tell_of_end(localpart, device_id)


def _localpart(session: Session) -> str:
    return session.user_id.removeprefix("@").partition(":")[0]
