# SPDX-License-Identifier: AGPL-3.0-or-later
"""nginx in front of the example cluster, with the `nginx.conf` that stands in docs/."""

import http.client
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import attr
import pytest

from demo.client import Session, path
from demo.gateway import Gateway
from demo.process import Child, free_port
from tests.cluster.example import EXAMPLES, ExampleHomeserver
from tests.harness.cluster import MAIN, PUSH_RULES_WRITER
from tests.harness.waiting import wait_until
from tests.server.cascade_helpers import APP, SIREN, THING, on_type

_NGINX = shutil.which("nginx")
pytestmark = pytest.mark.skipif(
    _NGINX is None, reason="nginx is not installed (Debian: nginx-light)"
)

# The port of the example.
_LISTEN = 8080

# Around what stands in docs/: what a distribution's nginx.conf has, in a directory of ours.
_AROUND = """\
daemon off;
pid {directory}/nginx.pid;
error_log stderr info;
events {{}}
http {{
    log_format upstream '$request_method $request_uri -> $upstream_addr $status';
    access_log {directory}/access.log upstream;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {example}
}}
"""


@attr.s(auto_attribs=True, frozen=True)
class Proxy:
    """The proxy, and the cluster behind it."""

    homeserver: ExampleHomeserver
    port: int
    log: Path

    def session(self, user: Session) -> Session:
        """The user's session with all its requests sent through the proxy."""
        user.route = lambda *_: f"http://127.0.0.1:{self.port}"
        return user

    def served_by(self, method: str, target: str) -> set[str]:
        """The processes that served requests of this method whose target has this part."""
        names = {self.homeserver.url_of(name): name for name in self.homeserver.worker_ports}
        names[self.homeserver.url_of(MAIN)] = MAIN
        found = set()
        for line in self.log.read_text().splitlines():
            asked, _, answered = line.partition(" -> ")
            if asked.startswith(f"{method} ") and target in asked:
                found.add(names[f"http://{answered.split()[0]}"])
        return found


@pytest.fixture
def proxy(example: ExampleHomeserver, tmp_path: Path) -> Iterator[Proxy]:
    # Without our own module for tests, nothing tells how far replication came.
    example.route = example.route_at_once  # type: ignore[method-assign]
    directory = tmp_path / "nginx"
    directory.mkdir()
    port = free_port()
    text = re.sub(
        r"127\.0\.0\.1:(\d+)",
        lambda match: f"127.0.0.1:{_port(example, int(match[1]), port)}",
        (EXAMPLES / "nginx.conf").read_text(),
    )
    config = directory / "nginx.conf"
    config.write_text(_AROUND.format(directory=directory, example=text))
    command = [str(_NGINX), "-c", str(config), "-p", str(directory)]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    nginx = Child(name="nginx", command=command, output=directory / "output.txt")
    nginx.spawn()
    try:
        nginx.wait_until(lambda: _answers(port), 30)
        yield Proxy(example, port, directory / "access.log")
    finally:
        nginx.stop()


def _port(example: ExampleHomeserver, port: int, listen: int) -> int:
    return listen if port == _LISTEN else example.at_port(port)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/_matrix/client/versions")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def test_all_that_the_module_serves_goes_through_nginx(proxy: Proxy, gateway: Gateway) -> None:
    alice, bob = (proxy.session(proxy.homeserver.register(name)) for name in ("alice", "bob"))
    room = alice.create_room(preset="public_chat")
    bob.join(room)

    features = bob.call("GET", "/_matrix/client/versions")["unstable_features"]
    assert features["org.matrix.msc3837"] is True

    # A tag with a slash: the proxy must hand on `%2F` as it came.
    tag = "my/phone"
    since = bob.sync()["next_batch"]
    woken: list[object] = []
    waiting = threading.Thread(
        target=lambda: woken.append(_sync_on(proxy, bob, since)), name="a waiting sync"
    )
    waiting.start()
    bob.put_rule(tag, "override", "siren", on_type(THING, SIREN))
    waiting.join(60)
    assert woken == [[tag]]
    rule = path("pushrules", "device", tag, "override", "siren")
    assert "%2F" in rule
    wait_until(lambda: bob.request("GET", rule).status == 200, "the rule on all client workers")
    bob.set_rule_enabled(tag, "override", "siren", False)
    bob.set_rule_enabled(tag, "override", "siren", True)

    bob.set_pusher("key", APP, gateway.url, profile_tags=[tag, "global"])
    event = _push_until(gateway, alice, room)
    assert gateway.pushes("key")[0].tweaks == {"sound": "siren"}
    explained = bob.call(
        "GET", path("org.matrix.msc3837", "explain", room, event).replace("/v3/", "/unstable/")
    )
    assert [pusher["outcome"] for pusher in explained["pushers"]] == ["push"]

    # Silenced from another session.
    other = proxy.session(proxy.homeserver.login(bob.user_id, "DESK"))
    (pusher,) = other.get_pushers()
    other.call(
        "POST",
        path("pushers", "set"),
        {**pusher, "org.matrix.msc3881.enabled": False, "append": True},
    )
    (pusher,) = bob.get_pushers()
    assert pusher["enabled"] is False
    bob.delete_rule(tag, "override", "siren")

    # nginx writes a line once it has answered.
    written = {PUSH_RULES_WRITER}
    tagged = "/pushrules/device/my%2Fphone/"
    wait_until(lambda: proxy.served_by("DELETE", tagged) == written, "the last line of the log")
    clients = {"client1", "client2"}
    assert proxy.served_by("GET", "/versions") <= clients
    assert proxy.served_by("GET", "/pushrules/") <= clients
    assert proxy.served_by("PUT", tagged) == written
    assert proxy.served_by("POST", "/pushers/set") == {MAIN}
    assert proxy.served_by("GET", "/pushers") == {MAIN}
    assert proxy.served_by("GET", "/sync") <= clients
    assert proxy.served_by("GET", "/explain/") <= clients
    assert proxy.served_by("PUT", "/send/") <= clients


def _sync_on(proxy: Proxy, bob: Session, since: str) -> list[str]:
    """The device scopes that the next sync brings."""
    session = Session(
        route=lambda *_: f"http://127.0.0.1:{proxy.port}",
        user_id=bob.user_id,
        device_id=bob.device_id,
        access_token=bob.access_token,
    )
    try:
        for _ in range(10):
            answer = session.sync(since=since, timeout_ms=30_000)
            since = answer["next_batch"]
            for event in answer.get("account_data", {}).get("events", []):
                if event["type"] == "m.push_rules" and "device" in event["content"]:
                    return sorted(event["content"]["device"])
        return []
    finally:
        session.close()


def _push_until(gateway: Gateway, alice: Session, room: str) -> str:
    """Send until a push came by the device's rules: both reach other processes in their time."""
    sent: list[str] = []

    def came() -> bool:
        sent.append(alice.send(room, {"body": "Hello"}, THING))
        return bool(gateway.pushes("key"))

    wait_until(came, "a push")
    found = gateway.pushes("key")[0].event_id
    assert found in sent
    return str(found)
