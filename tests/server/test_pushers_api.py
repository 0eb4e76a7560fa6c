# SPDX-License-Identifier: AGPL-3.0-or-later
"""The pushers API over HTTP: specification 1 and 2."""

import re
import secrets
from collections.abc import Callable
from typing import Any

import attr
import pytest

from demo.client import JsonDict, Session, path
from demo.homeserver import PASSWORD
from tests.conftest import FreshDeployment
from tests.harness.deployment import Deployment
from tests.server.helpers import (
    APP,
    NOWHERE,
    SET_PUSHER,
    assert_ok,
    assert_refused,
    get_pusher,
    pusher,
    set_pusher,
    stored,
)

ENABLED = ("enabled", "org.matrix.msc3881.enabled")
DEVICE_ID = ("device_id", "org.matrix.msc3881.device_id")
PROFILE_TAGS = ("profile_tags", "org.matrix.msc3837.profile_tags")
AS_READ = "org.matrix.msc3881.as_read"
FLAGS = ("org.matrix.msc3881", "org.matrix.msc3881.stable", "org.matrix.msc3837")

# A name that a request leaves out, or a pusher that is not there yet.
NONE: Any = object()


def fields(names: tuple[str, str], stable: object, unstable: object) -> JsonDict:
    """A field of a request under both its names, or those that are not NONE."""
    given = zip(names, (stable, unstable), strict=True)
    return {name: value for name, value in given if value is not NONE}


def values(shown: JsonDict, names: tuple[str, str]) -> Any:
    """What `GET /pushers` shows under both names of a field, which must be the same."""
    first, second = (shown.get(name, NONE) for name in names)
    assert first == second, f"{names}: {shown}"
    return first


@pytest.fixture(scope="module")
def keeping(module_deployment: FreshDeployment) -> Deployment:
    """A server of this file's own, with every option set that could make a difference."""
    return module_deployment(
        module_config={"keep_omitted": True, "limits": {"profile_tags_per_pusher": 2}},
        extra={"experimental_features": {"msc3881_enabled": True}},
    )


# What clients see


def test_versions_tells_of_the_proposals_with_and_without_a_token(alice: Session) -> None:
    for token in (True, False):
        features = alice.call("GET", "/_matrix/client/versions", token=token)["unstable_features"]
        assert {flag: features.get(flag) for flag in FLAGS} == dict.fromkeys(FLAGS, True)
        assert len(features) > len(FLAGS), "Synapse's own flags are still there"


def test_a_pusher_is_shown_with_both_names_of_every_field(alice: Session) -> None:
    assert_ok(set_pusher(alice))
    shown = get_pusher(alice)
    assert shown == {
        **pusher(),
        "profile_tag": "",
        **fields(ENABLED, True, True),
        **fields(DEVICE_ID, alice.device_id, alice.device_id),
        **fields(PROFILE_TAGS, ["global"], ["global"]),
        AS_READ: {"enabled": True, "profile_tags": ["global"]},
    }


@pytest.mark.parametrize("prefix", ["api/v1", "r0", "v3", "unstable"])
def test_both_endpoints_answer_under_every_prefix(alice: Session, prefix: str) -> None:
    where = f"/_matrix/client/{prefix}/pushers"
    assert_ok(alice.request("POST", f"{where}/set", pusher(enabled=False)))
    (shown,) = alice.call("GET", where)["pushers"]
    assert values(shown, ENABLED) is False
    head = alice.request("HEAD", where)
    assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize(
    ("names", "value"), [(ENABLED, False), (PROFILE_TAGS, ["b", "global", "a/b c"])]
)
def test_a_field_is_read_from_either_name(
    alice: Session, names: tuple[str, str], value: object
) -> None:
    for name in names:
        assert_ok(set_pusher(alice, name, **{name: value}))
        assert values(get_pusher(alice, name), names) == value


def test_a_device_id_in_the_request_is_not_read(alice: Session) -> None:
    assert_ok(set_pusher(alice, **fields(DEVICE_ID, "OTHER", "OTHER")))
    assert values(get_pusher(alice), DEVICE_ID) == alice.device_id


def test_the_old_profile_tag_is_kept_and_otherwise_ignored(alice: Session) -> None:
    assert_ok(set_pusher(alice, profile_tag="phone"))
    shown = get_pusher(alice)
    assert (shown["profile_tag"], values(shown, PROFILE_TAGS)) == ("phone", ["global"])


# The echo rule

DEFAULT = ["global"]

