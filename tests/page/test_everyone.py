# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whoever uses it, with whatever: hostile names, screen readers, keyboards, languages."""

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Request, expect

from demo.client import JsonDict, path
from tests.page.conftest import PageServer, SignedIn, assert_accessible
from tests.page.screens import (
    PHONE,
    Home,
    card,
    choices,
    choose,
    go,
    is_saved,
    switch,
)

# A status that is no success is an error on the console, whoever expects it.
pytestmark = pytest.mark.usefixtures("refusals_may_be_logged")


# ---- For everyone ----


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "\u202egnp.exe \u2066",
    "x" * 5000,
    "</script><script>alert(1)</script>",
]


def test_names_are_never_markup_and_break_nothing(home: Home, signed_in: SignedIn) -> None:
    rooms = []
    for name in HOSTILE:
        room = home.bob.create_room(preset="public_chat", name=name[:4000])
        home.phone.join(room)
        rooms.append(room)
    home.phone.call("PUT", path("devices", "PHONE"), {"display_name": HOSTILE[0]})
    home.phone.call("PUT", path("devices", "WEB"), {"display_name": "x" * 100})
    home.phone.call("PUT", path("devices", "TABLET"), {"display_name": ""})
    home.bob.send(rooms[0], HOSTILE[0])
    page = signed_in(home.phone, viewport={"width": 320, "height": 640})
    for route in (["devices"], ["devices", "PHONE"], ["rooms"], *(["rooms", r] for r in rooms)):
        go(page, *route)
        expect(page.locator(".loading")).to_have_count(0)
        assert page.evaluate("document.images.length") == 0
        assert_fits(page)
    go(page, "rooms", rooms[0])
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE[0])
    go(page, "why", rooms[0])
    expect(page.get_by_role("link", name=HOSTILE[0])).to_be_visible()


def assert_fits(page: Page) -> None:
    """Nothing is wider than the screen."""
    too_wide = page.evaluate(
        """() => [...document.querySelectorAll("body *")]
            .filter((one) => {
                const { left, right } = one.getBoundingClientRect();
                return right > innerWidth + 1 || left < -1;
            })
            .map((one) => one.outerHTML.slice(0, 200))"""
    )
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1], "\n".join(map(str, [widths, *too_wide]))


