# SPDX-License-Identifier: AGPL-3.0-or-later
"""How the page is served (specification 8): what a browser, a proxy and a stranger get."""

import gzip
import re
from collections.abc import Iterator, Mapping

import pytest

from demo.client import Response, Session
from synapse_msc3881.page.files import PATH
from tests.conftest import FreshDeployment
from tests.harness.deployment import Deployment
from tests.harness.proxy import Proxy
from tests.harness.waiting import wait_until
from tests.server.helpers import get_pusher, set_pusher

#: Nothing here depends on the database.
pytestmark = pytest.mark.one_deployment

PAGE_ON = {"page": {"enabled": True}}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
SECURITY = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@pytest.fixture(scope="module")
def served(module_deployment: FreshDeployment) -> Deployment:
    """A server with the page on."""
    return module_deployment(module_config=PAGE_ON)


@pytest.fixture
def browser(served: Deployment) -> Iterator[Session]:
    """Somebody without a token."""
    session = Session(route=served.homeserver.route)
    yield session
    session.close()


def get(session: Session, path: str = "", method: str = "GET", **headers: str) -> Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return session.request(method, PATH + path, headers=sent, token=False)


def links(response: Response) -> list[str]:
    """What the document loads."""
    return re.findall(r'(?:href|src)="([^"]+)"', response.body.decode())


def assert_secure(response: Response) -> None:
    found = {name: value for name, value in response.headers.items() if name in SECURITY}
    assert found == SECURITY
    assert "access-control-allow-origin" not in response.headers


# --- Off and on ---------------------------------------------------------------------------------


def test_it_is_off_by_default(alice: Session) -> None:
    assert get(alice).status == 404
    assert "content-security-policy" not in get(alice).headers


def test_where_it_is_on_an_app_that_sets_its_pusher_anew_undoes_nothing(
    served: Deployment,
) -> None:
    alice = served.register()
    set_pusher(alice, enabled=False, profile_tags=["phone"])
    set_pusher(alice)
    assert get_pusher(alice)["enabled"] is False
    assert get_pusher(alice)["profile_tags"] == ["phone"]


# --- What is served -----------------------------------------------------------------------------


def test_the_document_is_asked_for_again_and_the_rest_never(browser: Session) -> None:
    index = get(browser)
    assert index.status == 200
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    assert index.headers["cache-control"] == "no-cache"
    assert len(links(index)) >= 3
    for link in links(index):
        file = get(browser, link)
        assert file.status == 200, link
        assert file.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert_secure(file)
    assert_secure(index)


def test_the_document_speaks_of_no_absolute_place(browser: Session) -> None:
    for link in links(get(browser)):
        assert re.match(r"[0-9a-f]{12}/\w", link), link


@pytest.mark.parametrize("name", ["", "js/main.js", "app.css"])
def test_compressed_bytes_are_the_same_bytes(browser: Session, name: str) -> None:
    path = next(link for link in links(get(browser)) if link.endswith(name)) if name else ""
    plain, compressed = get(browser, path), get(browser, path, Accept_Encoding="gzip, br")
    assert "content-encoding" not in plain.headers
    assert plain.headers["vary"] == compressed.headers["vary"] == "Accept-Encoding"
    if compressed.headers.get("content-encoding") == "gzip":  # A tiny file is sent as it is.
        assert len(compressed.body) < len(plain.body)
        assert gzip.decompress(compressed.body) == plain.body
    else:
        assert compressed.body == plain.body
    assert get(browser, path, Accept_Encoding="gzip;q=0").body == plain.body


def test_who_has_it_is_told_so(browser: Session) -> None:
    tag = get(browser).headers["etag"]
    for known in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        answer = get(browser, If_None_Match=known, Accept_Encoding="gzip")
        assert (answer.status, answer.body) == (304, b""), known
        assert answer.headers["etag"] == tag
        assert_secure(answer)
    assert get(browser, If_None_Match='"other"').status == 200


def test_head_is_get_without_the_body(browser: Session) -> None:
    full, head = get(browser), get(browser, method="HEAD")
    assert head.body == b""
    assert without_time(head.headers) == without_time(full.headers)
    assert head.headers["content-length"] == str(len(full.body))


def without_time(headers: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in headers.items() if name != "date"}


# --- What is not --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_refused(browser: Session, method: str) -> None:
    answer = get(browser, method=method)
    assert (answer.status, answer.errcode) == (405, "M_UNRECOGNIZED")
    assert answer.headers["allow"] == "GET, HEAD"
    assert_secure(answer)


@pytest.mark.parametrize(
    "path",
    [
        "nothing",
        "../../../etc/passwd",
        "..%2f..%2f__init__.py",
        "%2e%2e/files.py",
        "js/main.js",
        "000000000000/js/main.js",
        "index.html/",
        "/",
        "%00",
        "a" * 5000,
        "\\..\\..",
    ],
)
def test_there_is_no_other_file(browser: Session, path: str) -> None:
    answer = get(browser, path)
    assert answer.status == 404
    assert answer.headers["cache-control"] == "no-store"
    assert answer.errcode == "M_NOT_FOUND"
    assert_secure(answer)


def test_without_the_slash_it_sends_there_by_a_relative_way(browser: Session) -> None:
    answer = browser.request("GET", PATH.rstrip("/"), token=False)
    assert (answer.status, answer.headers["location"]) == (308, "notifications/")
    assert_secure(answer)


def test_a_login_answer_is_not_in_the_log(served: Deployment, browser: Session) -> None:
    get(browser, "?loginToken=hidden-answer")
    get(browser, "the-second-of-two?code=hidden-answer")
    # A request is logged once it is over, which is after its answer.
    wait_until(lambda: f"GET {PATH}the-second-of-two" in served.log_text(), "the log of them")
    assert "hidden-answer" not in served.log_text()


# --- Behind a proxy -----------------------------------------------------------------------------


def test_behind_a_proxy_with_a_prefix_all_links_hold(served: Deployment) -> None:
    with Proxy(served.homeserver.route, prefix="/matrix") as proxy:
        session = Session(route=lambda *_: proxy.base_url.removesuffix("/matrix"))
        page = f"/matrix{PATH}"
        index = session.request("GET", page, token=False)
        assert index.status == 200
        assert [
            session.request("GET", page + link, token=False).status for link in links(index)
        ] == [200 for _ in links(index)]
        moved = session.request("GET", page.rstrip("/"), token=False)
        assert moved.headers["location"] == "notifications/"
        session.close()