ECHO_OF_ENABLED = [
    # as read, stable name, unstable name, result
    (NONE, NONE, NONE, True),
    (NONE, True, NONE, True),
    (NONE, NONE, True, True),
    (NONE, False, NONE, False),
    (NONE, NONE, False, False),
    (NONE, True, True, True),
    (NONE, True, False, False),
    (NONE, False, True, True),
    (NONE, False, False, False),
    (True, NONE, NONE, True),
    (True, False, NONE, False),
    (True, NONE, False, False),
    (True, True, True, True),
    (True, True, False, False),
    (True, False, True, False),
    (True, False, False, False),
    (False, NONE, NONE, True),
    (False, True, NONE, True),
    (False, NONE, True, True),
    (False, True, True, True),
    (False, True, False, True),
    (False, False, True, True),
    (False, False, False, False),
]

ECHO_OF_PROFILE_TAGS = [
    # as read, stable name, unstable name, result
    (NONE, NONE, NONE, DEFAULT),
    (NONE, ["b"], NONE, ["b"]),
    (NONE, NONE, ["b"], ["b"]),
    (NONE, [], [], DEFAULT),
    (NONE, [], ["b"], ["b"]),
    (NONE, ["b"], [], DEFAULT),
    (NONE, ["b"], ["c"], ["c"]),
    (NONE, DEFAULT, ["b"], ["b"]),
    (NONE, ["b"], DEFAULT, DEFAULT),
    (["a"], NONE, NONE, DEFAULT),
    (["a"], ["a"], NONE, ["a"]),
    (["a"], NONE, ["b"], ["b"]),
    (["a"], ["a"], ["a"], ["a"]),
    (["a"], ["b"], ["b"], ["b"]),
    (["a"], ["a"], ["b"], ["b"]),
    (["a"], ["b"], ["a"], ["b"]),
    (["a"], ["b"], ["c"], ["b"]),
    (["a"], ["a"], [], DEFAULT),
    (["a"], [], ["a"], DEFAULT),
    (["a"], [], ["b"], DEFAULT),
    (["a"], ["b"], [], ["b"]),
    # Duplicates and an empty list mean the same in what was read, too.
    (["a"], ["a", "a"], ["b"], ["b"]),
    (["a", "a"], ["a"], ["b"], ["b"]),
    ([], DEFAULT, ["b"], ["b"]),
    (DEFAULT, [], ["b"], ["b"]),
    (["a", "b"], ["a", "b"], ["b", "a"], ["b", "a"]),
    # More tags than a pusher may have, or than may be: what was read is not checked.
    (list("abcdefghijklmn"), ["a"], ["b"], ["a"]),
    (["a" * 300, ""], ["a"], ["b"], ["a"]),
]

STORED: list[JsonDict] = [
    {"enabled": True, "profile_tags": ["a"]},
    {"enabled": False, "profile_tags": ["b"]},
    {"enabled": False},
]


@pytest.mark.parametrize(
    ("names", "table"), [(ENABLED, ECHO_OF_ENABLED), (PROFILE_TAGS, ECHO_OF_PROFILE_TAGS)]
)
def test_of_two_names_the_one_that_differs_from_what_was_read_is_the_change(
    alice: Session, names: tuple[str, str], table: list[tuple[Any, Any, Any, Any]]
) -> None:
    """Whatever is stored, and a second time too."""
    as_stored = {"enabled": True, "profile_tags": DEFAULT}
    for number, (as_read, stable, unstable, result) in enumerate(table):
        body = fields(names, stable, unstable)
        if as_read is not NONE:
            body[AS_READ] = {**as_stored, names[0]: as_read}
        for before in STORED:
            key = f"key{number % 3}"
            assert_ok(set_pusher(alice, key, **before))
            for _ in range(2):
                assert_ok(set_pusher(alice, key, **body))
                assert values(get_pusher(alice, key), names) == result, (before, body)


MALFORMED: list[Any] = [
    None,
    5,
    "enabled",
    [],
    {},
    {"enabled": True},
    {"profile_tags": ["a"]},
    {"enabled": 1, "profile_tags": ["a"]},
    {"enabled": "true", "profile_tags": ["a"]},
    {"enabled": None, "profile_tags": ["a"]},
    {"enabled": True, "profile_tags": "a"},
    {"enabled": True, "profile_tags": None},
    {"enabled": True, "profile_tags": ["a", 5]},
    {"enabled": True, "profile_tags": {"a": 1}},
]


