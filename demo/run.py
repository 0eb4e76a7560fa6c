# SPDX-License-Identifier: AGPL-3.0-or-later
"""The demo as a program: its arguments, its way to end well, and what it prints."""

import argparse
import contextlib
import http.client
import importlib.metadata
import json
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from demo.client import MatrixError
from demo.gateway import Gateway, sound_and_tweaks
from demo.homeserver import Homeserver, Options
from demo.playground import furnish
from demo.process import ENDING_SIGNALS, ProcessError, port_in_use
from demo.serve import serve
from demo.story import DEVICES, PLOT, Happening, Sent, Story, StoryError
from synapse_msc3881.admin.table import Cell, Screen, ScreenGoneError, fit

_MODULE = "synapse_msc3881.PusherControl"
_PACKAGE_PARENT = Path(__file__).resolve().parent.parent

_DESCRIPTION = """\
Starts a throwaway Synapse with the module, a push gateway and two users. Lets one of them write,
and shows what was pushed to the other one's phone and desktop, and why.
"""

_EPILOG = """\
examples:
  make demo                               tell the story and end
  make demo ARGS=--serve                  keep the server up to play with, until Ctrl-C
  make demo ARGS="--serve --port 8008"    the same, on a port of your choice

Everything happens on 127.0.0.1 and in a temporary directory, and nothing of it is left behind.
Exit status: 0 if all pushes were as they should be, 1 if not or if the demo could not run.
"""


class DemoError(Exception):
    """The demo cannot run, or shows something else than it should; the message is for a human."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit status."""
    arguments = _parse(argv)
    screen = Screen()
    try:
        with _stoppable() as stopping:
            _demo(arguments, screen, stopping)
    except Stopped as stopped:
        if stopped.serving:
            screen.line("\nStopped. Nothing is left behind.")
            return 0
        return _failed("interrupted; nothing is left behind", 128 + stopped.signal)
    except (DemoError, MatrixError, ProcessError, StoryError) as error:
        return _failed(str(error))
    except ScreenGoneError:
        return 1
    except (OSError, http.client.HTTPException) as error:
        return _failed(f"a connection failed: {error!r}")
    return 0


def _failed(message: str, status: int = 1) -> int:
    print(f"\ndemo: {message}", file=sys.stderr)
    return status


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--serve",
        action="store_true",
        help="after the story, keep the server up, with the page on; print the addresses, users, "
        "passwords and access tokens, commands to try, and each push as it arrives",
    )
    parser.add_argument(
        "--port",
        type=_port,
        metavar="N",
        help="the port of the homeserver's client API (default: a free one)",
    )
    return parser.parse_args(argv)


def _port(text: str) -> int:
    port = int(text) if text.isascii() and text.isdecimal() else 0
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a number from 1 to 65535")
    return port


# --- Ending well --------------------------------------------------------------------------------


class Stopped(BaseException):
    """Somebody asked the demo to end.

    Attributes:
        signal: its number.
        serving: whether the demo was keeping its server up, which only this can end.
    """

    def __init__(self, signal_number: int, serving: bool) -> None:
        super().__init__()
        self.signal = signal_number
        self.serving = serving


class _Stopping:
    """Raises `Stopped` at the first signal, and lets further ones pass: we are tidying up."""

    def __init__(self) -> None:
        self.serving = False
        self._signal: int | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        for each in ENDING_SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        self._signal = number
        self.check()

    def check(self) -> None:
        """Raise it again: an exception out of a signal handler gets lost in a destructor."""
        if self._signal is not None:
            raise Stopped(self._signal, self.serving)


