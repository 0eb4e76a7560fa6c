# SPDX-License-Identifier: AGPL-3.0-or-later
"""Synapse as a cluster: the main process and eight workers on PostgreSQL and Valkey.

It offers what `Homeserver` and `Deployment` offer, so that the tests of one process run on it as
they are: each request goes to the process that serves it in a real deployment (`ROUTES`), and
only after all processes have seen what the requests before it have written. Tests of what holds
between processes use `Cluster.session_on` instead, which does neither.
"""

import copy
import http.client
import itertools
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import attr
from typing_extensions import Self

from demo.client import JsonDict, Session
from demo.homeserver import Homeserver, Options, log_config
from demo.process import Child, ProcessError, free_port, is_healthy, port_in_use
from tests.harness import positions
from tests.harness.deployment import Deployment
from tests.harness.valkey import Valkey

MAIN = "main"

#: The workers, and what each of them serves besides replication.
WORKERS: Mapping[str, Sequence[str]] = {
    "client1": ["client"],
    "client2": ["client"],
    "push_rules": ["client"],
    "persister1": [],
    "persister2": [],
    "pusher1": [],
    "pusher2": [],
    "federation": ["federation"],
}
CLIENT_WORKERS = ("client1", "client2")
PERSISTERS = ("persister1", "persister2")
PUSHERS = ("pusher1", "pusher2")
PUSH_RULES_WRITER = "push_rules"

_CLIENT = r"/_matrix/client/(api/v1|r0|v3|v1|unstable)"

#: Method, path and whether the client workers serve it; the first that fits counts. What fits
#: none is for the main process. Push rules are written on their writer.
_Where = Literal["client", "push_rules", "main"]
ROUTES: Sequence[tuple[str, str, _Where]] = (
    ("GET", rf"{_CLIENT}/pushrules/", "client"),
    ("PUT|DELETE", rf"{_CLIENT}/pushrules(/|$)", "push_rules"),
    ("GET|POST", rf"{_CLIENT}/(sync|org\.matrix\.simplified_msc3575/sync)$", "client"),
    ("GET|POST", rf"{_CLIENT}/login$", "client"),
    ("GET", r"/_matrix/client/versions$", "client"),
    ("GET", rf"{_CLIENT}/(account/whoami|notifications|joined_rooms)$", "client"),
    ("POST", rf"{_CLIENT}/createRoom$", "client"),
    ("POST", rf"{_CLIENT}/join/", "client"),
    ("PUT|GET", rf"{_CLIENT}/profile/", "client"),
    ("GET", r"/_matrix/client/unstable/org\.matrix\.msc3837/explain/", "client"),
    ("GET|PUT", rf"{_CLIENT}/rooms/[^/]+/(send|state|redact|members|messages|event)", "client"),
    ("POST", rf"{_CLIENT}/rooms/[^/]+/(join|invite|leave|ban|unban|kick)$", "client"),
    ("GET", rf"{_CLIENT}/user/[^/]+/account_data/", "client"),
    ("GET|HEAD", r"/_synapse/client/notifications", "client"),
)

_START_SECONDS = 300.0
_CATCH_UP_SECONDS = 30.0
_PORT_NAMES = (MAIN, *WORKERS)