def test_what_was_read_counts_as_none_where_it_is_malformed(alice: Session) -> None:
    """The unstable name is the change then. A well-formed one makes it the stable name."""
    both = {**fields(ENABLED, False, True), **fields(PROFILE_TAGS, ["b"], ["a"])}
    well_formed = {"enabled": True, "profile_tags": ["a"], "more": 1}
    for as_read in [*MALFORMED, NONE, well_formed]:
        body = both if as_read is NONE else {**both, AS_READ: as_read}
        assert_ok(set_pusher(alice, **body), body)
        shown = get_pusher(alice)
        meant = (False, ["b"]) if as_read is well_formed else (True, ["a"])
        assert (values(shown, ENABLED), values(shown, PROFILE_TAGS)) == meant, as_read


def test_two_clients_with_an_old_list_and_a_repeat_all_mean_what_they_say(
    deployment: Deployment, alice: Session
) -> None:
    desktop = deployment.login(alice, "DESKTOP")
    assert_ok(set_pusher(alice))
    old = get_pusher(desktop)
    off = {**old, "org.matrix.msc3881.enabled": False}
    for session in (desktop, alice, desktop, desktop):
        assert_ok(session.request("POST", SET_PUSHER, off))
        assert values(get_pusher(alice), ENABLED) is False
    for name in PROFILE_TAGS * 2:
        assert_ok(desktop.request("POST", SET_PUSHER, {**old, name: ["desk"]}))
        assert values(get_pusher(alice), PROFILE_TAGS) == ["desk"]


def test_another_session_toggles_a_pusher_as_matrix_js_sdk_does(
    deployment: Deployment, alice: Session
) -> None:
    """`cli.setPusher({...pusher, "org.matrix.msc3881.enabled": enabled})`."""
    phone = deployment.login(alice, "PHONE")
    assert_ok(set_pusher(phone, profile_tags=["phone", "global"], profile_tag="old"))
    registered = get_pusher(phone)

    for enabled in (False, True, False):
        echo = {**get_pusher(alice), "org.matrix.msc3881.enabled": enabled}
        assert_ok(alice.request("POST", SET_PUSHER, echo))
        assert get_pusher(phone) == {
            **registered,
            **fields(ENABLED, enabled, enabled),
            AS_READ: {**registered[AS_READ], "enabled": enabled},
        }


def test_the_pusher_is_of_the_device_that_registered_it_first(
    deployment: Deployment, alice: Session
) -> None:
    phone, tablet = deployment.login(alice, "PHONE"), deployment.login(alice, "TABLET")
    assert_ok(set_pusher(phone))
    assert_ok(set_pusher(tablet, lang="fr"))
    shown = get_pusher(alice)
    assert (shown["lang"], values(shown, DEVICE_ID)) == ("fr", "PHONE")

    tablet.logout()
    assert get_pusher(alice) == shown
    phone.logout()
    assert alice.get_pushers() == []
    assert stored(deployment, alice)[:2] == [[], []]


def test_the_device_id_is_left_out_where_it_is_not_known(deployment: Deployment) -> None:
    """A token that an administrator makes for a user has no device."""
    user = deployment.register()
    admin = deployment.homeserver.register(f"admin-{secrets.token_hex(5)}", admin=True)
    where = f"/_synapse/admin/v1/users/{user.user_id}/login"
    without_device = deployment.login(user, "TEMPORARY")
    without_device.access_token = admin.call("POST", where, {})["access_token"]
    assert "device_id" not in without_device.whoami()

    assert_ok(set_pusher(without_device, enabled=False, profile_tags=["x"]))
    assert_ok(set_pusher(user, "other"))
    unknown, known = get_pusher(user), get_pusher(user, "other")
    assert values(unknown, DEVICE_ID) is NONE
    assert (values(unknown, ENABLED), values(unknown, PROFILE_TAGS)) == (False, ["x"])
    assert values(known, DEVICE_ID) == user.device_id

    assert_ok(set_pusher(user, enabled=True))
    assert values(get_pusher(user), DEVICE_ID) is NONE, "an update does not make it this device's"


# Kept, and omitted


def test_an_update_that_omits_the_fields_resets_them(alice: Session) -> None:
    assert_ok(set_pusher(alice, enabled=False, profile_tags=["a"]))
    assert_ok(set_pusher(alice))
    shown = get_pusher(alice)
    assert (values(shown, ENABLED), values(shown, PROFILE_TAGS)) == (True, ["global"])


