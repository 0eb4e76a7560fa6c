# SPDX-License-Identifier: AGPL-3.0-or-later
"""A Synapse whose users sign in at a Matrix Authentication Service, which is an OAuth server.

All is as with passwords: who has a token of a device is that device (specification 1, 2, 6 and 9).
"""

from collections.abc import Iterator

import pytest

from demo.gateway import Behaviour, Gateway
from tests.conftest import FreshDeployment
from tests.harness.authentication_service import (
    TOKEN_SECONDS,
    AuthenticationService,
    Delegation,
    SignedIn,
)
from tests.harness.deployment import Deployment
from tests.harness.waiting import wait_until
from tests.server.cascade_helpers import (
    SILENT,
    SIREN,
    Device,
    device,
    on_all,
    on_body,
    rules_in_database,
    tags_in_database,
)
from tests.server.helpers import assert_refused, get_pusher, own_rules, set_pusher
from tests.server.own_settings_helpers import switch

#: Whose token it is does not depend on the database.
pytestmark = pytest.mark.one_deployment


@pytest.fixture(
    scope="module",
    params=[delegation for delegation in Delegation if delegation.is_known],
    ids=lambda delegation: delegation.value,
)
def service(
    request: pytest.FixtureRequest, module_deployment: FreshDeployment
) -> Iterator[AuthenticationService]:
    """The service, and the Synapse that delegates to it."""
    delegation: Delegation = request.param
    with AuthenticationService(delegation) as service:
        service.deployment = module_deployment(extra=service.options())
        yield service


@pytest.fixture
def deployment(service: AuthenticationService) -> Iterator[Deployment]:
    assert service.deployment is not None
    yield service.deployment
    service.deployment.assert_log_is_clean()


_names = iter(range(10_000))


@pytest.fixture
def localpart(deployment: Deployment) -> str:
    """A user of the test's own, as the service knows him."""
    del deployment
    return f"bob-{next(_names)}"


@pytest.fixture
def phone(service: AuthenticationService, localpart: str) -> SignedIn:
    return service.sign_in(localpart, "PHONEPHONE")


@pytest.fixture
def laptop(service: AuthenticationService, localpart: str) -> SignedIn:
    return service.sign_in(localpart, "LAPTOPLAPTOP")


class Sender:
    """Somebody else, and a room with a user in it."""

    def __init__(self, service: AuthenticationService, recipient: SignedIn) -> None:
        self.alice = service.sign_in("alice", "ALICEALICE").session
        self.room = self.alice.create_room(preset="public_chat")
        recipient.session.join(self.room)

    def send(self) -> str:
        return self.alice.send(self.room, "Hello")


def test_a_pusher_gets_the_device_of_the_token_and_keeps_it(
    phone: SignedIn, laptop: SignedIn
) -> None:
    assert set_pusher(phone.session, device_id="NONSENSE").ok
    for shown in (get_pusher(phone.session), get_pusher(laptop.session)):
        assert shown["device_id"] == "PHONEPHONE"
        assert shown["org.matrix.msc3881.device_id"] == "PHONEPHONE"
    # From another session, and with another token of its own.
    assert set_pusher(laptop.session, enabled=False).ok
    phone.refresh()
    assert set_pusher(phone.session, lang="de").ok
    assert get_pusher(laptop.session)["device_id"] == "PHONEPHONE"


def test_a_token_of_no_device_makes_a_pusher_of_no_device(
    service: AuthenticationService, localpart: str, phone: SignedIn
) -> None:
    bot = service.sign_in(localpart, None)
    assert set_pusher(bot.session, profile_tags=["x"]).ok
    shown = get_pusher(phone.session)
    assert "device_id" not in shown
    assert "org.matrix.msc3881.device_id" not in shown
    assert shown["profile_tags"] == ["x"]


