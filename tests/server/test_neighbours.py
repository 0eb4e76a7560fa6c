# SPDX-License-Identifier: AGPL-3.0-or-later
"""Beside three modules of other people at once, before them and after them: all do their job.

`matrix-synapse-ldap3` logs a phone in and `synapse-token-authenticator` a desktop, and
`synapse-auto-accept-invite` joins whoever is invited.
"""

import base64
import hashlib
import hmac
import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.client import JsonDict, Session
from demo.gateway import Gateway
from tests.conftest import FreshDeployment
from tests.harness.deployment import MODULE, Deployment
from tests.harness.waiting import wait_until
from tests.server.cascade_helpers import SILENT, SIREN, device, on_all, on_body
from tests.server.directory import PERSON, PERSON_PASSWORD, ldap_module, serve_ldap

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("synapse_token_authenticator") is None,
    reason="synapse-token-authenticator is not there: it needs Python 3.11",
)

OURS: JsonDict = {"module": MODULE, "config": {}}
SECRET = "known to whoever signs tokens " * 3


def signed(localpart: str) -> str:
    """A token that says who somebody is, by RFC 7519."""
    claims = {"sub": localpart, "exp": int(time.time()) + 600}
    parts = [_encoded(json.dumps(part).encode()) for part in ({"alg": "HS512"}, claims)]
    signature = hmac.new(SECRET.encode(), ".".join(parts).encode(), hashlib.sha512).digest()
    return ".".join([*parts, _encoded(signature)])


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def login_by_token(deployment: Deployment, localpart: str, device_id: str) -> Session:
    somebody = deployment.register()
    answer = somebody.call(
        "POST",
        "/_matrix/client/v3/login",
        {
            "type": "com.famedly.login.token",
            "identifier": {"type": "m.id.user", "user": localpart},
            "token": signed(localpart),
            "device_id": device_id,
        },
        token=False,
    )
    somebody.user_id, somebody.device_id = answer["user_id"], answer["device_id"]
    somebody.access_token = answer["access_token"]
    return somebody


@pytest.fixture(scope="module")
def ldap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JsonDict]:
    directory: Path = tmp_path_factory.mktemp("ldap")
    with serve_ldap(directory) as port:
        yield ldap_module(port)


@pytest.fixture(scope="module", params=[True, False], ids=["ours first", "ours last"])
def neighbours(
    request: pytest.FixtureRequest,
    make_deployment: FreshDeployment,
    ldap: JsonDict,
) -> Iterator[Deployment]:
    auto_accept = {"module": "synapse_auto_accept_invite.InviteAutoAccepter", "config": {}}
    tokens = {
        "module": "synapse_token_authenticator.TokenAuthenticator",
        "config": {"jwt": {"secret": SECRET}},
    }
    others = [ldap, auto_accept, tokens]
    modules = [OURS, *others] if request.param else [*others, OURS]
    deployment = make_deployment("sqlite", with_module=False, further_modules=modules)
    yield deployment
    deployment.stop()
    deployment.assert_log_is_clean()


def test_all_of_them_do_their_job(neighbours: Deployment, gateway: Gateway) -> None:
    # LDAP's, as nobody here knows the password; and that of tokens.
    phone = neighbours.homeserver.login(PERSON, "PHONE", password=PERSON_PASSWORD)
    desktop = login_by_token(neighbours, PERSON, "DESKTOP")
    alice = neighbours.register()

    # That of whoever accepts invites; a rule of the device rings for the invite all the same.
    invites = {"kind": "event_match", "key": "content.membership", "pattern": "invite"}
    phone.put_rule("phone", "override", "invite", {"conditions": [invites], "actions": SIREN})
    on_phone, on_desktop = device(phone, gateway, ["phone", "global"]), device(desktop, gateway)
    room = alice.create_room(invite=[phone.user_id])
    rang = gateway.wait_for(lambda push: push.type == "m.room.member", pushkey=on_phone.pushkey)
    assert rang.tweaks == {"sound": "siren"}
    joined = "/_matrix/client/v3/joined_rooms"
    wait_until(lambda: room in phone.call("GET", joined)["joined_rooms"], "the invite accepted")

    # Ours.
    phone.put_rule("phone", "room", room, on_all(SILENT))
    phone.put_rule("phone", "override", "alarm", on_body("alarm", SIREN))
    dropped, alarm = alice.send(room, "dropped"), alice.send(room, "alarm")
    on_desktop.wait_for(alarm)
    assert on_phone.wait_for(alarm).tweaks == {"sound": "siren"}
    assert on_phone.event_ids() == [rang.event_id, alarm]
    assert on_desktop.event_ids()[-2:] == [dropped, alarm]

    # The switch, from the other session.
    stored = on_phone.stored()
    assert stored is not None
    desktop.call("POST", "/_matrix/client/v3/pushers/set", {**stored, "enabled": False})
    unheard = alice.send(room, "alarm")
    on_desktop.wait_for(unheard)
    on_phone.set(profile_tags=["phone", "global"])
    last = alice.send(room, "alarm")
    on_phone.wait_for(last)
    assert on_phone.event_ids() == [rang.event_id, alarm, last]
    for session in (phone, desktop):
        session.logout()
    assert neighbours.sql("SELECT 1 FROM pushers") == []