class ClusterHomeserver(Homeserver):
    """All processes of one homeserver, with their configuration in `directory`."""

    def __init__(self, directory: Path, options: Options, valkey: Valkey) -> None:
        super().__init__(directory, options)
        self.valkey = valkey
        self.children: dict[str, Child] = {}
        # For each process the port of the other processes, and for some that of clients.
        self.replication_ports: dict[str, int] = {}
        self.worker_ports: dict[str, int] = {}
        #: Further options of some workers; their `further_listeners` come before ours.
        self.worker_options: dict[str, JsonDict] = {}
        self._has_schema = False
        self._turn = itertools.count()
        self._written = False
        # The threads whose last request may have written something.
        self._writing: set[int] = set()
        self._routing = threading.Lock()
        self._catching_up = threading.Lock()
        self._watchers: dict[str, http.client.HTTPConnection] = {}

    # Start and stop

    def _start_once(self) -> None:
        self.children = {}
        if self._has_schema:
            self.spawn(*_PORT_NAMES)
        else:
            # The workers do not start on an empty database.
            self.spawn(MAIN)
            self.wait(MAIN)
            self.spawn(*WORKERS)
        try:
            self.wait(*_PORT_NAMES)
        except BaseException:
            self.kill()
            raise
        self._has_schema = True
        self._written = True

    def prepare(self, options: Options) -> None:
        """Stop all processes and write the configuration for other options; start none."""
        self.stop()
        self.options = options
        self._choose_ports()
        self._write_config()
        self.children = {}

    def spawn(self, *names: str) -> None:
        """Start some processes, and wait for nothing."""
        for name in names:
            app = "homeserver" if name == MAIN else "generic_worker"
            child = Child(
                name=f"Synapse ({name})",
                command=[
                    sys.executable,
                    "-m",
                    f"synapse.app.{app}",
                    *(part for file in self._config_files(name) for part in ("-c", str(file))),
                ],
                output=self.log_file,
                env=self._environment(),
            )
            child.spawn()
            self.children[name] = child
        if MAIN in names:
            self._child = self.children[MAIN]

    def wait(self, *names: str) -> None:
        """Return when these processes answer.

        Raises:
            ProcessError: one ended, or does not answer in time.
        """
        for name in names:
            # The last listener to be opened: a process ends if it cannot open one before it.
            port = self.replication_ports[name]
            self.children[name].wait_until(lambda port=port: is_healthy(port), _START_SECONDS)  # type: ignore[misc]

    def stop(self) -> None:
        self.close_sessions()
        self._close_watchers()
        for child in self.children.values():
            child.ask_to_stop()
        for child in self.children.values():
            child.stop()

    def kill(self) -> None:
        self.close_sessions()
        self._close_watchers()
        for child in self.children.values():
            child.kill()

    def kill_process(self, name: str) -> None:
        """`kill -9` of one process; `start_process` brings it back."""
        self.children[name].kill()

    def stop_process(self, name: str) -> None:
        """Ask one process to stop, and return when it has."""
        self.children[name].stop()

    def change_options(self, **extra: Any) -> None:
        """Change top-level options of homeserver.yaml, for the processes that start from now on."""
        self.options = attr.evolve(self.options, extra={**self.options.extra, **extra})
        self._write_config()

    def start_process(self, name: str) -> None:
        """Start one process again, and return when it answers."""
        self.spawn(name)
        self.wait(name)

    # Where requests go

    def route(self, method: str, path: str) -> str:
        """The base URL for a request, once all processes have seen what was written before.

        A request that writes is over when its thread makes the next one, or has ended. Until then
        it may be over or not, so that everybody waits.
        """
        with self._routing:
            me = threading.get_ident()
            running = {thread.ident for thread in threading.enumerate()}
            over = {thread for thread in self._writing if thread == me or thread not in running}
            if self._written or self._writing:
                self.catch_up()
                self._written = False
                self._writing -= over
            if method != "GET":
                self._writing.add(me)
            return self.url_of(self.server_for(method, path))

    def route_at_once(self, method: str, path: str) -> str:
        """The base URL for a request that does not wait for what other requests wrote."""
        return self.url_of(self.server_for(method, path))

    def server_for(self, method: str, path: str) -> str:
        """The process that serves a request; client workers take turns."""
        bare = path.partition("?")[0]
        for methods, pattern, where in ROUTES:
            if re.fullmatch(methods, method) and re.match(pattern, bare):
                if where == "client":
                    return CLIENT_WORKERS[next(self._turn) % len(CLIENT_WORKERS)]
                return PUSH_RULES_WRITER if where == "push_rules" else MAIN
        return MAIN

    def url_of(self, name: str) -> str:
        """The base URL of one process for clients."""
        port = self.port if name == MAIN else self.worker_ports[name]
        return f"http://127.0.0.1:{port}"

    def catch_up(self, timeout: float = _CATCH_UP_SECONDS, without: str = "") -> None:
        """Return when all running processes have seen what each of them had written by now.

        Args:
            timeout: seconds until they must.
            without: a process that does not matter.

        Raises:
            ProcessError: one did not get there in time; the message says which, and where it is.
        """
        with self._catching_up:
            deadline = time.monotonic() + timeout
            known = self._positions(without)
            while behind := list(_behind(known)):
                if time.monotonic() > deadline:
                    raise ProcessError(f"some processes lag behind: {behind}")
                # What was written since does not count: only what is behind is asked again.
                fresh = self._positions(without)
                known = {
                    name: _with_written(fresh[name], position)
                    for name, position in known.items()
                    if name in fresh
                }

    def _positions(self, without: str) -> dict[str, JsonDict | None]:
        """How far each process is that runs; None for one that does not answer."""
        return {
            name: self._position(name)
            for name, child in self.children.items()
            if name != without and child.alive
        }

    def _position(self, name: str) -> JsonDict | None:
        # Twice: a connection that was kept may have ended with an earlier life of the process.
        for _ in range(2):
            try:
                return self._ask_position(name)
            except (OSError, http.client.HTTPException):
                self._watchers.pop(name).close()
        return None

    def _ask_position(self, name: str) -> JsonDict:
        connection = self._watchers.get(name)
        if connection is None:
            connection = http.client.HTTPConnection(
                "127.0.0.1", self.replication_ports[name], timeout=10
            )
            self._watchers[name] = connection
        connection.request("GET", positions.PATH)
        answer: JsonDict = json.loads(connection.getresponse().read())
        return answer

    def _close_watchers(self) -> None:
        for watcher in self._watchers.values():
            watcher.close()
        self._watchers.clear()

    # What it says about itself

    def metrics(self) -> str:
        """The metrics of all processes, one after the other."""
        return "".join(self.metrics_of(name) for name in self.children)

    def metrics_of(self, name: str) -> str:
        """The metrics of one process."""
        url = f"http://127.0.0.1:{self.replication_ports[name]}"
        session = Session(route=lambda *_: url)
        response = session.request("GET", "/_synapse/metrics", token=False)
        session.close()
        return response.body.decode()

    # Configuration

    def config(self) -> JsonDict:
        """The content of homeserver.yaml, which all processes share."""
        loopback = {"host": "127.0.0.1"}
        return {
            **super().config(),
            "redis": {"enabled": True, "host": "127.0.0.1", "port": self.valkey.port},
            "worker_replication_secret": self._shared_secret,
            "instance_map": {
                name: {**loopback, "port": port} for name, port in self.replication_ports.items()
            },
            "stream_writers": {"events": list(PERSISTERS), "push_rules": PUSH_RULES_WRITER},
            "pusher_instances": list(PUSHERS),
            **self.options.extra,
            "modules": [
                *self.options.extra.get("modules", self.options.modules),
                {"module": "tests.harness.positions.Positions", "config": {}},
            ],
        }

    def worker_config(self, name: str) -> JsonDict:
        """The content of one worker's own file, which Synapse reads after homeserver.yaml."""
        options = dict(self.worker_options.get(name, {}))
        listeners = list(options.pop("further_listeners", []))
        if WORKERS[name]:
            listeners.append(_listener(self.worker_ports[name], WORKERS[name]))
        # See wait().
        listeners.append(
            _listener(self.replication_ports[name], ["health", "metrics", "replication"])
        )
        return {
            "worker_app": "synapse.app.generic_worker",
            "worker_name": name,
            "worker_listeners": listeners,
            "worker_log_config": str(self._log_config_file(name)),
            **options,
        }

    def _ports(self) -> list[int]:
        return [*super()._ports(), *self.replication_ports.values(), *self.worker_ports.values()]

    def _choose_ports(self) -> None:
        super()._choose_ports()
        taken = {self.port, self.metrics_port, self.valkey.port}
        for name in _PORT_NAMES:
            self.replication_ports[name] = _keep_or_choose(self.replication_ports.get(name), taken)
        for name, resources in WORKERS.items():
            if resources:
                self.worker_ports[name] = _keep_or_choose(self.worker_ports.get(name), taken)

    def _listeners(self) -> list[JsonDict]:
        replication = _listener(self.replication_ports[MAIN], ["health", "metrics", "replication"])
        return [*super()._listeners(), replication]

    def _write_config(self) -> None:
        super()._write_config()
        for name in _PORT_NAMES:
            content = log_config(self.log_file, self.options.log_level, name)
            self._log_config_file(name).write_text(json.dumps(content, indent=2))
        for name in WORKERS:
            self._worker(name).write_text(json.dumps(self.worker_config(name), indent=2))

    def _config_files(self, name: str) -> list[Path]:
        return [self.config_file] if name == MAIN else [self.config_file, self._worker(name)]

    def _worker(self, name: str) -> Path:
        return self.directory / f"{name}.yaml"

    def _log_config_file(self, name: str) -> Path:
        return self.directory / ("log.yaml" if name == MAIN else f"{name}.log.yaml")


