# SPDX-License-Identifier: AGPL-3.0-or-later
"""`make demo`, run as a newcomer runs it."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attr
import pytest

from demo.expectation import Message, expect
from demo.gateway import Behaviour, Push
from demo.process import free_port
from demo.story import Outcome
from synapse_msc3881.admin.table import cut, display_width, fit, pad
from tests.harness.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent
COMMAND = (sys.executable, "-u", "-m", "demo")
TIMEOUT = 300.0

# The message, and what the phone and the desktop make of it: pushed with which sound, and why.
BY_ONE_TO_ONE = "global: room_one_to_one"
AFTER_PHONE = f"phone: no match; {BY_ONE_TO_ONE}"
SIREN = ("yes, siren", 'phone: room "Alerts"')
MUTED = ("no", 'global: room "Alerts", silent')
DISABLED = ("no", "pusher is disabled")
EDIT = ("no", "global: suppress_edits, silent")
LOUD = ("yes, default", BY_ONE_TO_ONE)
FACTS = {
    "Anybody at home?": (("yes, default", AFTER_PHONE), LOUD),
    "Who brings chips?": (("no", 'phone: room "Party", silent'), LOUD),
    "Pizza is here!": (("yes, ding", 'phone: content "pizza"'), LOUD),
    "Disk 91 % full": (SIREN, MUTED),
    # The rest of the first stands on the next line.
    "Disk 92 % (edit)": (("no", 'phone: room "Alerts", but suppress_edits keeps it quiet;'), EDIT),
    "Are you still up?": (DISABLED, LOUD),
    "Database is down": (DISABLED, MUTED),
    "Database is back": (SIREN, MUTED),
    "Sunday at ours?": (("no", "phone: no match"), LOUD),
    "Disk 99 % full": (SIREN, MUTED),
    "Good night!": (("yes, default", AFTER_PHONE), LOUD),
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The demo's environment, with a temporary directory of its own to look for remains in."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    return {
        **{name: value for name, value in os.environ.items() if name != "NO_COLOR"},
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
        "TMPDIR": str(temporary),
        "COLUMNS": "120",
    }


def run_demo(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@contextlib.contextmanager
def started_demo(environment: dict[str, str], *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    demo = subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    try:
        yield demo
    finally:
        demo.kill()
        demo.communicate()


def read_until(demo: "subprocess.Popen[str]", expected: str) -> list[str]:
    """The lines up to the one that holds `expected`."""
    assert demo.stdout is not None
    lines = []
    for line in demo.stdout:
        lines.append(line.rstrip("\n"))
        if expected in line:
            return lines
    raise AssertionError(f"{expected!r} never came:\n" + "\n".join(lines))


def assert_nothing_left(environment: dict[str, str]) -> None:
    """No file in the temporary directory, and no process that was started with it."""
    directory = environment["TMPDIR"]
    assert list(Path(directory).iterdir()) == []
    marker = f"TMPDIR={directory}".encode()
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if marker in (process / "environ").read_bytes().split(b"\0"):
                left.append((process / "cmdline").read_bytes())
    assert left == []


def test_the_demo_tells_its_story(environment: dict[str, str]) -> None:
    demo = run_demo(environment)

    assert (demo.returncode, demo.stderr) == (0, "")
    assert "All 22 outcomes are what the rules say." in demo.stdout
    assert "\x1b" not in demo.stdout
    assert max(map(len, demo.stdout.splitlines())) <= 110
    lines = iter(demo.stdout.splitlines())
    for message, outcomes in FACTS.items():
        for device, (pushed, why) in zip(("phone", "desktop"), outcomes, strict=True):
            row = next(line for line in lines if re.search(rf"\b{device}  +(yes|no)\b", line))
            assert message in row or device == "desktop"
            assert re.split(rf"{device}  +", row)[1].split("  ", 1)[0] == pushed
            assert row.endswith(f"  {why}")
    assert_nothing_left(environment)


def test_the_demo_serves_until_ctrl_c(environment: dict[str, str]) -> None:
    port = free_port()
    with started_demo(environment, "--serve", "--port", str(port)) as demo:
        lines = read_until(demo, "Pushes, as they arrive")
        text = "\n".join(lines)
        assert f"http://127.0.0.1:{port}" in text
        assert re.search(r"gateway +http://127\.0\.0\.1:\d+/_matrix/push/v1/notify", text)
        assert len(re.findall(r"token syt_", text)) == 3
        commands = [line for line in lines if line.startswith("curl ")]
        assert len(commands) == 3

        if shutil.which("curl"):
            send, turn_off, silence = commands
            curl(send)
            assert {device_of(demo) for _ in range(3)} == {"phone", "desktop", "tablet"}
            curl(turn_off.replace("false}", "true}"))
            curl(silence)
            wait_for_the_next_second()
            curl(send)
            assert {device_of(demo) for _ in range(2)} == {"desktop", "tablet"}
            curl(turn_off)

        demo.send_signal(signal.SIGINT)
        output, errors = demo.communicate(timeout=TIMEOUT)
        assert (demo.returncode, errors) == (0, "")
        assert "Stopped. Nothing is left behind." in output
    assert_nothing_left(environment)


def curl(command: str) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", command.replace("curl ", "curl --silent --show-error --fail ", 1)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, (command, done)


def wait_for_the_next_second() -> None:
    """The command that sends has the time in seconds as its transaction id."""
    before = int(time.time())
    wait_until(lambda: int(time.time()) > before)


def device_of(demo: "subprocess.Popen[str]") -> str:
    """The device of the next push of the message that `curl` sends."""
    line = read_until(demo, '"Hello, Alice" in "Family", default')[-1]
    assert "push: " in line
    return line.split()[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("line", ["Starting Synapse", "Bob writes"])
def test_a_signal_ends_the_demo_and_all_that_it_made(
    environment: dict[str, str], number: signal.Signals, line: str
) -> None:
    with started_demo(environment) as demo:
        read_until(demo, line)
        demo.send_signal(number)
        output, errors = demo.communicate(timeout=TIMEOUT)
        assert demo.returncode == 128 + number, (output, errors)
        assert errors == "\ndemo: interrupted; nothing is left behind\n"
    assert_nothing_left(environment)


def test_nobody_reads_the_output(environment: dict[str, str]) -> None:
    with started_demo(environment) as demo:
        assert demo.stdout is not None
        assert demo.stderr is not None
        demo.stdout.close()
        assert demo.wait(TIMEOUT) == 1
        assert demo.stderr.read() == ""
        demo.stdout = None
    assert_nothing_left(environment)


def test_a_port_that_is_taken(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        demo = run_demo(environment, "--port", str(port))
    assert (demo.returncode, demo.stdout) == (1, "")
    assert f"port {port} is taken; choose another one with --port" in demo.stderr
    assert_nothing_left(environment)


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "8008.5", ""])
def test_a_port_that_is_none(environment: dict[str, str], port: str) -> None:
    demo = run_demo(environment, f"--port={port}")
    assert demo.returncode == 2
    assert f"'{port}' is not a port: a number from 1 to 65535" in demo.stderr


def test_the_help(environment: dict[str, str]) -> None:
    demo = run_demo(environment, "--help")
    assert demo.returncode == 0
    assert "make demo ARGS=--serve" in demo.stdout


# What makes the demo fail

# A module that also pushes where the deciding rule is silent.
BROKEN_MODULE = """
from synapse_msc3881 import PusherControl
from synapse_msc3881.cascade.stored_outcomes import Outcomes
from synapse_msc3881.cascade.profile_tags import Decision, Match

