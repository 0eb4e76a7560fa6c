# SPDX-License-Identifier: AGPL-3.0-or-later
"""Beside another module, in the same homeserver.yaml: matrix-synapse-ldap3, with an LDAP server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.client import MatrixError, Session, path
from demo.gateway import Gateway
from tests.conftest import FreshDeployment
from tests.harness.deployment import Deployment
from tests.server.cascade_helpers import SIREN, THING, device, on_type
from tests.server.directory import PERSON, PERSON_PASSWORD, ldap_module, serve_ldap
from tests.server.helpers import assert_ok, get_pusher

#: Nothing here depends on the database.
pytestmark = pytest.mark.one_deployment


@pytest.fixture
def ldap_port(tmp_path: Path) -> Iterator[int]:
    """The port of an LDAP server."""
    with serve_ldap(tmp_path) as port:
        yield port


@pytest.fixture
def with_ldap(fresh_deployment: FreshDeployment, ldap_port: int) -> Deployment:
    return fresh_deployment(further_modules=[ldap_module(ldap_port)])


def login(deployment: Deployment, device_id: str, password: str = PERSON_PASSWORD) -> Session:
    return deployment.homeserver.login(PERSON, device_id, password=password)


def test_ldap_users_control_their_pushers_too(with_ldap: Deployment, gateway: Gateway) -> None:
    with pytest.raises(MatrixError) as refused:
        login(with_ldap, "PHONE", "another password")
    assert refused.value.response.status == 403

    phone, desktop = login(with_ldap, "PHONE"), login(with_ldap, "DESKTOP")
    assert phone.user_id == desktop.user_id == f"@{PERSON}:synapse.test"
    # Nobody but the directory has that password: no hash of it is here.
    assert with_ldap.sql("SELECT password_hash FROM users WHERE name = ?", [phone.user_id]) == [
        (None,)
    ]
    sender = with_ldap.register()
    room = sender.create_room(preset="public_chat")
    phone.join(room)
    phone.put_rule("phone", "override", "thing", on_type(THING, SIREN))

    on_phone = device(phone, gateway, ["phone"])
    on_desktop = device(desktop, gateway, ["phone", "global"])
    assert get_pusher(desktop, on_phone.pushkey)["device_id"] == "PHONE"

    first = sender.send(room, {"body": "both"}, THING)
    assert on_phone.wait_for(first).tweaks == {"sound": "siren"}
    on_desktop.wait_for(first)

    toggle(desktop, on_phone.pushkey, False)
    assert get_pusher(phone, on_phone.pushkey)["enabled"] is False
    missed = sender.send(room, {"body": "desktop only"}, THING)
    on_desktop.wait_for(missed)

    toggle(desktop, on_phone.pushkey, True)
    last = sender.send(room, {"body": "both again"}, THING)
    on_phone.wait_for(last)
    # A pusher pushes in order, so the one between will not come any more.
    assert on_phone.event_ids() == [first, last]
    shown = get_pusher(phone, on_phone.pushkey)
    assert (shown["device_id"], shown["profile_tags"]) == ("PHONE", ["phone"])


def toggle(session: Session, pushkey: str, enabled: bool) -> None:
    """As matrix-js-sdk does it."""
    body = {**get_pusher(session, pushkey), "org.matrix.msc3881.enabled": enabled}
    assert_ok(session.request("POST", path("pushers", "set"), body))


def test_ldap_users_log_out_and_in_again(with_ldap: Deployment, gateway: Gateway) -> None:
    phone, desktop = login(with_ldap, "PHONE"), login(with_ldap, "DESKTOP")
    on_phone = device(phone, gateway, ["phone"])
    desktop.put_rule("phone", "override", "thing", on_type(THING, SIREN))

    phone.logout()
    assert on_phone.pushkey not in [shown["pushkey"] for shown in desktop.get_pushers()]
    # Back again, with the directory's password, the user finds the device scope.
    again = login(with_ldap, "PHONE")
    assert again.get_rules("phone")["override"][0]["rule_id"] == "thing"
    device(again, gateway, ["phone"])
    assert [shown["profile_tags"] for shown in again.get_pushers()] == [["phone"]]