@attr.s(auto_attribs=True, kw_only=True)
class Cluster(Deployment):
    """A cluster, with or without the module, on a PostgreSQL database and a Valkey of its own."""

    homeserver: ClusterHomeserver = attr.ib(init=False)
    valkey: Valkey = attr.ib(factory=Valkey, init=False)
    worker_options: Mapping[str, JsonDict] = attr.ib(factory=dict)

    def start(self) -> Self:
        self.valkey.start()
        # Synapse reports a command that was under way as it lost Valkey: when either ends.
        self.allow_in_log(r"txredisapi\.ConnectionError('>)?: ")
        return super().start()

    def stop(self) -> None:
        super().stop()
        self.valkey.stop()

    def session_on(self, user: Session, name: str) -> Session:
        """The user's session with all its requests sent to one process, at once."""
        session = copy.copy(user)
        session._connections = {}
        session.route = lambda *_: self.homeserver.url_of(name)
        self.homeserver._sessions.append(session)
        return session

    def kill_process(self, name: str) -> None:
        """`kill -9` of one process; `start_process` brings it back."""
        self.homeserver.kill_process(name)

    def start_process(self, name: str) -> None:
        """Start a process again, and return when it answers."""
        self.homeserver.start_process(name)

    def settle(self) -> None:
        """Return when all processes have seen all that was written by now."""
        self.homeserver.catch_up()

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """Have a process do nothing for a while, and see nothing of what the others do."""
        pid = self.homeserver.children[name].pid
        assert pid is not None, f"{name} does not run"
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def pusher_of(self, user: Session) -> str:
        """The pusher worker that pushes to a user."""
        from synapse.config._base import ShardedWorkerHandlingConfig  # noqa: PLC0415

        shard = ShardedWorkerHandlingConfig(list(PUSHERS))
        return next(name for name in PUSHERS if shard.should_handle(name, user.user_id))

    def _make_homeserver(self) -> ClusterHomeserver:
        homeserver = ClusterHomeserver(self.directory, self.options(), self.valkey)
        homeserver.worker_options = dict(self.worker_options)
        return homeserver


