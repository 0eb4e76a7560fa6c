# SPDX-License-Identifier: AGPL-3.0-or-later
"""What `check` takes for secrets."""

import pytest

from synapse_msc3881.admin.redaction import Secrets


@pytest.mark.parametrize(
    "config",
    [
        {"macaroon_secret_key": "s3cret!"},
        {"database": {"args": {"password": "s3cret!"}}},
        {"database": {"args": {"dsn": "s3cret!"}}},
        {"email": {"smtp_pass": "x", "smtp_password": "s3cret!"}},
        {"turn_shared_secret": ["s3cret!"]},
        {"oidc_providers": [{"idp_id": "x", "client_secret": {"value": "s3cret!"}}]},
        {"recaptcha_private_key": "s3cret!"},
        {"password_config": {"pepper": "s3cret!"}},
    ],
)
def test_the_value_of_a_secret_option_is_hidden_wherever_it_stands(
    config: dict[str, object],
) -> None:
    secrets = Secrets()
    secrets.see(config)
    assert secrets.hide('cannot connect with "s3cret!"') == 'cannot connect with "(secret)"'
    assert "s3cret" not in repr(secrets)


def test_other_options_are_not_hidden() -> None:
    secrets = Secrets()
    secrets.see(
        {
            "server_name": "example.org",
            "signing_key_path": "/etc/signing.key",
            "trusted_key_servers": [{"server_name": "matrix.org"}],
            "form_secret": "a",
            "registration_requires_token": True,
        }
    )
    text = "True: a /etc/signing.key of matrix.org at example.org"
    assert secrets.hide(text) == text


def test_a_secret_that_holds_another_one_is_hidden_as_a_whole() -> None:
    secrets = Secrets()
    secrets.see({"form_secret": "abcd", "dsn": "password=abcd host=x"})
    assert secrets.hide("in password=abcd host=x and abcd") == "in (secret) and (secret)"
