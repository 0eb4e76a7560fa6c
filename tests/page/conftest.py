# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures: a browser, servers with the page on, and users who are signed in to it."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import attr
import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, Route, expect

from demo.client import Session
from demo.gateway import Gateway
from demo.homeserver import PASSWORD
from synapse_msc3881.page.files import PATH
from tests.conftest import FreshDeployment
from tests.harness.browser import JS, Watch, find_chromium, running
from tests.harness.deployment import Deployment
from tests.harness.proxy import Proxy
from tests.harness.source import STATIC
from tests.page.screens import Home, make_home, pause

#: Seconds that a page may take to show what a test waits for.
PATIENCE = 20.0
# By itself, `expect` waits for 5 seconds, whatever a page's own timeout is.
expect.set_options(timeout=PATIENCE * 1000)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One browser for all tests; each has contexts, and so profiles, of its own."""
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("there is no Chromium on the PATH, and `make test-page` got none from npm")
    with running(chromium) as browser:
        yield browser


@attr.s(auto_attribs=True, frozen=True)
class PageServer:
    """A server that serves the page, as a browser sees it.

    Attributes:
        base_url: the homeserver's, without a slash at its end.
        proxy: what stands in front of a cluster; None elsewhere.
    """

    deployment: Deployment
    base_url: str
    proxy: Proxy | None = None

    @property
    def page_url(self) -> str:
        return self.base_url + PATH

    def register(self, localpart: str | None = None, **options: Any) -> Session:
        """A new user, with a first device."""
        return self.deployment.register(localpart, **options)

    def login(self, user: Session, device_id: str) -> Session:
        """A further device of a user."""
        return self.deployment.login(user, device_id)


@pytest.fixture(scope="session")
def shared_page_server(
    deployment_kind: str, make_deployment: FreshDeployment
) -> Iterator[PageServer]:
    """The server that all tests share; in a cluster, the page comes from a worker."""
    deployment = make_deployment(deployment_kind, module_config={"page": {"enabled": True}})
    with ExitStack() as stack:
        stack.callback(deployment.stop)
        proxy = None
        if deployment_kind == "cluster":
            proxy = stack.enter_context(Proxy(deployment.homeserver.route))
        base_url = proxy.base_url if proxy else deployment.homeserver.base_url
        yield PageServer(deployment, base_url, proxy)
    deployment.assert_log_is_clean()


@pytest.fixture
def page_server(shared_page_server: PageServer) -> Iterator[PageServer]:
    """The shared server; a traceback in its log fails the test."""
    yield shared_page_server
    shared_page_server.deployment.homeserver.close_sessions()
    shared_page_server.deployment.assert_log_is_clean()


@pytest.fixture
def home(page_server: PageServer, gateway: Gateway) -> Home:
    return make_home(page_server, gateway)


# fresh_page_server(extra=…, module_config=…)
FreshPageServer = Callable[..., PageServer]


@pytest.fixture
def fresh_page_server(
    deployment_kind: str, make_deployment: FreshDeployment
) -> Iterator[FreshPageServer]:
    """Call it, with options of Deployment, for a server of the test's own with the page on."""
    yield from _fresh(deployment_kind, make_deployment)


@pytest.fixture(scope="module")
def module_page_server(
    deployment_kind: str, make_deployment: FreshDeployment
) -> Iterator[FreshPageServer]:
    """The same for a server that the tests of a module share."""
    yield from _fresh(deployment_kind, make_deployment)


def _fresh(deployment_kind: str, make_deployment: FreshDeployment) -> Iterator[FreshPageServer]:
    with ExitStack() as stack:

        def fresh(**options: Any) -> PageServer:
            if deployment_kind == "cluster":
                pytest.skip("one process is enough for this")
            with_page = {"module_config": {"page": {"enabled": True}}, **options}
            deployment = make_deployment(deployment_kind, **with_page)
            stack.callback(deployment.assert_log_is_clean)
            stack.callback(deployment.stop)
            return PageServer(deployment, deployment.homeserver.base_url)

        yield fresh


# new_page(locale="de", color_scheme="dark", viewport={"width": 320, "height": 640}, …)
NewPage = Callable[..., Page]


@pytest.fixture
def watch() -> Iterator[Watch]:
    """What all pages of the test asked for and complained of; at its end, they must not have."""
    watch = Watch()
    yield watch
    watch.assert_quiet()


@pytest.fixture
def refusals_may_be_logged(watch: Watch) -> None:
    """Let the browser say on the console what the server refused."""
    watch.allow("Failed to load resource")