def test_what_an_omission_undoes_is_counted_by_field(
    deployment: Deployment, alice: Session
) -> None:
    def undone() -> list[float]:
        pattern = r'^synapse_msc3881_undone_by_omission_total\{field="%s",.*\} (\S+)$'
        text = deployment.metrics()
        return [
            sum(float(count) for count in re.findall(pattern % field, text, re.MULTILINE))
            for field in ("enabled", "profile_tags")
        ]

    before = undone()
    steps: list[tuple[JsonDict, list[int]]] = [
        ({}, [0, 0]),  # made
        ({}, [0, 0]),  # the defaults
        ({"enabled": False, "profile_tags": ["a"]}, [0, 0]),
        ({"enabled": False, "profile_tags": []}, [0, 0]),  # said, not omitted
        ({"profile_tags": ["a"]}, [1, 0]),
        ({"enabled": False}, [0, 1]),
        ({"enabled": False, "profile_tags": ["a"]}, [0, 0]),
        ({"data": {}}, [0, 0]),  # refused
        ({}, [1, 1]),
    ]
    for body, more in steps:
        set_pusher(alice, **body)
        before = [count + step for count, step in zip(before, more, strict=True)]
        assert undone() == before, body


def test_keep_omitted_keeps_what_an_update_omits(keeping: Deployment) -> None:
    user = keeping.register()

    def state() -> tuple[Any, Any]:
        shown = get_pusher(user)
        return values(shown, ENABLED), values(shown, PROFILE_TAGS)

    updates: list[tuple[JsonDict, tuple[bool, list[str]]]] = [
        ({}, (True, ["global"])),
        ({"enabled": False, "profile_tags": ["a"]}, (False, ["a"])),
        ({}, (False, ["a"])),
        ({"profile_tags": ["b"]}, (False, ["b"])),
        ({"org.matrix.msc3881.enabled": True}, (True, ["b"])),
        ({"enabled": True, "org.matrix.msc3881.enabled": False}, (False, ["b"])),
        # An empty list is not an omitted one.
        ({"org.matrix.msc3837.profile_tags": []}, (False, ["global"])),
    ]
    for update, result in updates:
        assert_ok(set_pusher(user, **update), update)
        assert state() == result, update

    user.delete_pusher("key", APP)
    assert_ok(set_pusher(user))
    assert state() == (True, ["global"]), "a pusher made anew has nothing to keep"
    undone = re.findall(r"undone_by_omission_total\S+ (\S+)", keeping.metrics())
    assert len(undone) == 2
    assert set(map(float, undone)) == {0.0}, "what is kept is not undone"


def test_synapses_own_switch_for_msc3881_changes_nothing(keeping: Deployment) -> None:
    user = keeping.register()
    assert_ok(set_pusher(user, **{"org.matrix.msc3881.enabled": False}))
    shown = get_pusher(user)
    assert values(shown, ENABLED) is False
    assert values(shown, DEVICE_ID) == user.device_id
    assert_ok(set_pusher(user, enabled=True))
    assert values(get_pusher(user), ENABLED) is True
    assert_refused(set_pusher(user, **{"org.matrix.msc3881.enabled": "no"}), 400, "M_INVALID_PARAM")


def test_the_limit_of_profile_tags_can_be_configured(keeping: Deployment) -> None:
    user = keeping.register()
    assert_ok(set_pusher(user, profile_tags=["a", "b", "a"]))
    refused = set_pusher(user, profile_tags=["a", "b", "c"])
    assert_refused(refused, 400, "M_INVALID_PARAM", names="at most 2")


def test_pushers_are_the_same_after_a_restart(keeping: Deployment) -> None:
    user = keeping.register()
    assert_ok(set_pusher(user, "on", profile_tags=["a/b", "global"]))
    assert_ok(set_pusher(user, "off", enabled=False))
    assert_ok(set_pusher(user, "both", enabled=False, profile_tags=["é"]))
    before = user.get_pushers()
    assert len(before) == 3
    keeping.restart()
    assert user.get_pushers() == before


def test_a_pusher_from_before_the_module_is_enabled(deployment: Deployment, alice: Session) -> None:
    assert_ok(set_pusher(alice, enabled=False))
    deployment.sql("UPDATE pushers SET enabled = NULL WHERE user_name = ?", [alice.user_id])
    shown = get_pusher(alice)
    assert (values(shown, ENABLED), values(shown, PROFILE_TAGS)) == (True, ["global"])

    echo = {**shown, "org.matrix.msc3881.enabled": False}
    assert_ok(alice.request("POST", SET_PUSHER, echo))
    assert values(get_pusher(alice), ENABLED) is False


