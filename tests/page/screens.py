# SPDX-License-Identifier: AGPL-3.0-or-later
"""Alice with devices and rooms on a server, and what a person does on the page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import attr
from playwright.sync_api import Locator, Page, expect

from demo.client import JsonDict, Session, path
from demo.gateway import Gateway
from tests.server.cascade_helpers import Device, device

if TYPE_CHECKING:
    from tests.page.conftest import PageServer

PHONE, TABLET, WEB = "Alice's phone", "Tablet", "Element in Firefox"


@attr.s(auto_attribs=True, frozen=True, eq=False)
class Home:
    """Alice with a phone, a tablet and a web client; Bob and Carol, who write to her.

    Attributes:
        phone, tablet: Alice's sessions, of which each has a pusher.
    """

    server: PageServer
    gateway: Gateway
    phone: Session
    tablet: Session
    web: Session
    bob: Session
    carol: Session
    phone_pusher: Device
    tablet_pusher: Device
    fence_room: str

    def room(self, name: str, **fields: Any) -> str:
        """A room of Bob's with Alice and Carol in it."""
        room_id = self.bob.create_room(preset="public_chat", name=name, **fields)
        self.phone.join(room_id)
        self.carol.join(room_id)
        return room_id

    def direct(self) -> str:
        """A room of Bob and Alice."""
        room_id = self.bob.create_room(preset="public_chat", is_direct=True)
        self.phone.join(room_id)
        return room_id

    def fence(self) -> None:
        """Return when all that was sent before has arrived where it should."""
        event_id = self.bob.send(self.fence_room, "fence")
        self.phone_pusher.wait_for(event_id)
        self.tablet_pusher.wait_for(event_id)

    def pusher(self, session: Session) -> JsonDict:
        """The pusher of a device as the server shows it."""
        pushers = self.phone.get_pushers()
        return next(one for one in pushers if one["device_id"] == session.device_id)

    def rules_of(self, session: Session) -> JsonDict:
        """The rules in the scope of a device; empty where there is none."""
        scopes: JsonDict = self.phone.get_rules().get("device", {})
        rules: JsonDict = scopes.get(session.device_id, {})
        return rules


def make_home(server: PageServer, gateway: Gateway) -> Home:
    """A new Alice, at home on a server."""
    phone = server.register(device_id="PHONE")
    tablet, web = server.login(phone, "TABLET"), server.login(phone, "WEB")
    names = {"PHONE": PHONE, "TABLET": TABLET, "WEB": WEB}
    for device_id, name in names.items():
        phone.call("PUT", path("devices", device_id), {"display_name": name})
    bob, carol = server.register(), server.register()
    fence_room = bob.create_room(preset="public_chat", name="Fence")
    phone.join(fence_room)
    return Home(
        server,
        gateway,
        phone,
        tablet,
        web,
        bob,
        carol,
        device(phone, gateway, app_display_name="Demo", device_display_name=PHONE),
        device(tablet, gateway, app_display_name="Demo", device_display_name=TABLET),
        fence_room,
    )


def go(page: Page, *parts: str) -> None:
    """Go to a screen of the page by its address, and return when that is the one that is shown."""
    route = "/".join(quote(part, safe="") for part in parts)
    # Whoever listened before, as the page does, has heard of it by then.
    page.evaluate(
        """(hash) => location.hash === hash || new Promise((resolve) => {
            addEventListener("hashchange", resolve, { once: true });
            location.hash = hash;
        }).then(() => true)""",
        f"#/{route}",
    )
    page.locator("main h1").wait_for()


def choices(page: Page, name: str) -> Locator:
    """A row of choices by its heading."""
    return page.get_by_role("group", name=name, exact=True)


def choose(page: Page, name: str, choice: str) -> Locator:
    """Choose one of a row, and return the row when that is saved."""
    group = choices(page, name)
    radio = group.get_by_role("radio", name=re.compile(rf"^{re.escape(choice)}"))
    if radio.is_checked():
        return group
    radio.check()
    expect(group).to_have_attribute("aria-busy", "false")
    expect(group.get_by_role("alert")).to_have_count(0)
    expect(radio).to_be_checked()
    return group


def is_all_read(page: Page) -> None:
    """Wait on the devices screen until the first reading is done.

    What is asked last is which devices may have settings of their own, and so have a screen.
    """
    card(page, WEB).get_by_role("link", name=WEB, exact=True).wait_for()


def answer(page: Page, question: str, label: str) -> None:
    """Answer a question, and return when what that leads to is done."""
    dialog = page.get_by_role("dialog", name=question)
    # The browser tells the page of it with the next frame.
    dialog.evaluate(
        """(dialog) => {
            window.told = new Promise((resolve) =>
                dialog.addEventListener("close", () => resolve(null), { once: true }));
        }"""
    )
    dialog.get_by_role("button", name=label, exact=True).click()
    page.evaluate("told")
    is_saved(page)


def is_saved(page: Page) -> None:
    """Wait until nothing is under way."""
    expect(page.locator("[aria-busy=true]")).to_have_count(0)


def pause(page: Page, seconds: float = 1) -> None:
    """Put the clock of a browser's pages forward, and stop it: no limit runs out by itself."""
    page.clock.pause_at(page.evaluate("Date.now()") / 1000 + seconds)


def undo(page: Page) -> None:
    """Undo that all but one device were silenced, and return when that is done."""
    button = page.get_by_role("button", name="Undo")
    button.click()
    expect(button).to_have_count(0)


def hear(page: Page) -> None:
    """Keep all that the page says from now on, however briefly, for `has_said`."""
    page.evaluate(
        """() => {
            window.said = [];
            new MutationObserver(() => said.push(document.querySelector(".announcer").textContent))
                .observe(document.body, {subtree: true, childList: true, characterData: true});
        }"""
    )


def has_said(page: Page, text: str) -> None:
    """Wait until the page has said something."""
    page.wait_for_function("(text) => said.some((one) => one.includes(text))", arg=text)


def card(page: Page, name: str) -> Locator:
    """What the devices screen shows of a device."""
    return page.get_by_role("region", name=name, exact=True)


def switch(page: Page, name: str, on: bool) -> None:
    """Switch a device on or off, and return when that is saved."""
    control = card(page, name).get_by_role("switch")
    control.set_checked(on)
    expect(control).to_have_attribute("aria-busy", "false")
    expect(control).to_be_checked(checked=on)
