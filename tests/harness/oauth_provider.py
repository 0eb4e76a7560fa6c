# SPDX-License-Identifier: AGPL-3.0-or-later
"""Authlib's OAuth 2.0 server, and what it asks of us, for `authentication_service`.

Clients, codes with PKCE, tokens that expire, are refreshed and revoked, introspection. A token also
says which user and which device it is of.
"""

import secrets
import time
from collections.abc import Callable
from email.message import Message
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import attr
from authlib.oauth2 import AuthorizationServer, OAuth2Request
from authlib.oauth2.rfc6749 import AuthorizationCodeMixin, ClientMixin, TokenMixin, grants
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc7662 import IntrospectionEndpoint

from demo.client import JsonDict
from demo.loopback import LoopbackServer, OneAnswerHandler

if TYPE_CHECKING:
    from tests.harness.authentication_service import AuthenticationService

DEVICE = "urn:matrix:org.matrix.msc2967.client:device:"
SYNAPSE = "synapse"


@attr.s(auto_attribs=True, kw_only=True, eq=False)
class Client(ClientMixin):
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
class Code(AuthorizationCodeMixin):
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
class Token(TokenMixin):
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
        named = [name.removeprefix(DEVICE) for name in self.scope.split() if DEVICE in name]
        return named[0] if named else None

    def check_client(self, client: Client) -> bool:
        return client.client_id == self.client_id

    def get_scope(self) -> str:
        return self.scope

    def is_expired(self) -> bool:
        return time.time() >= self.issued_at + self.expires_in

    def is_revoked(self) -> bool:
        return self.revoked


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


class Provider(AuthorizationServer):
    def __init__(self, service: "AuthenticationService") -> None:
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

    def query_client(self, client_id: str) -> Client | None:
        return self.service.clients.get(client_id)

    def save_token(self, token: JsonDict, request: _Request) -> None:
        self.service.issue(
            Token(
                client_id=request.client.client_id,
                localpart=request.user,
                access_token=token["access_token"],
                refresh_token=token["refresh_token"],
                scope=token["scope"],
                expires_in=token["expires_in"],
            )
        )

    def find(self, text: str) -> Token | None:
        for token in self.service.tokens:
            if text in (token.access_token, token.refresh_token):
                return token
        return None

    def _knows_synapse(
        self, query_client: Callable[[str], Client | None], request: _Request
    ) -> Client | None:
        """As the service has it: the secret that it shares with Synapse is a token."""
        known = request.headers.get("Authorization") == f"Bearer {self.service.secret}"
        return query_client(SYNAPSE) if known else None

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
        self.server.service.codes[code] = Code(
            code=code,
            localpart=request.user,
            redirect_uri=request.payload.redirect_uri,
            scope=request.scope,
            code_challenge=request.args.get("code_challenge"),
            code_challenge_method=request.args.get("code_challenge_method"),
        )

    def query_authorization_code(self, code: str, client: Client) -> Code | None:
        del client
        codes: dict[str, Code] = self.server.service.codes
        return codes.get(code)

    def delete_authorization_code(self, authorization_code: Code) -> None:
        del self.server.service.codes[authorization_code.code]

    def authenticate_user(self, authorization_code: Code) -> str:
        return authorization_code.localpart


class _RefreshToken(grants.RefreshTokenGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ("none",)
    INCLUDE_NEW_REFRESH_TOKEN = True

    def authenticate_refresh_token(self, refresh_token: str) -> Token | None:
        token: Token | None = self.server.find(refresh_token)
        return token if token is not None and not token.revoked else None

    def authenticate_user(self, refresh_token: Token) -> str:
        return refresh_token.localpart

    def revoke_old_credential(self, refresh_token: Token) -> None:
        # It can refresh once; what it came with holds until it expires.
        refresh_token.refresh_token = ""


class _Introspection(IntrospectionEndpoint):
    CLIENT_AUTH_METHODS = ("client_secret_basic", "synapse_secret")

    def check_permission(self, token: Token, client: Client, request: _Request) -> bool:
        del token, request
        return client.client_id == SYNAPSE

    def query_token(self, token_string: str, token_type_hint: str) -> Token | None:
        del token_type_hint
        token: Token | None = self.server.find(token_string)
        return token

    def introspect_token(self, token: Token) -> JsonDict:
        left = token.issued_at + token.expires_in - time.time()
        return {
            "scope": token.scope,
            "sub": f"account of {token.localpart}",
            "username": token.localpart,
            "expires_in": max(0, round(left)),
        }


class _Revocation(RevocationEndpoint):
    CLIENT_AUTH_METHODS = ("none",)

    def query_token(self, token_string: str, token_type_hint: str) -> Token | None:
        del token_type_hint
        token: Token | None = self.server.find(token_string)
        return token

    def revoke_token(self, token: Token, request: _Request) -> None:
        del request
        self.server.service.revoke(token.localpart, token.device_id)


class ProviderServer(LoopbackServer):
    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        super().__init__("authentication", _Handler)


class _Handler(OneAnswerHandler):
    server: ProviderServer

    def do_GET(self) -> None:
        self._treat("")

    def do_POST(self) -> None:
        self._treat(self.body().decode())

    def _treat(self, form: str) -> None:
        issuer = self.server.provider.service.issuer.rstrip("/")
        request = _Request(self.command, issuer + self.path, self.headers, form)
        status, content, headers = self.server.provider.answer(request)
        self.answer(status, content.encode() if isinstance(content, str) else content, headers)
