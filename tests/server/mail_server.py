# SPDX-License-Identifier: AGPL-3.0-or-later
"""A mail server on loopback that keeps what it is sent."""

import socketserver
import threading

from typing_extensions import Self

from demo.client import JsonDict, Session
from demo.loopback import LoopbackServer
from tests.harness.deployment import Deployment


class MailServer:
    """Serves SMTP in a `with`; thread safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._mails: list[tuple[str, bytes]] = []
        self._greets = threading.Event()
        self._greets.set()
        self._server = _Server(self)

    @property
    def port(self) -> int:
        return self._server.port

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def hold(self) -> None:
        """Take no mail until `release()`."""
        self._greets.clear()

    def release(self) -> None:
        """Take what was held back, and all that comes."""
        self._greets.set()

    def mails(self, address: str) -> list[bytes]:
        """What was sent to an address so far."""
        with self._changed:
            return [mail for to, mail in self._mails if to == address]

    def wait_for(self, address: str, timeout: float = 30.0) -> bytes:
        """The first mail to an address."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.mails(address), timeout):
                raise TimeoutError(f"no mail to {address}; these came: {self._mails}")
            return self.mails(address)[0]

    def _receive(self, recipients: list[str], mail: bytes) -> None:
        with self._changed:
            self._mails += [(recipient, mail) for recipient in recipients]
            self._changed.notify_all()


class _Server(LoopbackServer):
    def __init__(self, mail_server: MailServer) -> None:
        self.mail_server = mail_server
        super().__init__("mail server", _Handler)


class _Handler(socketserver.StreamRequestHandler):
    """As much of SMTP as Synapse speaks."""

    server: _Server

    def handle(self) -> None:
        recipients: list[str] = []
        self.server.mail_server._greets.wait()
        self._say(220, "mail.example.org")
        for line in self.rfile:
            command = line.strip().upper()
            if command.startswith(b"RCPT TO:"):
                recipients.append(line.decode().partition("<")[2].partition(">")[0])
            if command == b"DATA":
                self._say(354, "go on")
                self.server.mail_server._receive(recipients, self._mail())
            if command == b"QUIT":
                self._say(221, "bye")
                return
            self._say(250, "fine")

    def _mail(self) -> bytes:
        lines = []
        for line in self.rfile:
            if line == b".\r\n":
                break
            lines.append(line.removeprefix(b"."))
        return b"".join(lines)

    def _say(self, code: int, text: str) -> None:
        self.wfile.write(f"{code} {text}\r\n".encode())


def email_config(mail_server: MailServer, delay: str) -> JsonDict:
    """Have a server send its mails to ours."""
    return {
        "smtp_host": "127.0.0.1",
        "smtp_port": mail_server.port,
        "require_transport_security": False,
        "enable_tls": False,
        "notif_from": "Matrix <noreply@synapse.test>",
        "enable_notifs": True,
        "notif_for_new_users": False,
        "notif_delay_before_mail": delay,
    }


def mail_pusher(deployment: Deployment, user: Session, tags: list[str]) -> str:
    """Give a user an e-mail address and an e-mail pusher; returns the address."""
    address = f"{user.user_id[1:].partition(':')[0]}@example.org"
    deployment.sql(
        "INSERT INTO user_threepids (user_id, medium, address, validated_at, added_at)"
        " VALUES (?, 'email', ?, 1, 1)",
        [user.user_id, address],
    )
    set_mail_pusher(user, address, tags)
    return address


def set_mail_pusher(user: Session, address: str, tags: list[str], enabled: bool = True) -> None:
    user.set_pusher(
        address,
        "m.email",
        "",
        kind="email",
        data={},
        profile_tags=tags,
        enabled=enabled,
    )
