# SPDX-License-Identifier: AGPL-3.0-or-later
"""A server that is slow: nothing that is done meanwhile is lost, taken back or told wrongly."""

import pytest
from playwright.sync_api import Page, expect

from tests.page.conftest import SignedIn, hold
from tests.page.screens import (
    Home,
)

# A status that is no success is an error on the console, whoever expects it.
pytestmark = pytest.mark.usefixtures("refusals_may_be_logged")


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
