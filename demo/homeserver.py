# SPDX-License-Identifier: AGPL-3.0-or-later
"""A throwaway Synapse process."""

import base64
import hashlib
import hmac
import importlib.util
import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attr
from typing_extensions import Self

from demo.client import JsonDict, Session, path
from demo.process import Child, ProcessError, free_port, is_healthy, port_in_use
from demo.running import Running

# Every user has it who is not given another one.
PASSWORD = "correct horse battery staple"

# All of these are in Synapse since before the oldest version that we support.
_RATE_LIMITS = (
    "rc_admin_redaction",
    "rc_invites.per_issuer",
    "rc_invites.per_room",
    "rc_invites.per_user",
    "rc_joins.local",
    "rc_joins.remote",
    "rc_joins_per_room",
    "rc_login.account",
    "rc_login.address",
    "rc_login.failed_attempts",
    "rc_message",
    "rc_registration",
    "rc_room_creation",
)

_PORT_ATTEMPTS = 5

# What Synapse ends with then.
_PORT_IS_TAKEN = "Address already in use"


@attr.s(auto_attribs=True, frozen=True, kw_only=True)
class Options:
    """What may differ between two throwaway homeservers.

    Attributes:
        server_name: the part of user ids after the colon.
        port: for the client API; None for a free one.
        metrics: whether to serve Prometheus metrics, on a free port.
        log_level: of the log file.
        modules: the `modules` section: `{"module": …, "config": …}` each.
        database: the `database` section; None for a SQLite file in the directory.
        extra: further top-level options; they replace ours of the same name.
        python_path: directories that Synapse finds modules in.
        start_timeout: seconds until it must answer.
    """

    server_name: str = "synapse.test"
    port: int | None = None
    metrics: bool = False
    log_level: str = "INFO"
    modules: Sequence[JsonDict] = ()
    database: JsonDict | None = None
    extra: Mapping[str, Any] = attr.ib(factory=dict)
    python_path: Sequence[Path] = ()
    # A process that ends is noticed at once. On a busy machine, the first start takes minutes.
    start_timeout: float = 300.0


def check_host(options: Options) -> None:
    """Find out early what would keep Synapse from starting.

    Raises:
        ProcessError: saying what is wrong and what to do.
    """
    if importlib.util.find_spec("synapse") is None:
        raise ProcessError(
            f"Synapse is not installed for {sys.executable}; try: pip install matrix-synapse"
        )
    if options.port is not None and port_in_use(options.port):
        raise ProcessError(f"port {options.port} is in use; choose another one")


