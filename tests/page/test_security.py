# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the page must not do, nor let others do (specification 8)."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, Route, expect

from demo.client import Session
from tests.harness.browser import Watch
from tests.harness.source import STATIC
from tests.page.conftest import NewPage, PageServer, SignedIn, assert_eventually, token_of

#: Another origin, which the tests answer for.
ELSEWHERE = "http://localhost:9"


@pytest.fixture
def alice(page_server: PageServer) -> Session:
    return page_server.register()


def stranger(page: Page, body: str) -> None:
    """Show a document of another origin."""

    def answer(route: Route) -> None:
        route.fulfill(body=f"<!doctype html><title>x</title>{body}", content_type="text/html")

    page.context.route(f"{ELSEWHERE}/**", answer)
    page.goto(f"{ELSEWHERE}/")


# --- Where the token is -------------------------------------------------------------------------


def test_the_token_is_in_session_storage_and_nowhere_else(
    alice: Session, page_server: PageServer, signed_in: SignedIn, watch: Watch
) -> None:
    page = signed_in(alice)
    page.reload()
    page.get_by_role("button", name="Sign out").wait_for()
    secrets = page.evaluate(
        "Object.values(sessionStorage).map((text) => JSON.parse(text))"
        ".flatMap(({accessToken, refreshToken}) => [accessToken, refreshToken]).filter(Boolean)"
    )
    assert token_of(page) in secrets
    assert len(secrets) == 2
    everything = page.evaluate(
        """async () => JSON.stringify({
            local: {...localStorage},
            cookies: document.cookie,
            databases: await indexedDB.databases(),
            caches: await caches.keys(),
            workers: (await navigator.serviceWorker.getRegistrations()).length,
            address: location.href,
            document: document.documentElement.outerHTML,
            global: Object.keys(window).map((name) => String(window[name])),
        })"""
    )
    assert '"databases":[]' in everything
    assert '"caches":[]' in everything
    assert '"workers":0' in everything
    assert page.context.cookies() == []
    urls = "\n".join(url for _, url in watch.requests)
    log = page_server.deployment.log_text()
    assert "/_matrix/client/v3/login" in urls
    for secret in secrets:
        for place in (everything, urls, log):
            assert secret not in place


def test_what_the_page_asks_with_the_token_is_kept_in_no_cache(
    alice: Session, new_page: NewPage, page_server: PageServer, watch: Watch
) -> None:
    page = new_page()
    asked: list[Request] = []
    page.on("request", lambda request: asked.extend([request]))
    page.goto(page_server.page_url)
    page.evaluate(
        """() => {
            window.caching = new Set();
            const native = fetch;
            window.fetch = (url, options) => (caching.add(options?.cache), native(url, options));
        }"""
    )
    page.get_by_label("Username").fill(alice.user_id)
    page.get_by_label("Password", exact=True).fill("wonderland")
    page.get_by_role("button", name="Sign in").click()
    watch.allow("Failed to load resource")  # It is not the password.
    expect(page.get_by_role("alert")).to_have_text("The username or the password is wrong.")
    assert page.evaluate("[...caching]") == ["no-store"]
    assert [request for request in asked if request.method == "POST"]
    assert not [one.url for one in asked if "cookie" in str(one.all_headers()).lower()]


# --- Answers to signing in that nobody asked for ------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        "?loginToken=stolen",
        "?loginToken=stolen&state=guessed",
        "?code=stolen&state=guessed",
        "#code=stolen&state=guessed&iss=https://elsewhere.example.org/",
        "?error=access_denied&state=guessed",
    ],
)
def test_an_answer_that_was_not_asked_for_is_refused_and_leaves_the_address(
    new_page: NewPage, page_server: PageServer, watch: Watch, answer: str
) -> None:
    page = new_page()
    page.goto(page_server.page_url + answer)
    expect(page.get_by_role("main")).to_contain_text("a sign-in that was not started here")
    assert page.url == page_server.page_url
    assert page.evaluate("history.length") == 2  # The empty page, and this one.
    assert [method for method, _ in watch.requests if method != "GET"] == []
    assert page.evaluate("sessionStorage.length") == 0


def test_an_answer_that_was_not_asked_for_leaves_a_session_alone(
    alice: Session, page_server: PageServer, signed_in: SignedIn
) -> None:
    page = signed_in(alice)
    page.goto(f"{page_server.page_url}?loginToken=stolen")
    page.get_by_role("button", name="Sign out").wait_for()
    expect(page.locator("body")).to_contain_text(alice.user_id)
    assert "stolen" not in page.url


