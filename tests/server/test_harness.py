# SPDX-License-Identifier: AGPL-3.0-or-later
"""The harness itself, against a Synapse without the module."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from demo import process
from demo.client import MatrixError, Response, Session, path, rules_path
from demo.gateway import NOTIFY_PATH, Behaviour, Gateway, Push
from demo.homeserver import PASSWORD, Homeserver, Options
from demo.loopback import LoopbackServer, OneAnswerHandler
from demo.process import Child, ProcessError, free_port, port_in_use
from tests.conftest import FreshDeployment
from tests.harness.cluster import ClusterHomeserver
from tests.harness.deployment import Deployment
from tests.harness.postgres import Postgres
from tests.harness.valkey import Valkey
from tests.harness.waiting import wait_until

APP = "org.example.app"


@pytest.fixture(scope="module")
def vanilla(module_deployment: FreshDeployment) -> Deployment:
    """A server for those tests here that leave it running."""
    return module_deployment(with_module=False)


def two_users_in_a_room(deployment: Deployment) -> tuple[Session, Session, str]:
    alice, bob = deployment.register(), deployment.register()
    room = alice.create_room(invite=[bob.user_id])
    bob.join(room)
    return alice, bob, room


def test_a_message_arrives_as_a_push(vanilla: Deployment, gateway: Gateway) -> None:
    alice, bob, room = two_users_in_a_room(vanilla)
    bob.set_pusher("key", APP, gateway.url)

    event_id = alice.send(room, "Hello")

    push = gateway.wait_for(pushkey="key", event_id=event_id)
    assert (push.app_id, push.room_id, push.type) == (APP, room, "m.room.message")
    assert (push.prio, push.counts, push.is_badge_update) == ("high", {"unread": 1}, False)
    assert push.notification["content"]["body"] == "Hello"

    bob.read(room, event_id)
    badge = gateway.wait_for(lambda push: push.is_badge_update and push.counts == {"unread": 0})
    assert (badge.pushkey, badge.event_id) == ("key", None)


def test_the_client_speaks_to_every_part_it_is_made_for(vanilla: Deployment) -> None:
    alice, bob, room = two_users_in_a_room(vanilla)

    since = bob.sync(sync_filter={"room": {"timeline": {"limit": 1}}})["next_batch"]
    event_id = alice.send(room, {"msgtype": "m.notice", "body": "Noted"})
    alice.send_state(room, "m.room.topic", {"topic": "Talk"})
    alice.redact(room, event_id)
    # Each sync returns as soon as there is something, which may be before the last event.
    seen: list[str] = []
    while "m.room.redaction" not in seen:
        answer = bob.sync(since, timeout_ms=20_000)
        since = answer["next_batch"]
        events = answer.get("rooms", {}).get("join", {}).get(room, {}).get("timeline", {})
        seen += [event["type"] for event in events.get("events", [])]
    assert seen == ["m.room.message", "m.room.topic", "m.room.redaction"]

    alice.put_rule("global", "room", room, {"actions": []})
    alice.put_rule("global", "content", "one.two", {"pattern": "x", "actions": ["notify"]})
    alice.put_rule(
        "global", "content", "first", {"pattern": "y", "actions": ["notify"]}, after="one.two"
    )
    alice.set_rule_enabled("global", "content", "first", False)
    alice.set_rule_actions("global", "content", "first", [])
    mine = [rule for rule in alice.get_rules("global")["content"] if not rule["default"]]
    assert [(rule["rule_id"], rule["enabled"]) for rule in mine] == [
        ("one.two", True),
        ("first", False),
    ]
    assert alice.get_rules()["global"]["room"][0]["rule_id"] == room
    alice.delete_rule("global", "room", room)
    assert rules_path("a/b", "room", "!é") == (
        "/_matrix/client/v3/pushrules/device/a%2Fb/room/%21%C3%A9"
    )

    new_room = alice.upgrade_room(room, "10")
    assert new_room != room

    tablet = vanilla.login(bob, "TABLET")
    assert (tablet.user_id, tablet.device_id) == (bob.user_id, "TABLET")
    tablet.logout()
    refused = tablet.request("GET", "/_matrix/client/v3/account/whoami")
    assert (refused.status, refused.errcode) == (401, "M_UNKNOWN_TOKEN")
    assert refused.headers["content-type"] == "application/json"
    with pytest.raises(MatrixError, match="M_UNKNOWN_TOKEN"):
        tablet.whoami()

    odd = alice.request("PUT", "/_matrix/client/v3/pushrules/global//%2F?a=%20", raw_body=b"{")
    assert odd.status >= 400
    bob.deactivate(PASSWORD)
    assert bob.request("GET", "/_matrix/client/v3/account/whoami").status == 401


def test_a_gateway_that_fails_is_tried_again(vanilla: Deployment, gateway: Gateway) -> None:
    alice, bob, room = two_users_in_a_room(vanilla)
    bob.set_pusher("failing", APP, gateway.url)
    bob.set_pusher("gone", APP, gateway.url, append=True)
    gateway.behave("failing", Behaviour.ERROR)
    gateway.behave("gone", Behaviour.REJECT)

    event_id = alice.send(room, "Hello")

    def delivered(push: Push) -> bool:
        return push.behaviour is Behaviour.OK

    gateway.wait_for(lambda push: push.behaviour is Behaviour.ERROR, pushkey="failing")
    gateway.behave("failing", Behaviour.OK)
    gateway.wait_for(delivered, pushkey="failing", event_id=event_id)
    gateway.wait_for(pushkey="gone", event_id=event_id)

    def left() -> list[str]:
        return [pusher["pushkey"] for pusher in bob.get_pushers()]

    wait_until(lambda: "gone" not in left(), "the removal of the rejected pusher")
    assert left() == ["failing"]


def test_a_deployment_can_be_looked_into_and_restarted(
    fresh_deployment: FreshDeployment, gateway: Gateway
) -> None:
    deployment = fresh_deployment(with_module=False)
    alice, bob, room = two_users_in_a_room(deployment)
    bob.set_pusher("key", APP, gateway.url, device_display_name="100% mine?")

    rows = deployment.sql("SELECT pushkey FROM pushers WHERE user_name = ?", [bob.user_id])
    assert rows == [("key",)]
    deployment.sql("UPDATE pushers SET lang = ? WHERE pushkey = 'key'", ["fr"])
    assert "synapse_http_server_response_count" in deployment.metrics()

    deployment.restart(extra={"server_notices": None, "allow_public_rooms_without_auth": True})

    assert [pusher["lang"] for pusher in bob.get_pushers()] == ["fr"]
    event_id = alice.send(room, "Back")
    gateway.wait_for(pushkey="key", event_id=event_id)

    deployment.kill()
    assert deployment.homeserver.pid is None
    deployment.restart()
    assert bob.whoami()["device_id"] == bob.device_id


# The gateway on its own


def post(gateway: Gateway, where: str, body: Any, timeout: float = 10.0) -> Response:
    session = Session(route=lambda *_: gateway.url.removesuffix(NOTIFY_PATH))
    try:
        return session.request("POST", where, body, token=False, timeout=timeout)
    finally:
        # Or else some later test fails: Python complains where it finds a connection that is open.
        session.close()


def notify(gateway: Gateway, pushkey: str, timeout: float = 10.0) -> Any:
    """The answer to a push, or the status of a refusal."""
    device = {"pushkey": pushkey, "app_id": APP, "tweaks": {"sound": "default"}}
    body = {"notification": {"event_id": "$1", "devices": [device]}}
    response = post(gateway, NOTIFY_PATH, body, timeout)
    return response.json if response.ok else response.status


def test_the_gateway_answers_as_told(gateway: Gateway) -> None:
    assert notify(gateway, "ok") == {"rejected": []}
    gateway.behave("rejected", Behaviour.REJECT)
    assert notify(gateway, "rejected") == {"rejected": ["rejected"]}
    gateway.behave("failing", Behaviour.ERROR)
    assert notify(gateway, "failing") == 500
    gateway.behave("closing", Behaviour.CLOSE)
    with pytest.raises(ConnectionError):
        notify(gateway, "closing")

    assert [p.pushkey for p in gateway.pushes()] == ["ok", "rejected", "failing", "closing"]
    assert [p.tweaks for p in gateway.pushes("ok")] == [{"sound": "default"}]
    gateway.clear()
    assert gateway.pushes() == []
    with pytest.raises(TimeoutError, match="pushkey=ok"):
        gateway.wait_for(pushkey="ok", timeout=0.01)


def test_the_gateway_hangs_until_told_how_to_answer(gateway: Gateway) -> None:
    gateway.behave("hanging", Behaviour.HANG)
    with pytest.raises(TimeoutError):
        notify(gateway, "hanging", timeout=0.2)
    assert gateway.wait_for(pushkey="hanging").behaviour is Behaviour.HANG
    gateway.release("hanging")
    assert notify(gateway, "hanging") == {"rejected": []}

    gateway.behave("again", Behaviour.HANG)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(notify, gateway, "again")
        gateway.wait_for(pushkey="again")
        gateway.behave("again", Behaviour.ERROR)
        assert answer.result() == 500


def test_the_gateway_refuses_what_is_no_push(gateway: Gateway) -> None:
    assert post(gateway, NOTIFY_PATH, []).status == 400
    assert post(gateway, f"{NOTIFY_PATH}/other", {}).status == 404
    assert gateway.pushes() == []


# No process stays behind


def _running(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_stopping_leaves_nothing(tmp_path: Path) -> None:
    with Homeserver(tmp_path / "synapse") as homeserver:
        pid, port = homeserver.pid, homeserver.port
        assert pid is not None
        assert port_in_use(port)
        with pytest.raises(ProcessError, match=f"port {port} is in use"):
            Homeserver(tmp_path / "other", Options(port=port)).start()
    assert not _running(pid)
    assert not port_in_use(port)


def test_postgres_leaves_nothing() -> None:
    with Postgres() as postgres:
        pid = postgres.pid
        assert pid is not None
        database = postgres.create_database()
        collation = "SELECT datcollate, datctype FROM pg_database WHERE datname = %s"
        assert database.execute(collation, [database.name]) == [("C", "C")]
        directory = Path(database.host)
    assert not _running(pid)
    assert not directory.exists()


def test_postgres_keeps_what_is_committed_through_a_kill() -> None:
    with Postgres() as postgres:
        database = postgres.create_database()
        database.execute("CREATE TABLE kept (number INTEGER)")
        for number in range(3):
            pid = postgres.pid
            database.execute("INSERT INTO kept VALUES (%s)", [number])
            postgres.kill()
            postgres.start_again()
            assert postgres.pid not in (None, pid)
        assert database.execute("SELECT number FROM kept ORDER BY number") == [(0,), (1,), (2,)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
@pytest.mark.parametrize("start", ["Homeserver(Path(sys.argv[1])).start()", "Postgres().start()"])
def test_a_killed_parent_takes_its_children_along(start: str, tmp_path: Path) -> None:
    script = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from demo.homeserver import Homeserver\n"
        "from tests.harness.postgres import Postgres\n"
        f"child = {start}\n"
        "print(child.pid, child.directory, flush=True)\n"
        "signal.pause()\n"
    )
    python_path = os.pathsep.join(filter(None, sys.path))
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": python_path},
    )
    assert parent.stdout is not None
    pid, directory = parent.stdout.readline().split()
    assert _running(int(pid))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not _running(int(pid)), f"the end of process {pid}")
    shutil.rmtree(directory)


def test_a_failed_start_says_why(tmp_path: Path) -> None:
    options = Options(modules=[{"module": "no.such.Module"}])
    homeserver = Homeserver(tmp_path, options)
    with pytest.raises(ProcessError, match=r"(?s)ended with code 1 .*No module named 'no'"):
        homeserver.start()
    assert homeserver.pid is None


def test_a_child_that_is_not_ready_in_time_is_reported(tmp_path: Path) -> None:
    script = "import time; print('thinking', flush=True); time.sleep(60)"
    output = tmp_path / "output.txt"
    child = Child(name="Slow", command=[sys.executable, "-c", script], output=output)
    child.spawn()
    child.wait_until(lambda: "thinking" in child.written(), 30)
    with pytest.raises(ProcessError, match=r"(?s)Slow was not ready .*thinking"):
        child.wait_until(lambda: False, 0.1)
    child.stop()
    assert not child.alive


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a place to say so")
def test_a_port_is_given_out_once_before_anybody_listens() -> None:
    """Two processes that asked for a port at the same time got the same one, once in CI."""
    taken = free_port()
    script = "import sys\nfrom demo import process\nprint(process._reserve(int(sys.argv[1])))\n"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def another_process_may_have(port: int) -> bool:
        command = [sys.executable, "-c", script, str(port)]
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return said.stdout.strip() == "True"

    assert not another_process_may_have(taken)
    with LoopbackServer("some server", OneAnswerHandler) as server:
        assert not another_process_may_have(server.port)
    while process._reservations:
        os.close(process._reservations.popleft())
    assert another_process_may_have(taken)


class _InterruptedError(Exception):
    pass


def test_a_signal_while_a_child_starts_does_not_lose_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    class PopenWithASignal(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self.pid)
            signal.raise_signal(signal.SIGTERM)

    def interrupt(_number: int, _frame: object) -> None:
        raise _InterruptedError

    monkeypatch.setattr(subprocess, "Popen", PopenWithASignal)
    script = "import time; time.sleep(60)"
    child = Child(name="C", command=[sys.executable, "-c", script], output=tmp_path / "output.txt")
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with pytest.raises(_InterruptedError):
            child.spawn()
        assert signal.getsignal(signal.SIGTERM) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [child.pid] == started
    child.kill()
    assert not _running(started[0])


@pytest.mark.one_deployment
def test_a_traceback_in_the_log_is_reported_once(fresh_deployment: FreshDeployment) -> None:
    deployment = fresh_deployment(with_module=False)
    deployment.assert_log_is_clean()
    traceback = "Traceback (most recent call last):\n  File x\nValueError: boom\n"
    with deployment.homeserver.log_file.open("a") as log:
        log.write(f"2026-01-01 00:00:00,000 ERROR here: [-] Oh no\n{traceback}")
    with pytest.raises(AssertionError, match=r"(?s)homeserver\.log.*Oh no.*boom"):
        deployment.assert_log_is_clean()
    deployment.assert_log_is_clean()
    deployment.allow_in_log("ValueError: bo+m")
    with deployment.homeserver.log_file.open("a") as log:
        log.write(f"2026-01-01 00:00:01,000 ERROR here: [-] Oh no\n{traceback}")


# A cluster


def test_a_request_waits_for_whatever_another_thread_may_have_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    valkey = Valkey()
    homeserver, waits = ClusterHomeserver(tmp_path, Options(), valkey), itertools.count()
    monkeypatch.setattr(homeserver, "catch_up", lambda: next(waits))
    where = path("pushers", "set")
    with ThreadPoolExecutor(1) as other:
        other.submit(homeserver.route, "POST", where).result()
        # It may be answered before this, or this, or neither.
        homeserver.route("GET", where)
        homeserver.route("GET", where)
        # By now it is over.
        other.submit(homeserver.route, "GET", where).result()
        homeserver.route("GET", where)
    valkey.stop()
    assert next(waits) == 3