class Homeserver(Running):
    """One Synapse process with its configuration and data in `directory`.

    Use it with `with`, or call `start()` and `stop()`. The data stay through a `restart()`.
    """

    def __init__(self, directory: Path, options: Options | None = None) -> None:
        self.directory = directory
        self.options = options or Options()
        self.port = 0
        self.metrics_port = 0
        self._shared_secret = secrets.token_hex(16)
        self._child: Child | None = None
        self._sessions: list[Session] = []

    # Start and stop

    def start(self) -> Self:
        """Start Synapse and return when it answers. Call this from the main thread.

        Raises:
            ProcessError: if it did not come up; the message holds the end of its log.
        """
        check_host(self.options)
        self.directory.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            self._choose_ports()
            self._write_config()
            try:
                self._start_once()
                return self
            except ProcessError as error:
                # Somebody may have taken the port after we chose it, and be gone again.
                taken = _PORT_IS_TAKEN in str(error) or any(
                    port_in_use(port) for port in self._ports() if port
                )
                if attempt == _PORT_ATTEMPTS or self.options.port is not None or not taken:
                    raise
        raise AssertionError("the loop returns or raises")

    def stop(self) -> None:
        """Stop Synapse and return when it is gone; more than once does no harm."""
        self.close_sessions()
        if self._child is not None:
            self._child.stop()

    def kill(self) -> None:
        """End Synapse without any warning."""
        self.close_sessions()
        if self._child is not None:
            self._child.kill()

    def restart(self, options: Options | None = None) -> None:
        """Stop, and start again on the same data; with other options if given."""
        self.stop()
        if options is not None:
            self.options = options
        self.start()

    @property
    def pid(self) -> int | None:
        """The process id; None while it does not run."""
        return self._child.pid if self._child is not None else None

    def _start_once(self) -> None:
        self._child = Child(
            name="Synapse",
            command=[
                sys.executable,
                "-m",
                "synapse.app.homeserver",
                "-c",
                str(self.config_file),
            ],
            # One file for both: what Synapse says before it has a log belongs in front of it.
            output=self.log_file,
            env=self._environment(),
        )
        self._child.spawn()
        try:
            self._child.wait_until(self._answers, self.options.start_timeout)
        except BaseException:
            self._child.kill()
            raise

    def _answers(self) -> bool:
        return is_healthy(self.port)

    def _environment(self) -> dict[str, str]:
        inherited = os.environ.get("PYTHONPATH")
        python_path = [*map(str, self.options.python_path), *([inherited] if inherited else [])]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(python_path),
            # Or else a Synapse installed below somebody's git checkout adds the checkout's state to
            # its version, which other modules cannot parse.
            "GIT_CEILING_DIRECTORIES": str(Path(sys.prefix).resolve().parent),
        }

    # Users

    def route(self, _method: str, _path: str) -> str:
        """The base URL for a request: there is one process, so always the same."""
        return self.base_url

    def route_at_once(self, method: str, path: str) -> str:
        """As `route`, which in a cluster first waits for all processes to agree."""
        return self.route(method, path)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def register(
        self,
        localpart: str,
        *,
        password: str = PASSWORD,
        device_id: str | None = None,
        admin: bool = False,
    ) -> Session:
        """Make a user, log a device in, and return its session."""
        session = self._new_session()
        nonce = session.call("GET", "/_synapse/admin/v1/register", token=False)["nonce"]
        role = "admin" if admin else "notadmin"
        signed = f"{nonce}\0{localpart}\0{password}\0{role}".encode()
        body: JsonDict = {
            "nonce": nonce,
            "username": localpart,
            "password": password,
            "admin": admin,
            "mac": hmac.new(self._shared_secret.encode(), signed, hashlib.sha1).hexdigest(),
        }
        if device_id is not None:
            body["device_id"] = device_id
        answer = session.call("POST", "/_synapse/admin/v1/register", body, token=False)
        return _logged_in(session, answer)

    def login(self, user_id: str, device_id: str, *, password: str = PASSWORD) -> Session:
        """Log a device of an existing user in, and return its session."""
        session = self._new_session()
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user_id},
            "password": password,
            "device_id": device_id,
        }
        return _logged_in(session, session.call("POST", path("login"), body, token=False))

    def close_sessions(self) -> None:
        """Close the connections of all sessions made here, which go on working all the same."""
        for session in self._sessions:
            session.close()

    def _new_session(self) -> Session:
        self._sessions.append(Session(route=self.route))
        return self._sessions[-1]

    # What it says about itself

    @property
    def log_file(self) -> Path:
        return self.directory / "homeserver.log"

    def log_text(self) -> str:
        """All that it ever wrote, through every restart: to its output and to its log."""
        return self._child.written() if self._child is not None else ""

    def metrics(self) -> str:
        """The Prometheus metrics, as text; needs `Options.metrics`."""
        if not self.metrics_port:
            raise ProcessError("this homeserver was started without metrics")
        metrics = Session(route=lambda *_: f"http://127.0.0.1:{self.metrics_port}")
        response = metrics.request("GET", "/metrics", token=False)
        metrics.close()
        return response.body.decode()

    # Configuration

    @property
    def config_file(self) -> Path:
        return self.directory / "homeserver.yaml"

    def config(self) -> JsonDict:
        """The content of homeserver.yaml."""
        return {
            "server_name": self.options.server_name,
            "public_baseurl": f"{self.base_url}/",
            "listeners": self._listeners(),
            "enable_metrics": self.options.metrics,
            "database": self.options.database or self._sqlite(),
            "log_config": str(self.directory / "log.yaml"),
            "signing_key_path": str(self.directory / "signing.key"),
            "media_store_path": str(self.directory / "media"),
            "registration_shared_secret": self._shared_secret,
            "macaroon_secret_key": self._shared_secret,
            "form_secret": self._shared_secret,
            "bcrypt_rounds": 4,
            "report_stats": False,
            "trusted_key_servers": [],
            "federation_domain_whitelist": [],
            # Synapse blocks private addresses by default; push gateways here are on loopback.
            "ip_range_whitelist": ["127.0.0.0/8", "::1/128"],
            "modules": list(self.options.modules),
            **_rate_limits(),
            **self.options.extra,
        }

    def _ports(self) -> list[int]:
        return [self.port, self.metrics_port]

    def _choose_ports(self) -> None:
        """Take the port that is wanted, else the last one, else a free one."""
        if self.options.port is not None:
            self.port = self.options.port
        elif not self.port or port_in_use(self.port):
            self.port = free_port()
        if not self.options.metrics:
            self.metrics_port = 0
        elif not self.metrics_port or port_in_use(self.metrics_port):
            self.metrics_port = free_port()

    def _listeners(self) -> list[JsonDict]:
        loopback = {"bind_addresses": ["127.0.0.1"], "tls": False}
        client = [{"names": ["client"], "compress": False}]
        listeners: list[JsonDict] = [
            {"port": self.port, "type": "http", "resources": client, **loopback}
        ]
        if self.metrics_port:
            listeners.append({"port": self.metrics_port, "type": "metrics", **loopback})
        return listeners

    def _sqlite(self) -> JsonDict:
        return {"name": "sqlite3", "args": {"database": str(self.directory / "homeserver.db")}}

    def _write_config(self) -> None:
        """Write what Synapse reads. JSON is YAML, so no YAML library is needed."""
        key_file = self.directory / "signing.key"
        if not key_file.exists():
            seed = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
            key_file.write_text(f"ed25519 a_demo {seed}\n")
        logging = log_config(self.log_file, self.options.log_level)
        (self.directory / "log.yaml").write_text(json.dumps(logging, indent=2))
        self.config_file.write_text(json.dumps(self.config(), indent=2))


def _logged_in(session: Session, answer: JsonDict) -> Session:
    session.user_id = answer["user_id"]
    session.device_id = answer["device_id"]
    session.access_token = answer["access_token"]
    return session


def _rate_limits() -> JsonDict:
    """The `rc_…` options, all of them too high to be met."""
    limits: JsonDict = {}
    for name in _RATE_LIMITS:
        section, _, part = name.partition(".")
        generous = {"per_second": 10_000, "burst_count": 10_000}
        if part:
            limits.setdefault(section, {})[part] = generous
        else:
            limits[section] = generous
    return limits


def log_config(log_file: Path, level: str, process: str = "") -> JsonDict:
    """Synapse's `log_config`; several processes may share the file, with `process` in each line."""
    line = (
        f"%(asctime)s {process and process + ' '}%(levelname)s %(name)s: [%(request)s] %(message)s"
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": line}},
        "handlers": {
            "file": {
                "class": "logging.FileHandler",
                "formatter": "line",
                "filename": str(log_file),
                "encoding": "utf-8",
            }
        },
        # SQL at DEBUG level would write access tokens to the log.
        "loggers": {"synapse.storage.SQL": {"level": "INFO"}},
        "root": {"level": level, "handlers": ["file"]},
    }