# Removed


def test_kind_null_removes_the_pusher_with_its_tags(deployment: Deployment, alice: Session) -> None:
    assert_ok(set_pusher(alice, enabled=False, profile_tags=["a"]))
    # No other field is looked at, and a pusher that is not there may be removed too.
    for body in (
        {"pushkey": "other", "app_id": APP, "kind": None},
        {"pushkey": "key", "app_id": APP, "kind": None, "enabled": 5, "profile_tags": 5},
        {"pushkey": "key", "app_id": APP, "kind": None},
    ):
        assert_ok(alice.request("POST", SET_PUSHER, body))
    assert alice.get_pushers() == []
    assert stored(deployment, alice) == [[], [], [], []]

    assert_ok(set_pusher(alice))
    shown = get_pusher(alice)
    assert (values(shown, ENABLED), values(shown, PROFILE_TAGS)) == (True, ["global"])


def test_nobody_removes_the_pusher_of_another_user(alice: Session, bob: Session) -> None:
    assert_ok(set_pusher(alice, profile_tags=["a"]))
    bob.delete_pusher("key", APP)
    assert values(get_pusher(alice), PROFILE_TAGS) == ["a"]


@attr.s(auto_attribs=True, frozen=True)
class SharedPhone:
    """One phone with two accounts, Alice's and Bob's, and a desktop of Alice's."""

    pushkey: str
    alice: Session
    desktop: Session
    bob: Session

    def who_has_it(self) -> str:
        """Their initials."""
        return "".join(
            name
            for name, session in (("a", self.alice), ("b", self.bob))
            if any(shown["pushkey"] == self.pushkey for shown in session.get_pushers())
        )


@pytest.fixture
def shared_phone(deployment: Deployment, alice: Session, bob: Session) -> SharedPhone:
    pushkey = f"shared-{secrets.token_hex(5)}"
    shared = SharedPhone(pushkey, alice, deployment.login(alice, "DESKTOP"), bob)
    assert_ok(set_pusher(alice, pushkey))
    assert_ok(set_pusher(bob, pushkey, append=True))
    assert shared.who_has_it() == "ab"
    return shared


@pytest.mark.parametrize("append", [NONE, None, False, True])
def test_a_change_from_another_session_leaves_the_other_account_its_pusher(
    shared_phone: SharedPhone, append: object
) -> None:
    """It knows nothing of who holds the phone, and `GET` does not return `append`."""
    echo = get_pusher(shared_phone.desktop, shared_phone.pushkey)
    change = {**echo, "org.matrix.msc3881.enabled": False}
    if append is not NONE:
        change["append"] = append
    assert_ok(shared_phone.desktop.request("POST", SET_PUSHER, change))
    assert shared_phone.who_has_it() == "ab"
    assert values(get_pusher(shared_phone.alice, shared_phone.pushkey), ENABLED) is False


@pytest.mark.parametrize(("append", "left"), [(NONE, "a"), (None, "a"), (False, "a"), (True, "ab")])
def test_the_phone_itself_takes_the_pushkey_unless_it_appends(
    shared_phone: SharedPhone, append: object, left: str
) -> None:
    given = {} if append is NONE else {"append": append}
    assert_ok(set_pusher(shared_phone.alice, shared_phone.pushkey, **given))
    assert shared_phone.who_has_it() == left


def test_a_request_that_makes_the_pusher_takes_the_pushkey_from_whichever_session(
    shared_phone: SharedPhone,
) -> None:
    shared_phone.alice.delete_pusher(shared_phone.pushkey, APP)
    assert_ok(set_pusher(shared_phone.desktop, shared_phone.pushkey))
    assert shared_phone.who_has_it() == "a"


def test_where_the_pushers_device_is_not_known_any_session_takes_the_pushkey(
    deployment: Deployment, shared_phone: SharedPhone
) -> None:
    where = "WHERE user_name = ? AND pushkey = ?"
    of_alice = [shared_phone.alice.user_id, shared_phone.pushkey]
    deployment.sql(f"UPDATE pushers SET device_id = NULL {where}", of_alice)
    assert_ok(set_pusher(shared_phone.desktop, shared_phone.pushkey))
    assert shared_phone.who_has_it() == "a"


