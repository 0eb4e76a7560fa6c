# SPDX-License-Identifier: AGPL-3.0-or-later
"""A server that is slow: nothing that is done meanwhile is lost, taken back or told wrongly."""

import pytest
from playwright.sync_api import APIResponse, Page, Route, expect

from demo.client import path
from tests.harness.browser import Watch
from tests.page.conftest import SignedIn, assert_eventually, hold
from tests.page.screens import (
    PHONE,
    TABLET,
    WEB,
    Home,
    card,
    choices,
    choose,
    go,
    has_said,
    hear,
    is_all_read,
    is_saved,
    pause,
)

# A status that is no success is an error on the console, whoever expects it.
pytestmark = pytest.mark.usefixtures("refusals_may_be_logged")

ITS_APP = "What is set in its own app"
SLIDING = "**/org.matrix.simplified_msc3575/sync?*"
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


def test_what_was_chosen_while_it_was_asked_for_is_shown(home: Home, signed_in: SignedIn) -> None:
    page = signed_in(home.phone)
    is_all_read(page)
    held: list[tuple[Route, APIResponse]] = []
    where = "**/pushrules/device/WEB/org.matrix.msc3837.own"

    def late(route: Route) -> None:
        """The first answer tells of what is so by now, and comes later."""
        if route.request.method == "GET" and not held:
            held.append((route, route.fetch()))
        else:
            route.continue_()

    page.route(where, late)
    page.get_by_role("button", name="Look for new devices").click()
    assert_eventually(page, lambda: held)
    go(page, "devices", "WEB")
    choose(page, "Follows", ITS_APP)
    [(route, before)] = held
    with page.expect_response(where):
        route.fulfill(response=before)
    has_taken_it(page)
    expect(choices(page, "Follows").get_by_role("radio", name=ITS_APP)).to_be_checked()


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


def test_a_process_that_has_not_heard_of_a_choice_is_asked_again(
    home: Home, signed_in: SignedIn
) -> None:
    room = home.room("Choir")
    page = signed_in(home.tablet)
    is_all_read(page)
    go(page, "rooms", room)
    before = home.phone.get_rules()
    answers: list[Route] = []

    def answer(route: Route) -> None:
        """To what is read before it is written, and once after that, as it was before."""
        if len(answers) == 2:
            route.continue_()
            return
        answers.append(route)
        route.fulfill(json=before)

    page.route("**/_matrix/client/v3/pushrules/", answer)
    choose(page, PHONE, "All messages")
    assert len(answers) == 2


def test_devices_stay_where_they_are_when_they_are_read_again(
    home: Home, signed_in: SignedIn
) -> None:
    page = signed_in(home.phone)
    names = page.get_by_role("heading", level=2)
    expect(names).to_have_count(3)
    before = names.all_inner_texts()
    assert before[0] != WEB
    expect(card(page, WEB)).not_to_contain_text("last seen")
    home.web.call("GET", path("account", "whoami"))
    page.get_by_role("button", name="Look for new devices").click()
    expect(card(page, WEB)).to_contain_text("last seen")
    assert names.all_inner_texts() == before


def test_who_comes_back_has_it_read_once(home: Home, signed_in: SignedIn, watch: Watch) -> None:
    page = signed_in(home.phone)
    page.clock.install()
    page.reload()
    is_all_read(page)
    pause(page, 10)
    watch.requests.clear()
    # What is asked last when all is read.
    with page.expect_response("**/org.matrix.msc3837.own"):
        page.evaluate("dispatchEvent(new Event('focus'))")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    asked = [url for _, url in watch.requests if url.endswith("/_matrix/client/v3/devices")]
    assert len(asked) == 1


def test_rooms_that_take_long_to_read_are_not_read_twice_at_once(
    home: Home, signed_in: SignedIn
) -> None:
    home.room("Choir")
    page = signed_in(home.phone)
    is_all_read(page)
    page.clock.install()
    first: list[Route] = []
    held: list[Route] = []
    page.route(
        SLIDING, lambda route: (held if "pos=" in route.request.url else first).append(route)
    )

    def window(routes: list[Route]) -> None:
        """Answer the request for a window: there are more rooms than the first two show."""
        assert_eventually(page, lambda: routes)
        route = routes.pop()
        answer = route.fetch()
        content = answer.json()
        content["lists"]["rooms"]["count"] = 600
        route.fulfill(response=answer, json=content)

    page.reload()
    window(first)
    for _ in range(2):
        assert_eventually(page, lambda: held)
        go(page, "devices")
        page.clock.fast_forward(20_000)
        go(page, "rooms")
        window(held)
    count = page.get_by_role("status").filter(has_text="2 rooms")
    expect(count).not_to_contain_text("loading more")
    assert not first


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


def test_another_language_asks_for_its_texts_alone(
    home: Home, signed_in: SignedIn, watch: Watch
) -> None:
    """What is read beside a change may be older than what is read after it, and come later."""
    page = signed_in(home.phone)
    is_all_read(page)
    go(page, "devices", "PHONE")
    watch.requests.clear()
    page.locator("footer select").select_option("de")
    expect(page.get_by_role("switch", name="Push-Benachrichtigungen")).to_be_visible()
    has_taken_it(page)
    assert [url.rpartition("/")[2] for _, url in watch.requests] == ["de.json"]