decide = Outcomes.decide


def decide_loudly(*args):
    decision = decide(*args)
    return decision if decision is None or decision.pushes else Decision("any", Match(["notify"]))


Outcomes.decide = decide_loudly
"""
RUN_IT = """
import sys
from demo import run

run._MODULE = "broken_module.PusherControl"
sys.exit(run.main([]))
"""


def test_a_module_that_pushes_too_much_fails_the_demo(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "broken_module.py").write_text(BROKEN_MODULE)
    environment["PYTHONPATH"] += os.pathsep + str(tmp_path)
    demo = subprocess.run(
        [sys.executable, "-c", RUN_IT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert demo.returncode == 1
    assert "demo: 1 of 22 outcomes are not what the rules say" in demo.stderr
    assert (
        '"Who brings chips?" in "Party", for the phone: should not have been pushed, but arrived'
        in demo.stderr
    )
    row = next(line for line in demo.stdout.splitlines() if "WRONG" in line)
    assert row.startswith("Who brings chips?")
    assert_nothing_left(environment)


def push(event_id: str, **tweaks: str) -> Push:
    return Push(
        pushkey="key",
        app_id="app",
        event_id=event_id,
        room_id=None,
        type=None,
        counts={},
        tweaks=dict(tweaks),
        prio="high",
        notification={},
        received_at=0.0,
        behaviour=Behaviour.OK,
    )


ROOM = "!room:demo.test"
MESSAGE = Message(
    room_id=ROOM,
    sender="@bob:demo.test",
    content={"msgtype": "m.text", "body": "A PIZZA?"},
    members=2,
    display_name="alice",
)


EDITS = {
    "kind": "event_property_is",
    "key": "content.m\\.relates_to.rel_type",
    "value": "m.replace",
}
SUPPRESS_EDITS = {
    "rule_id": ".m.rule.suppress_edits",
    "default": True,
    "enabled": True,
    "conditions": [EDITS],
    "actions": [],
}
IN_GLOBAL = {"override": [SUPPRESS_EDITS]}


def test_what_arrives_is_compared_with_what_the_rules_say() -> None:
    siren = {"rule_id": ROOM, "default": False, "enabled": True}
    siren["actions"] = ["notify", {"set_tweak": "sound", "value": "siren"}]
    silent = {**siren, "actions": []}
    pusher = {"enabled": True, "profile_tags": ["other", "phone", "global"]}
    loud = expect(
        pusher, {"global": IN_GLOBAL, "device": {"phone": {"room": [siren]}}}, MESSAGE, {}
    )
    quiet = expect(pusher, {"global": {"room": [silent]}}, MESSAGE, {ROOM: "Party"})

    assert (loud.tag, loud.rule, loud.pushed) == ("phone", f"room/{ROOM}", True)
    assert (quiet.tag, quiet.pushed) == ("global", False)
    assert quiet.why == 'other: no match; phone: no match; global: room "Party", silent'
    edit = {**MESSAGE.content, "m.relates_to": {"rel_type": "m.replace"}}
    in_phone = {"global": IN_GLOBAL, "device": {"phone": {"room": [siren]}}}
    edited = expect(pusher, in_phone, attr.evolve(MESSAGE, content=edit), {ROOM: "Party"})
    assert not edited.pushed
    assert 'phone: room "Party", but suppress_edits keeps it quiet; ' in edited.why
    assert Outcome("phone", loud, [push("$1", sound="siren")]).problem is None
    assert Outcome("phone", quiet, []).problem is None
    problems = {
        "never arrived": Outcome("phone", loud, []),
        "arrived 2 times": Outcome("phone", loud, [push("$1", sound="siren")] * 2),
        "should have had the tweaks": Outcome("phone", loud, [push("$1", sound="default")]),
        "should not have been pushed": Outcome("phone", quiet, [push("$1")]),
    }
    for text, outcome in problems.items():
        assert text in (outcome.problem or "")


@pytest.mark.parametrize(
    ("kind", "rule", "matches"),
    [
        ("override", {"conditions": []}, True),
        ("override", {"conditions": [], "enabled": False}, False),
        ("content", {"pattern": "pizza"}, True),
        ("content", {"pattern": "p*a"}, True),
        ("content", {"pattern": "pizz"}, False),
        ("room", {"rule_id": "!other:demo.test"}, False),
        ("sender", {"rule_id": "@bob:demo.test"}, True),
        ("underride", {"conditions": [{"kind": "room_member_count", "is": "2"}]}, True),
        ("underride", {"conditions": [{"kind": "room_member_count", "is": "3"}]}, False),
        ("underride", {"conditions": [{"kind": "of a later version"}]}, False),
    ],
)
def test_the_demo_matches_rules_by_itself(
    kind: str, rule: dict[str, object], matches: bool
) -> None:
    rules = {
        "global": {
            kind: [{"rule_id": "x", "default": False, "enabled": True, "actions": [], **rule}]
        }
    }
    pusher = {"enabled": True, "profile_tags": ["global"]}
    assert (expect(pusher, rules, MESSAGE, {}).tag == "global") is matches


def test_columns_fit() -> None:
    assert fit({"a": 20, "b": 7}, 21) == [10, 7]
    assert display_width("e\u0301 漢字") == 6
    assert pad("漢字", 6) == "漢字  "
    assert cut("漢字漢字", 5) == "漢字…"
    assert cut("short", 5) == "short"