def test_a_refused_request_takes_nothing_from_the_other_account(shared_phone: SharedPhone) -> None:
    refused: list[JsonDict] = [{"enabled": 5}, {"data": {}}, {"append": "no"}]
    for bad in refused:
        response = set_pusher(shared_phone.alice, shared_phone.pushkey, **bad)
        assert response.status == 400
        assert shared_phone.who_has_it() == "ab"


def test_append_leaves_the_same_pushkey_to_other_users(
    deployment: Deployment, alice: Session, bob: Session
) -> None:
    pushkey = f"shared-{secrets.token_hex(5)}"
    assert_ok(set_pusher(alice, pushkey, profile_tags=["a"]))
    assert_ok(set_pusher(bob, pushkey, profile_tags=["b"], append=True))
    assert values(get_pusher(alice, pushkey), PROFILE_TAGS) == ["a"]
    assert values(get_pusher(bob, pushkey), PROFILE_TAGS) == ["b"]

    assert_ok(set_pusher(bob, pushkey, profile_tags=["b"], append=False))
    assert alice.get_pushers() == []
    assert stored(deployment, alice) == [[], [], [], []]
    assert values(get_pusher(bob, pushkey), PROFILE_TAGS) == ["b"]


def test_a_deactivated_user_leaves_neither_pushers_nor_tags(
    deployment: Deployment, alice: Session
) -> None:
    assert_ok(set_pusher(alice, profile_tags=["a"]))
    alice.deactivate(PASSWORD)
    assert stored(deployment, alice)[:2] == [[], []]


# Refused

BYTES_255 = "€" * 85
BYTES_256 = "€" * 85 + "a"

ACCEPTED_TAGS: list[tuple[str, list[str], list[str]]] = [
    ("no tag", [], ["global"]),
    ("ten tags", list("abcdefghij"), list("abcdefghij")),
    ("a hundred tags, one of them ten times", [*"abcdefghij"] * 10, [*"abcdefghij"]),
    ("duplicates, of which the first counts", ["b", "a", "b", "global", "a"], ["b", "a", "global"]),
    ("255 bytes of ASCII", ["a" * 255], ["a" * 255]),
    ("255 bytes in 85 characters", [BYTES_255], [BYTES_255]),
    ("what is no control character", [" ", "\xa0", "\u2028", "\u202e", "a/b", "..", "%2F"], NONE),
    ("what only looks equal", ["é", "e\u0301", "GLOBAL", "global "], NONE),
    ("a character beyond the basic plane", ["📱"], ["📱"]),
]

REFUSED_TAGS: list[tuple[str, object, str]] = [
    ("eleven tags", list("abcdefghijk"), "at most 10"),
    ("a hundred and one tags, all the same", ["a"] * 101, ""),
    ("an empty tag", ["a", ""], "empty"),
    ("256 bytes of ASCII", ["a" * 256], "255 bytes"),
    ("256 bytes in 86 characters", [BYTES_256], "255 bytes"),
    ("a null character", ["a\0b"], "control character"),
    ("a line feed", ["a\nb"], "control character"),
    ("the last of the C0 controls", ["\x1f"], "control character"),
    ("delete", ["\x7f"], "control character"),
    ("the first of the C1 controls", ["\x80"], "control character"),
    ("the last of the C1 controls", ["\x9f"], "control character"),
    ("a lone surrogate", ["\ud800"], ""),
    ("a pair of surrogates in the wrong order", ["\udc00\ud800"], ""),
    ("null", None, "list"),
    ("a string", "global", "list"),
    ("an object", {"0": "global"}, "list"),
    ("a number", 5, "list"),
    ("a boolean", False, "list"),
    ("null in the list", ["a", None], "string"),
    ("a number in the list", [1], "string"),
    ("a boolean in the list", [True], "string"),
    ("a list in the list", [["a"]], "string"),
    ("an object in the list", [{}], "string"),
]

NOT_BOOLEAN: list[Any] = [None, "true", "", 0, 1, 0.0, [], [True], {}]


@pytest.mark.parametrize("name", PROFILE_TAGS)
def test_profile_tags_up_to_the_limits_are_taken(alice: Session, name: str) -> None:
    for what, tags, result in ACCEPTED_TAGS:
        assert_ok(set_pusher(alice, **{name: tags}), what)
        expected = tags if result is NONE else result
        assert values(get_pusher(alice), PROFILE_TAGS) == expected, what