def _listener(port: int, resources: Sequence[str]) -> JsonDict:
    return {
        "port": port,
        "type": "http",
        "bind_addresses": ["127.0.0.1"],
        "tls": False,
        "resources": [{"names": list(resources), "compress": False}],
    }


def _keep_or_choose(port: int | None, taken: set[int]) -> int:
    while not port or port in taken or port_in_use(port):
        port = free_port()
    taken.add(port)
    return port


def _with_written(fresh: JsonDict | None, position: JsonDict | None) -> JsonDict | None:
    """A process's position, with what it had written before, if that is known."""
    if fresh is None or position is None:
        return fresh
    return {**fresh, "written": position["written"]}


def _behind(known: Mapping[str, JsonDict | None]) -> Iterator[str]:
    """What keeps processes from having seen all that was written, in words."""
    answers = {name: position for name, position in known.items() if position is not None}
    for name in known.keys() - answers.keys():
        yield f"{name} does not answer"
    for name, position in answers.items():
        if position["busy"]:
            yield f"{name} changes pushers"
        for other in answers.values():
            for stream, written in other["written"].items():
                seen = position["seen"][stream].get(other["instance"], 0)
                if position is not other and seen < written:
                    yield f"{name} has seen {stream} of {other['instance']} up to {seen}/{written}"