def test_a_pusher_is_toggled_from_another_session(
    service: AuthenticationService, phone: SignedIn, laptop: SignedIn, gateway: Gateway
) -> None:
    sender = Sender(service, phone)
    phones, laptops = device(phone.session, gateway), device(laptop.session, gateway)
    # As clients do it: what they read, with one field changed.
    read = get_pusher(laptop.session, phones.pushkey)
    assert laptop.session.request(
        "POST", "/_matrix/client/v3/pushers/set", {**read, "enabled": False}
    ).ok
    unseen = sender.send()
    laptops.wait_for(unseen)

    read = get_pusher(laptop.session, phones.pushkey)
    assert read["enabled"] is False
    assert laptop.session.request(
        "POST", "/_matrix/client/v3/pushers/set", {**read, "enabled": True}
    ).ok
    seen = sender.send()
    phones.wait_for(seen)
    assert phones.event_ids() == [seen]


def test_device_rules_are_the_users_and_decide_for_the_pusher_that_lists_them(
    service: AuthenticationService, phone: SignedIn, laptop: SignedIn, gateway: Gateway
) -> None:
    sender = Sender(service, phone)
    laptop.session.put_rule("phone", "room", sender.room, on_all(SIREN))
    phones = device(phone.session, gateway, ["phone", "global"])
    laptops = device(laptop.session, gateway)
    event_id = sender.send()
    assert phones.wait_for(event_id).tweaks == {"sound": "siren"}
    assert laptops.wait_for(event_id).tweaks["sound"] == "default"
    assert "phone" in phone.session.get_rules()["device"]
    assert "device" not in sender.alice.get_rules()


def test_a_device_has_settings_of_its_own_for_each_of_its_tokens_and_until_it_goes(
    service: AuthenticationService, phone: SignedIn, laptop: SignedIn, gateway: Gateway
) -> None:
    sender = Sender(service, phone)
    phones, laptops = device(phone.session, gateway), device(laptop.session, gateway)
    switch(laptop.session, on=True, device_id="PHONEPHONE")
    phone.session.put_rule("global", "room", sender.room, on_all(SIREN))
    phone.refresh()
    phone.session.put_rule("global", "override", "more", on_body("nothing", SILENT))
    written = phone.session.get_rules("global")
    assert [rule["rule_id"] for rule in own_rules(written)["room"]] == [sender.room]
    assert [rule["rule_id"] for rule in own_rules(written)["override"]] == ["more"]
    assert not any(own_rules(laptop.session.get_rules("global")).values())
    assert "PHONEPHONE" in laptop.session.get_rules()["device"]

    event_id = sender.send()
    assert phones.wait_for(event_id).tweaks == {"sound": "siren"}
    assert laptops.wait_for(event_id).tweaks["sound"] == "default"

    phone.sign_out()
    assert "device" not in laptop.session.get_rules()
    assert laptops.wait_for(sender.send()).tweaks["sound"] == "default"


@pytest.mark.parametrize("by", ["the app", "the service"])
def test_logging_a_device_out_removes_its_pushers_and_tags_and_no_scope(
    by: str,
    service: AuthenticationService,
    deployment: Deployment,
    phone: SignedIn,
    laptop: SignedIn,
    gateway: Gateway,
) -> None:
    sender = Sender(service, phone)
    phone.session.put_rule("phone", "room", sender.room, on_all(SIREN))
    phones = device(phone.session, gateway, ["phone"])
    laptops = device(laptop.session, gateway, ["phone", "global"])

    if by == "the app":
        phone.sign_out()
    else:
        service.end_session(phone.session)

    assert_refused(set_pusher(phone.session), 401, "M_UNKNOWN_TOKEN")
    assert [shown["pushkey"] for shown in laptop.session.get_pushers()] == [laptops.pushkey]
    assert set(tags_in_database(deployment, laptop.session)) == {laptops.pushkey}
    assert "phone" in laptop.session.get_rules()["device"]
    assert laptops.wait_for(sender.send()).tweaks == {"sound": "siren"}
    assert phones.pushes() == []

    # The same device, signed in again, starts afresh.
    again = service.sign_in(phone.session.user_id[1:].partition(":")[0], "PHONEPHONE")
    anew = Device(again.session, phones.pushkey, gateway)
    anew.set()
    stored = anew.stored()
    assert stored is not None
    assert (stored["device_id"], stored["profile_tags"]) == ("PHONEPHONE", ["global"])


