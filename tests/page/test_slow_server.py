# SPDX-License-Identifier: AGPL-3.0-or-later
"""A server that is slow: nothing that is done meanwhile is lost, taken back or told wrongly."""

import pytest
from playwright.sync_api import Page, expect

from tests.page.conftest import SignedIn, hold
from tests.page.screens import (
    PHONE,
    TABLET,
    WEB,
    Home,
    card,
    go,
    has_said,
    hear,
    is_saved,
)

# A status that is no success is an error on the console, whoever expects it.
pytestmark = pytest.mark.usefixtures("refusals_may_be_logged")

SILENCE = "Silence all but this device"
PUSHER_IS_SET = "**/_matrix/client/v3/pushers/set"


def has_taken_it(page: Page) -> None:
    """Give the page a moment to do something wrong with an answer that came last."""
    page.wait_for_timeout(100)


def test_a_screen_chosen_while_the_first_one_loads_is_read_from_its_heading(
    home: Home, signed_in: SignedIn
) -> None:
    page = signed_in(home.phone)
    with hold(page, "**/_matrix/client/v3/devices"):
        page.reload()
        page.get_by_role("link", name="Rooms").click()
    expect(page.get_by_role("heading", level=1, name="Rooms")).to_be_focused()


# ---- Silencing ----


def test_what_is_said_of_silencing_is_so_when_it_is_read_out(
    home: Home, signed_in: SignedIn
) -> None:
    page = signed_in(home.phone)
    page.evaluate(
        """() => {
            window.readOut = [];
            addEventListener("focusin", ({ target }) => readOut.push(target.textContent));
        }"""
    )
    card(page, TABLET).get_by_role("button", name=SILENCE).click()
    expect(page.get_by_role("group").filter(has_text="Undo")).to_be_focused()
    assert page.evaluate("readOut.at(-1)").startswith(f"Only “{TABLET}” notifies you now.")


def test_silencing_anew_while_it_is_undone_holds(home: Home, signed_in: SignedIn) -> None:
    page = signed_in(home.phone)
    card(page, TABLET).get_by_role("button", name=SILENCE).click()
    expect(page.get_by_text(f"Only “{TABLET}” notifies you now.")).to_be_visible()
    card(page, PHONE).get_by_role("button", name=SILENCE).click()
    expect(page.get_by_text(f"Only “{PHONE}” notifies you now.")).to_be_visible()
    with hold(page, PUSHER_IS_SET):
        page.get_by_role("button", name="Undo").click()
        card(page, WEB).get_by_role("button", name=SILENCE).click()
    expect(page.get_by_text(f"Only “{WEB}” notifies you now.")).to_be_visible()
    is_saved(page)
    assert not home.pusher(home.phone)["enabled"]
    assert not home.pusher(home.tablet)["enabled"]


# ---- A device ----


def test_a_button_that_is_pressed_twice_takes_nothing_back(home: Home, signed_in: SignedIn) -> None:
    home.phone_pusher.set(
        app_display_name="Demo", device_display_name=PHONE, profile_tags=["app", "global"]
    )
    page = signed_in(home.tablet)
    go(page, "devices", "PHONE")
    with hold(page, PUSHER_IS_SET):
        page.get_by_role("button", name="Move “Everywhere” up").dblclick()
    is_saved(page)
    assert home.pusher(home.phone)["profile_tags"] == ["global", "app"]


def test_keywords_are_written_one_after_another(home: Home, signed_in: SignedIn) -> None:
    page = signed_in(home.tablet)
    go(page, "devices", "PHONE")
    section = page.get_by_role("region", name="Keywords")
    word = section.get_by_label("Word", exact=True)
    with hold(page, "**/pushrules/device/PHONE/content/**"):
        for added in ("pizza", "pasta", "fennel"):
            word.fill(added)
            section.get_by_role("button", name="Add").click()
        word.fill("thy")
    is_saved(page)
    rows = section.get_by_role("listitem")
    assert {*rows.locator(".row-name").all_inner_texts()} == {"pizza", "pasta", "fennel"}
    expect(word).to_have_value("thy")


def test_a_failure_is_told_to_who_has_gone_to_another_screen(
    home: Home, signed_in: SignedIn
) -> None:
    page = signed_in(home.phone)
    hear(page)
    with hold(page, PUSHER_IS_SET, fail=True):
        card(page, TABLET).get_by_role("switch").click()
        go(page, "rooms")
    has_said(page, "The server cannot be reached.")


def test_nothing_is_said_to_be_saved_while_another_change_is_under_way(
    home: Home, signed_in: SignedIn
) -> None:
    page = signed_in(home.phone)
    hear(page)
    with hold(page, PUSHER_IS_SET) as wait_for_the_second:
        with hold(page, PUSHER_IS_SET):
            card(page, PHONE).get_by_role("switch").click()
            card(page, TABLET).get_by_role("switch").click()
        wait_for_the_second()
        assert "Saved" not in page.evaluate("said")
    has_said(page, "Saved")


# ---- Reading again ----


def test_the_language_chosen_last_is_shown(home: Home, signed_in: SignedIn) -> None:
    page = signed_in(home.phone)
    heading = page.get_by_role("heading", level=1)
    language = page.locator("footer select")
    with page.expect_response("**/i18n/fr.json"), hold(page, "**/i18n/fr.json"):
        language.select_option("fr")
        language.select_option("de")
        expect(heading).to_have_text("Geräte")
    has_taken_it(page)
    expect(heading).to_have_text("Geräte")