@pytest.fixture
def assert_all_refused(deployment: Deployment, alice: Session, bob: Session) -> Callable[..., None]:
    """Call it with the fields of a bad request: it must be refused and change nothing.

    Neither for a pusher that exists, nor for a new one, nor for another user's of that name.
    """
    assert_ok(set_pusher(alice, "old", enabled=False, profile_tags=["a"], lang="de"))
    assert_ok(set_pusher(bob, "new", profile_tags=["b"]))
    before, shown = stored(deployment, alice, bob), alice.get_pushers()
    assert [len(rows) for rows in before] == [2, 2, 0, 0]

    def assert_all_refused(errcode: str, what: str, names: str = "", **bad: Any) -> None:
        for pushkey in (bad.get("pushkey", "old"), bad.get("pushkey", "new")):
            body = {
                name: value
                for name, value in {**pusher(lang="fr"), "pushkey": pushkey, **bad}.items()
                if value is not NONE
            }
            response = alice.request("POST", SET_PUSHER, body)
            assert_refused(response, 400, errcode, names=names, what=what)
        assert stored(deployment, alice, bob) == before, what
        assert alice.get_pushers() == shown, what

    return assert_all_refused


@pytest.mark.parametrize("name", PROFILE_TAGS)
def test_bad_profile_tags_are_refused_and_nothing_is_stored(
    assert_all_refused: Callable[..., None], name: str
) -> None:
    for what, tags, problem in REFUSED_TAGS:
        assert_all_refused("M_INVALID_PARAM", what, f"'{name}'", **{name: tags})
        assert_all_refused("M_INVALID_PARAM", what, problem, **{name: tags, "enabled": True})


def test_a_bad_name_is_refused_beside_a_good_one(assert_all_refused: Callable[..., None]) -> None:
    assert_all_refused("M_INVALID_PARAM", "enabled", ENABLED[1], **fields(ENABLED, True, "yes"))
    assert_all_refused("M_INVALID_PARAM", "enabled", ENABLED[0], **fields(ENABLED, None, True))
    assert_all_refused(
        "M_INVALID_PARAM", "tags", PROFILE_TAGS[1], **fields(PROFILE_TAGS, ["c"], [""])
    )
    assert_all_refused(
        "M_INVALID_PARAM", "tags", PROFILE_TAGS[0], **fields(PROFILE_TAGS, "c", ["c"])
    )


@pytest.mark.parametrize("name", ENABLED)
def test_enabled_must_be_a_boolean(assert_all_refused: Callable[..., None], name: str) -> None:
    for value in NOT_BOOLEAN:
        assert_all_refused("M_INVALID_PARAM", f"{value!r}", f"'{name}'", **{name: value})


def test_what_synapse_refuses_is_refused_and_nothing_is_stored(
    assert_all_refused: Callable[..., None],
) -> None:
    good = {"enabled": True, "profile_tags": ["c"]}
    required = ("kind", "app_display_name", "device_display_name", "lang", "data")
    for name in required:
        assert_all_refused("M_MISSING_PARAM", f"no {name}", name, **good, **{name: NONE})
    for data in ({}, {"url": "http://127.0.0.1:1/elsewhere"}, {"url": 5}):
        assert_all_refused("M_MISSING_PARAM", f"data {data}", **good, data=data)
    assert_all_refused(
        "M_THREEPID_NOT_FOUND", "e-mail", **good, kind="email", pushkey="a@example.org"
    )


def test_a_pusher_from_before_with_a_longer_name_can_be_turned_off(
    deployment: Deployment, alice: Session
) -> None:
    """Nothing of it is refused that is as it is stored."""
    assert_ok(set_pusher(alice))
    long = "a" * 300
    deployment.sql("UPDATE pushers SET app_id = ? WHERE user_name = ?", [long, alice.user_id])
    assert_ok(set_pusher(alice, app_id=long, enabled=False))
    assert values(get_pusher(alice), ENABLED) is False
    refused = set_pusher(alice, "another", app_id=long)
    assert_refused(refused, 400, "M_INVALID_PARAM", names="'app_id'")


def test_other_fields_of_a_wrong_type_are_refused_by_name(
    assert_all_refused: Callable[..., None],
) -> None:
    names = ("kind", "app_id", "app_display_name", "device_display_name", "pushkey", "profile_tag")
    for name in names:
        for value in (5, True, ["a"], {"a": 1}, "a\0b", "\ud800"):
            assert_all_refused("M_INVALID_PARAM", f"{name} {value!r}", f"'{name}'", **{name: value})
    assert_all_refused("M_INVALID_PARAM", "append", "'append'", append="yes")
    assert_all_refused("M_INVALID_PARAM", "data", "'data'", data=[NOWHERE])
    assert_all_refused("M_INVALID_PARAM", "lang", "'lang'", lang=5)