@contextlib.contextmanager
def _stoppable() -> Iterator[_Stopping]:
    stopping = _Stopping()
    previous = {each: signal.signal(each, stopping) for each in ENDING_SIGNALS}
    try:
        yield stopping
        stopping.check()
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def _temporary_directory() -> Iterator[Path]:
    """A directory that goes again, also when a signal comes just as it is made."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    directory = tempfile.TemporaryDirectory(prefix="synapse-demo-", ignore_cleanup_errors=True)
    with directory as name:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
        yield Path(name)


# --- The demo -----------------------------------------------------------------------------------


def _demo(arguments: argparse.Namespace, screen: Screen, stopping: _Stopping) -> None:
    started = time.monotonic()
    _check_port(arguments.port)
    with _temporary_directory() as directory, Gateway() as gateway:
        version = importlib.metadata.version("matrix-synapse")
        screen.line(f"Starting Synapse {version} on SQLite, with the module …")
        options = Options(
            server_name="demo.test",
            port=arguments.port,
            modules=[{"module": _MODULE, "config": {"page": {"enabled": arguments.serve}}}],
            python_path=[_PACKAGE_PARENT],
        )
        with Homeserver(directory, options) as homeserver:
            screen.line("Alice logs in on her phone and her desktop; Bob shares three rooms …")
            story = Story(homeserver, gateway)
            screen.line("She registers a pusher for each device, and writes her rules …")
            story.set_up()
            _introduce(story, screen)
            screen.line("Bob writes, and the gateway counts …")
            sent = story.tell(PLOT, stopping.check)
            screen.line()
            problems = _print_table(sent, screen) + _strangers(story, sent)
            _conclude(sent, problems, time.monotonic() - started, screen)
            if arguments.serve:
                stopping.serving = True
                story.rooms.update(furnish(homeserver, story))
                serve(homeserver, story, screen, stopping.check)


def _check_port(port: int | None) -> None:
    if port is None or not port_in_use(port):
        return
    if _only_root_may_use(port):
        raise DemoError(f"only root may use port {port}; choose one from 1024 up with --port")
    raise DemoError(
        f"port {port} is taken; choose another one with --port, or leave --port out for a free one"
    )


def _only_root_may_use(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return isinstance(error, PermissionError)
    return False


def _introduce(story: Story, screen: Screen) -> None:
    """Show the pushers and the rules as the server shows them to Alice."""
    rules = story.desktop.get_rules()
    names = {room_id: name for name, room_id in story.rooms.items()}
    screen.line()
    screen.line("The pushers", "bold")
    for device in DEVICES:
        tags = json.dumps(story.pusher_of(device)["profile_tags"])
        screen.line(f"  {device:<8} profile_tags {tags}")
    screen.line("The rules", "bold")
    scopes = {"global": rules["global"], **rules["device"]}
    for scope, ruleset in sorted(scopes.items(), reverse=True):
        for kind, listed in ruleset.items():
            for rule in listed:
                if not rule["default"]:
                    name = names.get(rule["rule_id"], rule["rule_id"])
                    actions = json.dumps(rule["actions"])
                    screen.line(f'  {scope:<8} {kind:<8} "{name}": {actions}')
    screen.line("  global   and the rules that every user of Matrix has")
    screen.line()


def _print_table(sent: Sequence[Sent], screen: Screen) -> list[str]:
    """Print what arrived and why, and return what is not as it should be."""
    wanted = {
        "message": max(len(message.says.body) for message in sent),
        "room": max(len(message.says.room) for message in sent),
        "device": 7,
        "pushed": len("yes, default"),
    }
    widths = fit(wanted, screen.width)
    headings = ("Message", "Room", "Device", "Pushed", "Why")
    screen.row([Cell(heading, "bold") for heading in headings], widths)
    screen.rule()
    problems: list[str] = []
    messages = iter(sent)
    for happening in PLOT:
        if isinstance(happening, Happening):
            screen.paragraph(f"-- {happening.text}", "cyan")
        else:
            problems += _print_message(next(messages), widths, screen)
    screen.rule()
    return problems


def _print_message(message: Sent, widths: Sequence[int], screen: Screen) -> list[str]:
    first = [Cell(message.says.body), Cell(message.says.room)]
    problems = []
    for outcome in message.outcomes:
        pushed = Cell("no", "yellow")
        if outcome.arrived:
            pushed = Cell(", ".join(["yes", *sound_and_tweaks(outcome.tweaks)]), "green")
        why = Cell(outcome.expected.why)
        if outcome.problem:
            pushed = Cell(pushed.text, "red")
            why = Cell(f"WRONG: {outcome.problem} ({outcome.expected.why})", "red")
            problems.append(
                f'"{message.says.body}" in "{message.says.room}", for '
                f"the {outcome.device}: {outcome.problem} ({outcome.expected.why})"
            )
        cells = [*first, Cell(outcome.device), pushed, why]
        screen.row(cells, widths)
        first = [Cell(""), Cell("")]
    return problems


def _strangers(story: Story, sent: Sequence[Sent]) -> list[str]:
    return [
        f"{push.pushkey} got {push.event_id}, which is no message of the story"
        for push in story.strangers(sent)
    ]


def _conclude(sent: Sequence[Sent], problems: list[str], seconds: float, screen: Screen) -> None:
    """Say how it went.

    Raises:
        DemoError: something arrived that should not have, or the other way round.
    """
    outcomes = sum(len(message.outcomes) for message in sent)
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise DemoError(
            f"{len(problems)} of {outcomes} outcomes are not what the rules say:\n{listed}"
        )
    screen.paragraph(
        f"All {outcomes} outcomes are what the rules say. "
        '"Pushed" is what the gateway received, with the sound. "Why" is worked out from the '
        "pushers and the rules that the server shows to Alice.",
        "bold",
    )
    screen.line(f"Done in {seconds:.1f} seconds.")
