# SPDX-License-Identifier: AGPL-3.0-or-later
"""Keeps the demo's homeserver up, for a person to play with it."""

import json
import shlex
import time
from collections.abc import Callable, Mapping
from typing import NoReturn
from urllib.parse import quote

from demo.client import path, rules_path
from demo.gateway import Push, sound_and_tweaks
from demo.homeserver import PASSWORD, Homeserver
from demo.process import ProcessError
from demo.story import FAMILY, PHONE, PUSHERS_SET, Story, pushkey
from synapse_msc3881.admin.table import Screen

PAGE = "/_synapse/client/notifications/"

# Between two looks for new pushes.
_LOOK_SECONDS = 0.2


def serve(
    homeserver: Homeserver, story: Story, screen: Screen, check: Callable[[], None]
) -> NoReturn:
    """Keep the server up until a signal comes, and show each push as it arrives.

    Args:
        check: called again and again; raises when it is time to end.

    Raises:
        ProcessError: Synapse has ended by itself.
    """
    seen = len(story.gateway.pushes())
    names = {room_id: name for name, room_id in story.rooms.items()}
    _print_access(homeserver, story, screen)
    while homeserver.pid is not None:
        for push in story.gateway.pushes()[seen:]:
            seen += 1
            screen.line(_describe(push, names))
        check()
        time.sleep(_LOOK_SECONDS)
    raise ProcessError(f"Synapse has ended; the end of its log:\n{homeserver.log_text()[-2000:]}")


def _describe(push: Push, names: Mapping[str, str]) -> str:
    now = time.strftime("%H:%M:%S")
    device = push.pushkey.removesuffix(pushkey(""))
    if push.is_badge_update:
        return f"{now}  {device:<8} badge: {push.counts.get('unread', 0)} unread"
    room = names.get(push.room_id or "", push.room_id or "")
    body = push.notification.get("content", {}).get("body", push.type)
    said = [f'push: "{body}" in "{room}"', *sound_and_tweaks(push.tweaks)]
    return f"{now}  {device:<8} {', '.join(said)}"


def _print_access(homeserver: Homeserver, story: Story, screen: Screen) -> None:
    screen.line()
    screen.line("The server stays up until Ctrl-C", "bold")
    screen.line(f"  the page     {homeserver.base_url}{PAGE}   (sign in as alice or bob)")
    screen.line(f"  homeserver   {homeserver.base_url}")
    screen.line(f"  gateway      {story.gateway.url}")
    screen.line(f"  log          {homeserver.log_file}")
    screen.line(f"  password     {PASSWORD}   (of all users)")
    sessions = ((story.phone, "phone"), (story.desktop, "desktop"), (story.bob, ""))
    for session, device in sessions:
        who = f"{session.user_id} {device}".rstrip()
        screen.line(f"  {who:<24} device {session.device_id:<8} token {session.access_token}")
    for name, room_id in story.rooms.items():
        screen.line(f"  room {name:<20} {room_id}")
    screen.line()
    screen.line("To try, in another terminal", "bold")
    for number, (title, command) in enumerate(_commands(homeserver, story), 1):
        screen.line(f"  {number}. {title}:")
        # Not wrapped: it is for copying.
        screen.line(command)
    screen.line()
    screen.line("Pushes, as they arrive:", "bold")


def _commands(homeserver: Homeserver, story: Story) -> list[tuple[str, str]]:
    family = story.rooms[FAMILY]
    message = {"msgtype": "m.text", "body": "Hello, Alice"}
    send = path("rooms", family, "send", "m.room.message")
    pusher = {**story.pusher_of(PHONE), "org.matrix.msc3881.enabled": False}
    return [
        (
            f'Bob writes in "{FAMILY}"',
            # A transaction id is for one message.
            _curl("PUT", homeserver, send, story.bob.access_token, message, '/"$(date +%s)"'),
        ),
        (
            "Alice's desktop turns the phone off (true turns it on)",
            _curl("POST", homeserver, PUSHERS_SET, story.desktop.access_token, pusher),
        ),
        (
            f'Alice silences "{FAMILY}" on the phone only',
            _curl(
                "PUT",
                homeserver,
                rules_path(PHONE, "room", family),
                story.desktop.access_token,
                {"actions": []},
            ),
        ),
    ]


def _curl(
    method: str, homeserver: Homeserver, where: str, token: str, body: object, suffix: str = ""
) -> str:
    return (
        f"curl -X {method} -H 'Authorization: Bearer {quote(token)}' "
        f"-d {shlex.quote(json.dumps(body))} "
        f"'{homeserver.base_url}{where}'{suffix}"
    )