def test_the_checks_come_in_the_documented_order(alice: Session) -> None:
    """Each request here is bad in every later way too."""
    bad = {"enabled": "yes", "profile_tags": "a", "data": {}}
    without_kind = {name: value for name, value in pusher(**bad).items() if name != "kind"}
    steps: list[tuple[str, Any, int, str]] = [
        ("no token", b"{", 401, "M_MISSING_TOKEN"),
        ("not JSON", b"{", 400, "M_NOT_JSON"),
        ("no object", b"[]", 400, "M_BAD_JSON"),
        ("a field is missing", without_kind, 400, "M_MISSING_PARAM"),
        ("bad fields", pusher(**bad), 400, "M_INVALID_PARAM"),
        ("bad for Synapse", pusher(data={}), 400, "M_MISSING_PARAM"),
    ]
    for what, body, status, errcode in steps:
        raw = body if isinstance(body, bytes) else None
        response = alice.request("POST", SET_PUSHER, body, raw_body=raw, token=status != 401)
        assert_refused(response, status, errcode, what=what)
    assert alice.get_pushers() == []


def test_without_a_token_there_is_nothing_to_see(alice: Session) -> None:
    assert_refused(alice.request("GET", path("pushers"), token=False), 401, "M_MISSING_TOKEN")
    stranger = {"Authorization": "Bearer nobody"}
    assert_refused(alice.request("GET", path("pushers"), headers=stranger), 401, "M_UNKNOWN_TOKEN")


# Without the new fields


def test_requests_without_the_new_fields_are_answered_as_without_the_module(
    deployment: Deployment, fresh_deployment: FreshDeployment
) -> None:
    """Request by request: status, code, and what both accounts of the phone see afterwards."""
    servers = [deployment, fresh_deployment(with_module=False)]
    users = [[server.register(device_id="PHONE") for _ in range(2)] for server in servers]
    desktops = [
        server.login(pair[0], "DESKTOP") for server, pair in zip(servers, users, strict=True)
    ]
    new = (*ENABLED, *DEVICE_ID, *PROFILE_TAGS, AS_READ)

    def seen(session: Session) -> list[JsonDict]:
        pushers = [
            {name: value for name, value in shown.items() if name not in new}
            for shown in session.get_pushers()
        ]
        return sorted(pushers, key=lambda shown: str(shown["pushkey"]))

    key = f"compared-{secrets.token_hex(4)}"
    bodies: list[tuple[int, JsonDict]] = [
        (0, pusher(key)),
        (0, pusher(key, lang="fr", app_display_name="")),
        (0, pusher(key, profile_tag="phone", device_display_name="é")),
        (1, pusher(key, append=True)),
        (0, pusher(key, append=True)),
        (1, pusher(key, append=False)),
        (0, pusher(key)),
        (0, pusher(f"{key}-2", app_id="other")),
        (0, pusher(key, data={})),
        (0, pusher(key, data=None)),
        (0, pusher(key, data={"url": 5})),
        (0, pusher(key, data={"url": "http://127.0.0.1:1/elsewhere"})),
        (0, pusher(key, data={"url": NOWHERE, "format": "event_id_only", "x": [1, None]})),
        (0, pusher("nobody@example.org", kind="email", app_id="m.email", data={})),
        (0, {"kind": None, "app_id": APP, "pushkey": "never there"}),
        (1, {"kind": None, "app_id": APP, "pushkey": key}),
        (0, {"kind": None, "app_id": APP, "pushkey": key}),
        (0, {"kind": "http", "app_id": APP}),
        (0, {"kind": None, "pushkey": key}),
        (0, {}),
    ]
    for number, (who, body) in enumerate(bodies):
        answers = [pair[who].request("POST", SET_PUSHER, body) for pair in users]
        ours, native = ((one.status, one.errcode) for one in answers)
        assert ours == native, f"request {number}: {body}"
        if ours[0] == 200:
            assert answers[0].json == answers[1].json
        for account in (0, 1):
            shown = [seen(pair[account]) for pair in users]
            assert shown[0] == shown[1], f"after request {number}: {body}"

    for pair in users:
        pair[0].logout()
    assert seen(desktops[0]) == seen(desktops[1]) == []
