# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a Matrix Authentication Service is to Synapse, in this process. Loopback only.

The OAuth 2.0 server is Authlib's: clients, codes with PKCE, tokens that expire, are refreshed and
revoked, introspection. Taught here is what Matrix adds: which user and which device a token is of,
and that Synapse is told of users and devices. Users sign in at it with Authlib's client.
"""

import contextlib
import enum
import importlib.util
import secrets
import time
from collections.abc import Callable
from email.message import Message
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import attr
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2 import AuthorizationServer, OAuth2Request
from authlib.oauth2.rfc6749 import AuthorizationCodeMixin, ClientMixin, TokenMixin, grants
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from typing_extensions import Self

from demo.client import JsonDict, Session
from demo.loopback import LoopbackServer, OneAnswerHandler
from tests.harness.deployment import Deployment

#: How long an access token lives by default: longer than a test.
TOKEN_SECONDS = 600

_API = "urn:matrix:org.matrix.msc2967.client:api:*"
_DEVICE = "urn:matrix:org.matrix.msc2967.client:device:"
_SYNAPSE = "synapse"


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


@attr.s(auto_attribs=True, kw_only=True, eq=False)
class _Client(ClientMixin):
    """An app, which has no secret; or Synapse, which asks about tokens."""

    client_id: str
    redirect_uri: str = ""
    secret: str = ""

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri == self.redirect_uri

    def check_client_secret(self, client_secret: str) -> bool:
        return bool(self.secret) and secrets.compare_digest(self.secret, client_secret)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        del endpoint
        return (method == "none") is not bool(self.secret)

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in ("authorization_code", "refresh_token")

    def get_allowed_scope(self, scope: str | None) -> str | None:
        return scope


@attr.s(auto_attribs=True, kw_only=True, eq=False)
class _Code(AuthorizationCodeMixin):
    code: str
    localpart: str
    redirect_uri: str
    scope: str
    code_challenge: str | None
    code_challenge_method: str | None

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope


@attr.s(auto_attribs=True, kw_only=True, eq=False)
class _Token(TokenMixin):
    """An access token, and the one to refresh it with."""

    client_id: str
    localpart: str
    access_token: str
    refresh_token: str
    scope: str
    expires_in: int
    issued_at: float = attr.ib(factory=time.time)
    revoked: bool = False

    @property
    def device_id(self) -> str | None:
        named = [name.removeprefix(_DEVICE) for name in self.scope.split() if _DEVICE in name]
        return named[0] if named else None

    def check_client(self, client: _Client) -> bool:
        return client.client_id == self.client_id

    def get_scope(self) -> str:
        return self.scope

    def is_expired(self) -> bool:
        return time.time() >= self.issued_at + self.expires_in

    def is_revoked(self) -> bool:
        return self.revoked


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
        self.tokens: list[_Token] = []
        self.clients = {_SYNAPSE: _Client(client_id=_SYNAPSE, secret=self.secret)}
        self.codes: dict[str, _Code] = {}
        self._open = contextlib.ExitStack()
        self._http = _Server(_Provider(self))

    def __enter__(self) -> Self:
        self._http.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._http.close()

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
            "client_id": _SYNAPSE,
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
        self.clients[client_id] = _Client(client_id=client_id, redirect_uri=redirect_uri)
        scope = f"{_API} {_DEVICE}{device_id}" if device_id else _API
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

    def issue(self, token: _Token) -> None:
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


# --- Authlib's server, and what it asks of us ---------------------------------------------------

# What its server makes of an answer: status, body and headers.
_Answer = tuple[int, Any, list[tuple[str, str]]]


class _Request(OAuth2Request):
    def __init__(self, method: str, uri: str, headers: Message, form: str) -> None:
        super().__init__(method, uri, headers=headers)
        self._args = dict(parse_qsl(urlsplit(uri).query))
        self._form = dict(parse_qsl(form))
        self.payload = BasicOAuth2Payload({**self._args, **self._form})

    @property
    def args(self) -> dict[str, str]:
        return self._args

    @property
    def form(self) -> dict[str, str]:
        return self._form


class _Provider(AuthorizationServer):
    def __init__(self, service: AuthenticationService) -> None:
        super().__init__()
        self.service = service
        self.register_token_generator(
            "default",
            BearerTokenGenerator(
                lambda **_: secrets.token_urlsafe(32),
                lambda **_: secrets.token_urlsafe(32),
                lambda *_: service.token_seconds,
            ),
        )
        self.register_grant(_AuthorizationCode, [CodeChallenge(required=True)])
        self.register_grant(_RefreshToken)
        self.register_endpoint(_Introspection)
        self.register_endpoint(_Revocation)
        self.register_client_auth_method("synapse_secret", self._knows_synapse)

    def query_client(self, client_id: str) -> _Client | None:
        return self.service.clients.get(client_id)

    def save_token(self, token: JsonDict, request: _Request) -> None:
        self.service.issue(
            _Token(
                client_id=request.client.client_id,
                localpart=request.user,
                access_token=token["access_token"],
                refresh_token=token["refresh_token"],
                scope=token["scope"],
                expires_in=token["expires_in"],
            )
        )

    def find(self, text: str) -> _Token | None:
        for token in self.service.tokens:
            if text in (token.access_token, token.refresh_token):
                return token
        return None

    def _knows_synapse(
        self, query_client: Callable[[str], _Client | None], request: _Request
    ) -> _Client | None:
        """As the service has it: the secret that it shares with Synapse is a token."""
        known = request.headers.get("Authorization") == f"Bearer {self.service.secret}"
        return query_client(_SYNAPSE) if known else None

    # What Authlib leaves to a web framework

    def create_oauth2_request(self, request: _Request) -> _Request:
        return request

    def handle_response(self, status: int, body: Any, headers: list[tuple[str, str]]) -> _Answer:
        return status, body, headers

    def send_signal(self, name: str, *args: object, **kwargs: object) -> None:
        """Nobody listens."""

    def answer(self, request: _Request) -> _Answer:
        answer: _Answer
        match urlsplit(request.uri).path:
            case "/.well-known/openid-configuration":
                return 200, self._metadata(), [("Content-Type", "application/json")]
            case "/authorize":
                # Whoever is hinted at has signed in before, and consents.
                grant = self.get_consent_grant(request, request.args["login_hint"])
                answer = self.create_authorization_response(
                    request, request.args["login_hint"], grant
                )
            case "/token":
                answer = self.create_token_response(request)
            case "/oauth2/introspect":
                answer = self.create_endpoint_response(_Introspection.ENDPOINT_NAME, request)
            case "/revoke":
                answer = self.create_endpoint_response(_Revocation.ENDPOINT_NAME, request)
            case _:
                return 404, {}, []
        return answer

    def _metadata(self) -> JsonDict:
        issuer = self.service.issuer
        return {
            "issuer": issuer,
            "account_management_uri": f"{issuer}account",
            "authorization_endpoint": f"{issuer}authorize",
            "token_endpoint": f"{issuer}token",
            "introspection_endpoint": f"{issuer}oauth2/introspect",
            "revocation_endpoint": f"{issuer}revoke",
            "response_types_supported": ["code"],
            "jwks_uri": f"{issuer}keys",
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }


class _AuthorizationCode(grants.AuthorizationCodeGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ("none",)

    def save_authorization_code(self, code: str, request: _Request) -> None:
        self.server.service.codes[code] = _Code(
            code=code,
            localpart=request.user,
            redirect_uri=request.payload.redirect_uri,
            scope=request.scope,
            code_challenge=request.args.get("code_challenge"),
            code_challenge_method=request.args.get("code_challenge_method"),
        )

    def query_authorization_code(self, code: str, client: _Client) -> _Code | None:
        del client
        codes: dict[str, _Code] = self.server.service.codes
        return codes.get(code)

    def delete_authorization_code(self, authorization_code: _Code) -> None:
        del self.server.service.codes[authorization_code.code]

    def authenticate_user(self, authorization_code: _Code) -> str:
        return authorization_code.localpart


class _RefreshToken(grants.RefreshTokenGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ("none",)
    INCLUDE_NEW_REFRESH_TOKEN = True

    def authenticate_refresh_token(self, refresh_token: str) -> _Token | None:
        token: _Token | None = self.server.find(refresh_token)
        return token if token is not None and not token.revoked else None

    def authenticate_user(self, refresh_token: _Token) -> str:
        return refresh_token.localpart

    def revoke_old_credential(self, refresh_token: _Token) -> None:
        # It can refresh once; what it came with holds until it expires.
        refresh_token.refresh_token = ""


class _Introspection(IntrospectionEndpoint):
    CLIENT_AUTH_METHODS = ("client_secret_basic", "synapse_secret")

    def check_permission(self, token: _Token, client: _Client, request: _Request) -> bool:
        del token, request
        return client.client_id == _SYNAPSE

    def query_token(self, token_string: str, token_type_hint: str) -> _Token | None:
        del token_type_hint
        token: _Token | None = self.server.find(token_string)
        return token

    def introspect_token(self, token: _Token) -> JsonDict:
        left = token.issued_at + token.expires_in - time.time()
        return {
            "scope": token.scope,
            "sub": f"account of {token.localpart}",
            "username": token.localpart,
            "expires_in": max(0, round(left)),
        }


class _Revocation(RevocationEndpoint):
    CLIENT_AUTH_METHODS = ("none",)

    def query_token(self, token_string: str, token_type_hint: str) -> _Token | None:
        del token_type_hint
        token: _Token | None = self.server.find(token_string)
        return token

    def revoke_token(self, token: _Token, request: _Request) -> None:
        del request
        self.server.service.revoke(token.localpart, token.device_id)


class _Server(LoopbackServer):
    def __init__(self, provider: _Provider) -> None:
        self.provider = provider
        super().__init__("authentication", _Handler)


class _Handler(OneAnswerHandler):
    server: _Server

    def do_GET(self) -> None:
        self._treat("")

    def do_POST(self) -> None:
        self._treat(self.body().decode())

    def _treat(self, form: str) -> None:
        issuer = self.server.provider.service.issuer.rstrip("/")
        request = _Request(self.command, issuer + self.path, self.headers, form)
        status, content, headers = self.server.provider.answer(request)
        self.answer(status, content.encode() if isinstance(content, str) else content, headers)