@pytest.fixture
def new_page(browser: Browser, watch: Watch) -> Iterator[NewPage]:
    """Call it, with options of Playwright's `new_context`, for an empty page in a new profile."""
    with ExitStack() as stack:

        def new(**options: Any) -> Page:
            context = browser.new_context(**{"locale": "en-GB", **options})
            stack.callback(_close, context)
            context.set_default_timeout(PATIENCE * 1000)
            watch.start(context)
            return context.new_page()

        yield new


def assert_eventually(page: Page, condition: Callable[[], object]) -> None:
    """Return when the condition holds; the browser goes on meanwhile.

    Raises:
        AssertionError: it does not in time.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not come"
        page.wait_for_timeout(20)


@contextmanager
def hold(page: Page, where: str, *, fail: bool = False) -> Iterator[Callable[[], None]]:
    """Keep what a page asks for at some address from the server until the block ends.

    The block gets what waits until there is something that is kept.

    Args:
        fail: whether it gets no answer at all.
    """
    held: list[Route] = []
    is_over = False

    def keep(route: Route) -> None:
        if is_over:
            route.fallback()
        else:
            held.append(route)

    page.route(where, keep)
    yield lambda: assert_eventually(page, lambda: held)
    assert_eventually(page, lambda: held)
    is_over = True
    for route in held:
        with suppress(Error):  # The page may not want it any more.
            route.abort() if fail else route.continue_()
    page.unroute(where, keep)


def sign_in(page: Page, server: PageServer, user: Session, password: str = PASSWORD) -> None:
    """Sign a user in with the password, as a person does."""
    page.goto(server.page_url)
    fill_in(page, user.user_id, password)
    page.get_by_role("button", name="Sign out").wait_for()


def sign_out(page: Page) -> None:
    """Sign out, and return when the server has confirmed it.

    The page would go on without that after 2 seconds; here, no time passes.
    """
    pause(page)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("main")).to_contain_text("You are signed out.")
    page.clock.resume()


def second_tab(first: Page, server: PageServer) -> Page:
    """Another tab of a browser that is signed in.

    It asks the first, which has a moment to answer; here, it has all the time that it takes.
    """
    second = first.context.new_page()
    [moment] = re.findall(r"\nconst TABS_MS = (\d+);", (STATIC / "js" / "session.js").read_text())
    second.add_init_script(
        "const { setTimeout: native } = window;"
        "window.setTimeout = (done, ms, ...rest) =>"
        f" native(done, ms === {moment} ? {PATIENCE * 1000} : ms, ...rest);"
    )
    second.goto(server.page_url)
    second.get_by_role("button", name="Sign out").wait_for()
    return second


def fill_in(page: Page, user_id: str, password: str) -> None:
    """Fill in the form to sign in, and send it."""
    page.get_by_label("Username").fill(user_id)
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_role("button", name="Sign in").click()


def _close(context: BrowserContext) -> None:
    for page in context.pages:
        # After what the browser has yet to say.
        page.evaluate("null")
    context.close()


# signed_in(user, **options of new_page)
SignedIn = Callable[..., Page]


@pytest.fixture
def signed_in(new_page: NewPage, page_server: PageServer) -> SignedIn:
    """Call it with a user for the page, signed in as that user."""

    def make(user: Session, **options: Any) -> Page:
        page = new_page(**options)
        sign_in(page, page_server, user)
        return page

    return make


# What axe-core finds

_AXE = JS / "node_modules" / "axe-core" / "axe.min.js"


def assert_accessible(page: Page) -> None:
    """Fail for anything that axe-core finds in what the page shows now."""
    if not _AXE.exists():
        pytest.skip("`make test-page` installs axe-core")
    # Into a world of its own, past the page's policy.
    session = page.context.new_cdp_session(page)
    frame = session.send("Page.getFrameTree")["frameTree"]["frame"]["id"]
    world = session.send("Page.createIsolatedWorld", {"frameId": frame, "worldName": "axe"})
    where = {"contextId": world["executionContextId"], "awaitPromise": True, "returnByValue": True}
    session.send("Runtime.evaluate", {"expression": _AXE.read_text(), **where})
    run = "axe.run(document, {resultTypes: ['violations']}).then((found) => JSON.stringify(found))"
    answer = session.send("Runtime.evaluate", {"expression": run, **where})
    session.detach()
    assert "value" in answer["result"], answer
    found = json.loads(answer["result"]["value"])
    assert found["passes"], "axe-core looked at nothing"
    problems = [
        f"{violation['id']}: {node['html'][:200]}\n  {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]
    assert not problems, "\n".join(problems)


def stored_session(page: Page) -> Any:
    """What the page keeps of its session, by whatever name."""
    return page.evaluate(
        "Object.values(sessionStorage).map((text) => JSON.parse(text))"
        ".find((stored) => stored.accessToken)"
    )


def token_of(page: Page) -> str:
    token: str = stored_session(page)["accessToken"]
    return token