def assert_all_screens_fit(page: Page, room: str, event: str) -> None:
    """Every screen, one after the other: axe-core finds nothing, and nothing is too wide."""
    for route in (
        ["devices"],
        ["devices", "PHONE"],
        ["rooms"],
        ["rooms", room],
        ["why"],
        ["why", room],
        ["why", room, event],
    ):
        go(page, *route)
        expect(page.locator(".loading")).to_have_count(0)
        assert_accessible(page)
        assert_fits(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_each_screen_is_accessible_and_fits(
    scheme: str, width: int, home: Home, signed_in: SignedIn
) -> None:
    room = home.room("Choir")
    event = home.bob.send(room, "Hello")
    page = signed_in(home.phone, color_scheme=scheme, viewport={"width": width, "height": 700})
    go(page, "rooms", room)
    choose(page, PHONE, "Mentions and keywords")
    assert_all_screens_fit(page, room, event)
    if width == 320:
        page.evaluate("document.documentElement.dir = 'rtl'")
        assert_all_screens_fit(page, room, event)
        page.evaluate("document.documentElement.dir = 'ltr'")
        # The text at twice its size.
        page.evaluate("document.documentElement.style.setProperty('font-size', '200%')")
        assert_all_screens_fit(page, room, event)


@pytest.mark.parametrize("options", [{"forced_colors": "active"}, {"reduced_motion": "reduce"}])
def test_what_the_system_asks_for_is_heeded(
    options: JsonDict, home: Home, signed_in: SignedIn
) -> None:
    page = signed_in(home.phone, **options)
    switch(page, PHONE, False)
    duration = page.evaluate(
        "getComputedStyle(document.querySelector('[role=switch]'), '::before').transitionDuration"
    )
    assert options.get("reduced_motion") is None or duration == "0s"


def test_everything_is_done_with_the_keyboard_alone(home: Home, signed_in: SignedIn) -> None:
    home.room("Choir")
    page = signed_in(home.phone)

    def tab_to(wanted: Locator) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if wanted.evaluate("(one) => one === document.activeElement"):
                assert page.evaluate(
                    "getComputedStyle(document.activeElement).outlineStyle !== 'none' || "
                    "getComputedStyle(document.activeElement.closest('label'))"
                    ".outlineStyle !== 'none'"
                ), "the focus is not seen"
                return
        raise AssertionError(f"{wanted} cannot be reached")

    page.evaluate("document.activeElement.blur()")
    tab_to(page.get_by_role("link", name="Rooms").first)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name="Rooms")).to_be_focused()
    tab_to(page.get_by_role("link", name="Choir").first)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name="Choir")).to_be_focused()
    group = choices(page, PHONE)
    for _ in range(30):
        page.keyboard.press("Tab")
        if group.evaluate("(one) => one.contains(document.activeElement)"):
            break
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    expect(group.get_by_label("Muted")).to_be_checked()
    expect(group).to_have_attribute("aria-busy", "false")
    assert len(home.rules_of(home.phone)["override"]) == 1
    assert not home.rules_of(home.phone)["underride"]
    tab_to(page.get_by_role("link", name="Devices").first)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name="Devices")).to_be_focused()
    tab_to(page.get_by_role("switch", name="Push notifications").first)
    page.keyboard.press("Space")
    expect(page.get_by_role("switch", checked=True)).to_have_count(2)
    is_saved(page)


@pytest.mark.parametrize(
    ("locale", "title"), [("de-AT", "Geräte"), ("fr-CA", "Appareils"), ("ja-JP", "Devices")]
)
def test_the_language_is_the_browsers_and_can_be_chosen(
    locale: str, title: str, home: Home, new_page: Any, page_server: PageServer
) -> None:
    page = new_page(locale=locale)
    page.goto(page_server.page_url)
    page.locator("input[autocomplete=username]").fill(home.phone.user_id)
    page.locator("input[type=password]").fill("correct horse battery staple")
    page.locator("input[type=password]").press("Enter")
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_have_text(title)
    page.locator("footer select").select_option("fr")
    expect(heading).to_have_text("Appareils")
    expect(page.locator("html")).to_have_attribute("lang", "fr")
    page.reload()
    expect(heading).to_have_text("Appareils")


# ---- Small ----


def test_the_first_load_is_small_and_asks_seldom(
    home: Home, new_page: Any, page_server: PageServer, watch: Any
) -> None:
    home.room("Choir")
    page = new_page()
    finished: list[Request] = []
    page.on("requestfinished", lambda request: finished.extend([request]))
    page.goto(page_server.page_url)
    page.get_by_label("Username").fill(home.phone.user_id)
    page.get_by_label("Password", exact=True).fill("correct horse battery staple")
    loaded = [request.sizes()["responseBodySize"] for request in finished]
    assert len(loaded) >= 4
    assert sum(loaded) <= 60_000

    def asked() -> list[str]:
        """Without the icon, and without what is asked when all is shown."""
        rest = re.compile(r"\.svg$|/explain/|msc3837\.own$")
        return [url for _, url in watch.requests if not rest.search(url)]

    page.get_by_role("button", name="Sign in").click()
    card(page, PHONE).wait_for()
    go(page, "rooms")
    page.get_by_role("link", name="Choir").wait_for()
    without_signing_in = [url for url in asked() if "/login" not in url]
    assert len(without_signing_in) <= 8, json.dumps(without_signing_in, indent=1)
    watch.requests.clear()
    page.reload()
    page.get_by_role("link", name="Choir").wait_for()
    assert len(asked()) <= 8, json.dumps(asked(), indent=1)