def test_a_token_that_expired_changes_nothing_and_its_pusher_goes_on(
    service: AuthenticationService, localpart: str, gateway: Gateway
) -> None:
    phone = service.sign_in(localpart, "PHONEPHONE")
    sender = Sender(service, phone)
    phones = device(phone.session, gateway, ["phone", "global"])
    service.token_seconds = 1
    try:
        phone.refresh()
    finally:
        service.token_seconds = TOKEN_SECONDS
    wait_until(
        lambda: phone.session.request("GET", "/_matrix/client/v3/pushers").status == 401,
        "the token's end",
    )
    refused = set_pusher(phone.session, phones.pushkey, enabled=False)
    assert_refused(refused, 401, "M_UNKNOWN_TOKEN")
    assert_refused(
        phone.session.request(
            "PUT", "/_matrix/client/v3/pushrules/device/phone/room/!a:b", on_all(SIREN)
        ),
        401,
        "M_UNKNOWN_TOKEN",
    )
    # It is the device's, and not the token's.
    phones.wait_for(sender.send())
    phone.refresh()
    stored = phones.stored()
    assert stored is not None
    assert (stored["device_id"], stored["enabled"]) == ("PHONEPHONE", True)
    assert stored["profile_tags"] == ["phone", "global"]
    assert "device" not in phone.session.get_rules()


def test_two_users_on_one_phone(
    service: AuthenticationService, localpart: str, phone: SignedIn, gateway: Gateway
) -> None:
    """The same app and pushkey, and devices of the same name."""
    other = service.sign_in(f"{localpart}-other", "PHONEPHONE")
    others_laptop = service.sign_in(f"{localpart}-other", "LAPTOPLAPTOP")
    phones = device(phone.session, gateway, ["phone", "global"])
    theirs = Device(other.session, phones.pushkey, gateway)
    theirs.set(profile_tags=["work"])
    phone.session.put_rule("phone", "room", "!a:b", on_all(SIREN))
    for mine, tags in ((phones, ["phone", "global"]), (theirs, ["work"])):
        stored = mine.stored()
        assert stored is not None
        assert stored["profile_tags"] == tags
    assert "device" not in other.session.get_rules()

    # A switch from elsewhere leaves the other account's alone; the phone's own request does not.
    assert set_pusher(others_laptop.session, phones.pushkey, enabled=False).ok
    assert phones.stored() is not None
    assert set_pusher(other.session, phones.pushkey).ok
    assert phones.stored() is None
    assert theirs.stored() is not None

    # Whoever logs out takes nothing of the other's along.
    phones.set()
    service.end_session(other.session)
    assert phones.stored() is not None
    assert others_laptop.session.get_pushers() == []


def test_a_rejected_pushkey_and_the_end_of_an_account(
    service: AuthenticationService,
    deployment: Deployment,
    phone: SignedIn,
    laptop: SignedIn,
    gateway: Gateway,
) -> None:
    sender = Sender(service, phone)
    phones, laptops = device(phone.session, gateway, ["a"]), device(laptop.session, gateway, ["b"])
    phone.session.put_rule("a", "room", sender.room, on_all(SIREN))
    gateway.behave(phones.pushkey, Behaviour.REJECT)
    sender.send()
    wait_until(lambda: phones.stored() is None, "the pusher's end")
    assert set(tags_in_database(deployment, phone.session)) == {laptops.pushkey}

    service.deactivate(phone.session)
    assert tags_in_database(deployment, phone.session) == {}
    assert rules_in_database(deployment, phone.session) == 0
