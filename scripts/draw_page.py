# SPDX-License-Identifier: AGPL-3.0-or-later
"""Take the pictures of the page that stand in the documents: `python scripts/draw_page.py`.

Starts the demo's server with its devices and rooms, signs Alice in, sets a few things as a person
does, and writes `docs/pictures/page-*.png`. Needs Chromium, as the page's tests do.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from demo.client import Session  # noqa: E402
from demo.gateway import Gateway  # noqa: E402
from demo.homeserver import PASSWORD, Homeserver, Options  # noqa: E402
from demo.playground import furnish  # noqa: E402
from demo.serve import PAGE  # noqa: E402
from demo.story import Story  # noqa: E402
from tests.harness.browser import find_chromium, running  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
PHONE_SCREEN = {"width": 390, "height": 700}
TABLET = "Tablet in the kitchen"
MODULE = "synapse_msc3881.PusherControl"


def main() -> int:
    """Take all pictures."""
    chromium = find_chromium()
    if chromium is None:
        sys.exit("there is no Chromium; `make test-page` gets one")
    module = {"module": MODULE, "config": {"page": {"enabled": True}}}
    options = Options(server_name="demo.test", modules=[module], python_path=[ROOT])
    PICTURES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as directory,
        Gateway() as gateway,
        Homeserver(Path(directory), options) as homeserver,
        running(chromium) as browser,
    ):
        story = Story(homeserver, gateway)
        story.set_up()
        rooms = furnish(homeserver, story)
        # As an app that knows nothing of the page sets its pusher.
        story.set_phone_tags(["global"])
        context = browser.new_context(
            viewport=PHONE_SCREEN, device_scale_factor=1.5, locale="en-GB", color_scheme="light"
        )
        page = context.new_page()
        _sign_in(page, homeserver.base_url + PAGE)
        _set_things(page)
        event = story.bob.send(rooms["Book club"], "Which chapter are we at?")
        gateway.wait_for(pushkey="desktop-pushkey", event_id=event)
        _take_all(page)
        _take_own_app(page, story.phone, rooms["Choir"])
    return 0


def _sign_in(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_label("Username").fill("alice")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Devices").wait_for()


def _open_room(page: Page, name: str) -> None:
    page.get_by_role("link", name="Rooms", exact=True).first.click()
    page.get_by_role("link", name=name).click()
    page.get_by_role("group", name=TABLET).wait_for()


def _set_things(page: Page) -> None:
    for room, device, choice in (
        ("Choir", TABLET, "All messages"),
        ("Book club", TABLET, "Mentions and keywords"),
        ("Book club", "Alice's phone", "Muted"),
    ):
        _open_room(page, room)
        page.get_by_role("group", name=device).get_by_label(choice).check()
        page.get_by_text("Saved").wait_for()
    page.get_by_role("link", name="Devices").first.click()
    page.get_by_role("link", name=TABLET).click()
    page.get_by_label("Word", exact=True).fill("rehearsal")
    page.get_by_role("button", name="Add").click()
    page.get_by_text("rehearsal", exact=True).wait_for()


def _take_all(page: Page) -> None:
    _take(page, "device")
    page.get_by_role("link", name="Devices").first.click()
    page.get_by_role("heading", name="Devices").wait_for()
    _take(page, "devices")
    _open_room(page, "Book club")
    _take(page, "room")
    page.emulate_media(color_scheme="dark")
    _take(page, "room-dark")
    page.emulate_media(color_scheme="light")
    page.get_by_role("link", name="Why did it ring?").first.click()
    page.get_by_role("link", name="Book club").click()
    page.get_by_role("link", name="Which chapter").click()
    page.get_by_text("It did not ring").first.wait_for()
    _take(page, "why")
    page.set_viewport_size({"width": 1100, "height": 760})
    _open_room(page, "Book club")
    _take(page, "desktop")


def _take_own_app(page: Page, phone: Session, room: str) -> None:
    page.set_viewport_size(PHONE_SCREEN)
    page.get_by_role("link", name="Devices").first.click()
    page.get_by_role("link", name="Alice's phone").click()
    page.get_by_label("What is set in its own app").check()
    page.get_by_text("Saved").wait_for()
    # As the app on the phone does, which knows nothing of the page.
    condition = {"kind": "event_match", "key": "room_id", "pattern": room}
    phone.put_rule("global", "override", room, {"conditions": [condition], "actions": []})
    page.reload()
    page.get_by_role("link", name="Choir").wait_for()
    _take(page, "own-app")


def _take(page: Page, name: str) -> None:
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    # After what the page says of the last change.
    page.locator(".announcer.empty").wait_for(state="attached")
    page.screenshot(path=PICTURES / f"page-{name}.png", full_page=True, animations="disabled")


if __name__ == "__main__":
    sys.exit(main())
