# SPDX-License-Identifier: AGPL-3.0-or-later
"""Sygnal, the push gateway that most who run one run, and where its pushes end. Loopback only."""

import base64
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

import attr
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from typing_extensions import Self

from demo.client import JsonDict
from demo.gateway import NOTIFY_PATH
from demo.loopback import LoopbackServer, OneAnswerHandler
from demo.process import Child, free_port, is_healthy
from tests.harness.deployment import CHECKOUT
from tests.harness.waiting import wait_until

#: Who is pushed to in a browser, by Sygnal's own pushkin.
BROWSER = "org.example.browser"
#: Who is pushed to by ours, which keeps what Sygnal read of tweaks.
RECORDED = "org.example.recorded"


def find_sygnal() -> str | None:
    """Its program: pip's index does not have it, and no Synapse shares an environment with it."""
    return os.environ.get("SYGNAL") or shutil.which("sygnal")


class Sygnal:
    """Use it as a context manager; its log is in the directory."""

    def __init__(self, program: str, directory: Path, ends: "Ends") -> None:
        self._port = free_port()
        key = directory / "vapid.pem"
        key.write_bytes(
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        config = directory / "sygnal.yaml"
        # JSON is YAML.
        config.write_text(json.dumps(_config(self._port, key, ends), indent=2))
        self._child = Child(
            name="Sygnal",
            command=[program],
            output=directory / "sygnal.log",
            env={**os.environ, "SYGNAL_CONF": str(config), "PYTHONPATH": str(CHECKOUT)},
        )

    @property
    def url(self) -> str:
        """The `data.url` for a pusher."""
        return f"http://127.0.0.1:{self._port}{NOTIFY_PATH}"

    def __enter__(self) -> Self:
        self._child.spawn()
        self._child.wait_until(lambda: is_healthy(self._port), 60)
        return self

    def __exit__(self, *_: object) -> None:
        self._child.stop()


def _config(port: int, key: Path, ends: "Ends") -> JsonDict:
    apps = {
        BROWSER: {
            "type": "webpush",
            "vapid_private_key": str(key),
            "vapid_contact_email": "admin@example.org",
        },
        RECORDED: {
            "type": "tests.harness.recording_pushkin.RecordingPushkin",
            "url": f"{ends.url}/recorded",
        },
    }
    logging = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"output": {"class": "logging.StreamHandler"}},
        "root": {"level": "INFO", "handlers": ["output"]},
    }
    http = {"bind_addresses": ["127.0.0.1"], "port": port}
    return {"apps": apps, "http": http, "log": {"setup": logging}}


@attr.s(auto_attribs=True, frozen=True, kw_only=True)
class Arrived:
    """What arrived for a pushkey: what was in it, and the headers that it came with."""

    pushkey: str
    content: JsonDict
    headers: Mapping[str, str]


@attr.s(auto_attribs=True, frozen=True)
class Subscription:
    """A browser's, as the Push API makes one: only it can read what is pushed to it."""

    number: int
    endpoint: str
    _private: ec.EllipticCurvePrivateKey = attr.ib(
        factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    _auth: bytes = attr.ib(factory=lambda: secrets.token_bytes(16))

    @property
    def pushkey(self) -> str:
        return _base64(_raw(self._private.public_key()))

    @property
    def data(self) -> JsonDict:
        """What Sygnal wants in the pusher's `data`, beside the URL."""
        return {"endpoint": self.endpoint, "auth": _base64(self._auth)}

    def decrypt(self, body: bytes) -> JsonDict:
        """A message of RFC 8291, in the one record of RFC 8188 that it has."""
        salt, length, rest = body[:16], body[20], body[21:]
        sender, encrypted = rest[:length], rest[length:]
        theirs = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender)
        shared = self._private.exchange(ec.ECDH(), theirs)
        info = b"WebPush: info\0" + _raw(self._private.public_key()) + sender
        key_material = _hkdf(self._auth, shared, info, 32)
        key = _hkdf(salt, key_material, b"Content-Encoding: aes128gcm\0", 16)
        nonce = _hkdf(salt, key_material, b"Content-Encoding: nonce\0", 12)
        padded = AESGCM(key).decrypt(nonce, encrypted, None).rstrip(b"\0")
        assert padded.endswith(b"\x02"), "this is not the last record"
        content: JsonDict = json.loads(padded[:-1])
        return content


def _raw(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _hkdf(salt: bytes, material: bytes, info: bytes, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt, info).derive(material)


class Ends:
    """Where pushes end: the push service of a browser's maker, and our own pushkin's app."""

    def __init__(self) -> None:
        self.arrived: list[Arrived] = []
        self.subscriptions: list[Subscription] = []
        #: Pushkeys that are no longer valid.
        self.gone: set[str] = set()
        self._server = _Server(self)

    @property
    def url(self) -> str:
        return self._server.url

    def subscribe(self) -> Subscription:
        number = len(self.subscriptions)
        self.subscriptions.append(Subscription(number, f"{self.url}/browser/{number}"))
        return self.subscriptions[-1]

    def of(self, pushkey: str) -> list[Arrived]:
        """What arrived for a pushkey, in the order of arrival."""
        return [arrived for arrived in self.arrived if arrived.pushkey == pushkey]

    def wait_for(self, pushkey: str, event_id: str) -> Arrived:
        def found() -> list[Arrived]:
            return [a for a in self.of(pushkey) if a.content.get("event_id") == event_id]

        wait_until(lambda: bool(found()), f"a push of {event_id}")
        return found()[0]

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()


class _Server(LoopbackServer):
    def __init__(self, ends: Ends) -> None:
        self.ends = ends
        super().__init__("ends of pushes", _Handler)


class _Handler(OneAnswerHandler):
    server: _Server

    def do_POST(self) -> None:
        ends = self.server.ends
        body = self.body()
        if self.path == "/recorded":
            content = json.loads(body)
            pushkey = content.pop("pushkey")
            ends.arrived.append(Arrived(pushkey=pushkey, content=content, headers={}))
            self.answer(200, {"rejected": sorted(ends.gone & {pushkey})})
            return
        subscription = ends.subscriptions[int(self.path.removeprefix("/browser/"))]
        pushkey = subscription.pushkey
        headers = {name.lower(): value for name, value in self.headers.items()}
        content = subscription.decrypt(body)
        ends.arrived.append(Arrived(pushkey=pushkey, content=content, headers=headers))
        self.answer(410 if pushkey in ends.gone else 201, {})
