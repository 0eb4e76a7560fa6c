# SPDX-License-Identifier: AGPL-3.0-or-later
"""The page's headers: which other origins get into them, and which cannot."""

import pytest

from synapse_msc3881.page.headers import (
    content_security_policy,
    oauth_origins,
    origin_of,
    security_headers,
)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://auth.example.org/oauth2/token", "https://auth.example.org"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("https://AUTH.example.org", "https://auth.example.org"),
        ("https://[::1]:8448/x", "https://[::1]:8448"),
        ("https://user:secret@example.org/", "https://example.org"),
        ("javascript:alert(1)", None),
        ("https://", None),
        ("https://a;script-src *", None),
        ("https://a b/", None),
        ("https://*.example.org/", None),
        ("https://example.org:port/", None),
        ("https://ex\u00e4mple.org/", None),
        ("", None),
    ],
)
def test_an_origin_is_taken_from_a_url_or_it_is_none(url: str, origin: str | None) -> None:
    assert origin_of(url) == origin


def test_the_page_may_talk_to_what_the_oauth_server_names() -> None:
    metadata = {
        "issuer": "https://elsewhere.example.org/",
        "token_endpoint": "https://auth.example.org/token",
        "registration_endpoint": "https://auth.example.org/register",
        "revocation_endpoint": "https://revoke.example.org/",
    }
    origins = oauth_origins(metadata)
    assert origins == {"https://auth.example.org", "https://revoke.example.org"}
    policy = security_headers(origins)["Content-Security-Policy"]
    wanted = "connect-src 'self' https://auth.example.org https://revoke.example.org;"
    assert wanted in policy
    assert oauth_origins({"token_endpoint": 5}) == frozenset()


def test_a_document_has_all_of_the_policy_that_it_can_have() -> None:
    whole, in_document = content_security_policy(), content_security_policy(in_document=True)
    assert whole.replace("frame-ancestors 'none'; ", "") == in_document
