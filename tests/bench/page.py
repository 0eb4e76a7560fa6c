# SPDX-License-Identifier: AGPL-3.0-or-later
"""The page in a browser, for a user in many rooms: against a bare `/sync` of the same user.

A bare `/sync` is what a client without sliding sync has to wait for before it can show a room.
"""

import json
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, Page

from demo.client import Session, path
from demo.homeserver import PASSWORD
from synapse_msc3881.page.files import PATH
from tests.bench.results import Comparison, Count, Measurement
from tests.bench.servers import NOWHERE, Workshop
from tests.bench.sizes import Size
from tests.harness.browser import find_chromium, running
from tests.harness.deployment import Deployment

SYNC = "bare /sync"
DEVICES, ROOMS, ALL_ROOMS = "devices shown", "rooms shown", "all rooms read"
REQUESTS, BYTES, ROWS = "requests", "bytes of the first load", "rows in the document"
TIME = "time, s"
WHERE = "sqlite"

# Of 20 ms each.
_LOOKS = 3000


def measure(workshop: Workshop, size: Size) -> Measurement:
    """Load the page again and again, and ask for a bare `/sync` between."""
    chromium = find_chromium()
    if chromium is None:
        workshop.say("page: there is no Chromium, so nothing is measured")
        return Measurement({})
    with tempfile.TemporaryDirectory() as directory, running(chromium) as browser:
        deployment = Deployment(
            kind="sqlite",
            directory=Path(directory),
            module_config={"page": {"enabled": True}},
        ).start()
        try:
            return _measure(workshop, size, deployment, browser)
        finally:
            deployment.stop()


def _measure(
    workshop: Workshop, size: Size, deployment: Deployment, browser: Browser
) -> Measurement:
    alice = _furnish(deployment, size.page_rooms)
    page = browser.new_page()
    bodies: list[int] = []
    page.on("requestfinished", lambda one: bodies.append(one.sizes()["responseBodySize"]))
    page.goto(deployment.homeserver.base_url + PATH)
    page.locator("input[type=password]").fill(PASSWORD)
    first_load = sum(bodies)
    page.locator("input[autocomplete=username]").fill(alice.user_id)
    page.locator("input[type=password]").press("Enter")
    page.locator(".card h2").first.wait_for()
    page.evaluate("location.hash = '#/rooms'")
    _wait_for_all(page)
    requests: list[str] = []
    page.on("request", lambda one: requests.append(one.url))
    times: dict[str, list[tuple[float, float]]] = {DEVICES: [], ROOMS: [], ALL_ROOMS: []}
    counts: dict[str, int] = {}
    for _ in range(size.page_rounds):
        bare = _time_sync(alice)
        started = time.monotonic()
        for screen, what in (("devices", DEVICES), ("rooms", ROOMS)):
            page.evaluate("(screen) => { location.hash = `#/${screen}`; }", screen)
            requests.clear()
            started = time.monotonic()
            page.reload(wait_until="commit")
            page.locator(".card h2" if what == DEVICES else ".room-list li").first.wait_for()
            times[what].append((bare, time.monotonic() - started))
            counts[what] = _count(requests)
        _wait_for_all(page)
        times[ALL_ROOMS].append((bare, time.monotonic() - started))
        counts[ALL_ROOMS] = _count(requests)
    rows = page.locator(".room-list li").count()
    for what, rounds in times.items():
        workshop.say(f"page, {what}: {rounds[-1][1]:.2f} s, a bare /sync {rounds[-1][0]:.2f} s")
    return Measurement(
        {},
        comparisons=[
            Comparison(WHERE, size.page_rooms, SYNC, what, TIME, rounds)
            for what, rounds in times.items()
        ],
        counts=[
            *(
                Count(WHERE, size.page_rooms, what, REQUESTS, count)
                for what, count in counts.items()
            ),
            Count(WHERE, size.page_rooms, DEVICES, BYTES, first_load),
            Count(WHERE, size.page_rooms, ROOMS, ROWS, rows),
        ],
    )


def _count(requests: list[str]) -> int:
    """Without the icon, and without what is asked once all is shown."""
    later = ("/explain/", "msc3837.own")
    return len(
        [
            url
            for url in requests
            if not url.endswith(".svg") and not any(part in url for part in later)
        ]
    )


def _furnish(deployment: Deployment, rooms: int) -> Session:
    """A user in many rooms, with two devices."""
    alice = deployment.register(device_id="PHONE")
    for number in range(rooms):
        alice.create_room(name=f"Room {number}", preset="public_chat")
    for session in (alice, deployment.login(alice, "TABLET")):
        session.set_pusher(f"key-{session.device_id}", "org.example.app", NOWHERE, append=True)
    return alice


def _time_sync(user: Session) -> float:
    # Another filter each time, or the server gives what it gave before.
    sync_filter = {"room": {"timeline": {"limit": 1}}, "presence": {"not_types": [_nonce()]}}
    where = path("sync", query={"timeout": 0, "filter": json.dumps(sync_filter)})
    started = time.monotonic()
    user.call("GET", where)
    return time.monotonic() - started


def _nonce() -> str:
    return str(time.monotonic_ns())


def _wait_for_all(page: Page) -> None:
    """Return when the page says of how many rooms it knows, and reads no more."""
    for _ in range(_LOOKS):
        text = page.locator("main [role=status]").first.text_content() or ""
        if any(letter.isdigit() for letter in text) and "…" not in text:
            return
        page.wait_for_timeout(20)
    raise AssertionError("the rooms are not all read")