def test_while_an_answer_is_waited_for_another_is_refused(
    new_page: NewPage, page_server: PageServer, watch: Watch
) -> None:
    page = new_page()
    page.goto(page_server.page_url)
    page.evaluate(
        """homeserver => sessionStorage.setItem("synapse_msc3881.pending", JSON.stringify(
            {kind: "sso", state: "ours", at: Date.now(), homeserver, route: ""}))""",
        page_server.base_url + "/",
    )
    page.goto(f"{page_server.page_url}?loginToken=stolen&state=theirs")
    expect(page.get_by_role("main")).to_contain_text("a sign-in that was not started here")
    assert [method for method, _ in watch.requests if method != "GET"] == []

    # And its own counts once.
    watch.allow("Failed to load resource")
    page.goto(f"{page_server.page_url}?loginToken=none&state=ours")
    expect(page.get_by_role("main")).to_contain_text("The sign-in did not work.")
    page.goto(f"{page_server.page_url}?loginToken=none&state=ours")
    expect(page.get_by_role("main")).to_contain_text("a sign-in that was not started here")
    assert [method for method, _ in watch.requests if method != "GET"] == ["POST"]


# --- Other origins ------------------------------------------------------------------------------


def test_it_cannot_be_framed(new_page: NewPage, page_server: PageServer, watch: Watch) -> None:
    watch.allow("frame-ancestors|X-Frame-Options|ERR_BLOCKED_BY_RESPONSE")
    page = new_page()
    stranger(page, f'<iframe src="{page_server.page_url}"></iframe>')
    (frame,) = page.main_frame.child_frames
    assert_eventually(page, lambda: frame.url.startswith("chrome-error:"))
    assert frame.locator("#app").count() == 0
    assert not [url for _, url in watch.requests if url.endswith("main.js")]


def test_where_no_header_forbids_it_a_frame_gets_no_page(
    new_page: NewPage, page_server: PageServer
) -> None:
    """Exported, it may stand on a web server that sends no headers."""
    page = new_page()

    def without_headers(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(body=answer.body(), content_type="text/html")

    page.route(f"{page_server.page_url}?*", without_headers)
    stranger(page, f'<iframe src="{page_server.page_url}?loginToken=x"></iframe>')
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("alert")).to_contain_text("does not work inside another page")
    expect(frame.get_by_role("textbox")).to_have_count(0)


def test_who_opens_it_cannot_drive_it(page_server: PageServer, new_page: NewPage) -> None:
    page = new_page()
    stranger(page, "<button>open</button>")
    with page.expect_popup() as opened:
        page.evaluate("url => { window.opened = open(url) }", page_server.page_url)
    popup = opened.value
    popup.get_by_label("Username").wait_for()
    assert popup.evaluate("window.opener") is None
    assert page.evaluate("opened.closed") is True
    assert page.evaluate("opened.length") == 0
    page.evaluate("opened.location = 'about:blank'")
    page.evaluate("opened.postMessage({session: {}}, '*')")
    expect(popup.get_by_label("Username")).to_be_visible()
    assert popup.url == page_server.page_url


# --- Its own sources ----------------------------------------------------------------------------

_FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc"
    r"|dangerouslySetInnerHTML|javascript:|setHTML|DOMParser|createContextualFragment|importScripts"
    r"|createPolicy|style=[\"$]|\bon[a-z]+=\""
)


@pytest.mark.parametrize("file", sorted((STATIC / "js").rglob("*.js")), ids=lambda file: file.name)
def test_no_text_is_ever_taken_for_markup(file: Path) -> None:
    assert _FORBIDDEN.findall(file.read_text()) == []


def test_the_document_has_no_script_or_style_of_its_own() -> None:
    document = (STATIC / "index.html").read_text()
    assert _FORBIDDEN.findall(document) == []
    assert re.findall(r"<script[^>]*>([^<]*)</script>", document) == [""]
    assert "<style" not in document
    assert re.findall(r"https?://", document) == []


def test_trusted_types_are_enforced(
    page_server: PageServer, new_page: NewPage, watch: Watch
) -> None:
    watch.allow("policy: require-trusted-types-for|TrustedHTML")
    page = new_page()
    page.goto(page_server.page_url)
    said = page.evaluate(
        "try { document.body.innerHTML = '<b>x</b>'; 'done' } catch (error) { String(error) }"
    )
    assert "TrustedHTML" in said
